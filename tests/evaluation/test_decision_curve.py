"""Net benefit by hand, its relation to sensitivity, and its interval."""

import numpy as np
import pytest

from medvlad.evaluation.decision_curve import THRESHOLDS, decision_curve


def at(found, threshold, key="net_benefit"):
    return found[key][found["threshold"].index(threshold)]


def test_the_net_benefit_of_four_images_by_hand():
    """At 0.2 one false alarm costs a quarter of a right one: (2 - 1 / 4) / 4."""
    found = decision_curve(np.array([True, True, False, False]), np.array([0.9, 0.2, 0.3, 0.1]))
    assert at(found, 0.2) == pytest.approx((2 - 0.25) / 4)
    assert at(found, 0.5) == pytest.approx(1 / 4)
    assert at(found, 0.2, "all") == pytest.approx((2 - 2 * 0.25) / 4)


def test_perfect_probabilities_have_the_share_of_the_class_as_net_benefit(rng):
    own = rng.random(50) < 0.3
    found = decision_curve(own, own.astype(float))
    assert found["net_benefit"] == pytest.approx([own.mean()] * len(THRESHOLDS))


def test_acting_on_all_is_the_curve_of_probabilities_of_one(rng):
    own = rng.random(50) < 0.3
    found = decision_curve(own, np.ones(50))
    assert found["net_benefit"] == pytest.approx(found["all"])


def test_nobody_is_acted_on_if_no_probability_reaches_the_threshold(rng):
    found = decision_curve(rng.random(50) < 0.3, np.zeros(50))
    assert found["net_benefit"] == [0.0] * len(THRESHOLDS)
    assert found["low"] == found["high"] == [0.0] * len(THRESHOLDS)


def test_copies_of_images_of_a_patient_do_not_narrow_the_band(rng):
    own, p = rng.random(60) < 0.4, rng.random(60)
    once = decision_curve(own, p)
    copied = decision_curve(np.tile(own, 4), np.tile(p, 4), groups=np.tile(np.arange(60), 4))
    assert copied["low"] == pytest.approx(once["low"])


def test_the_band_holds_the_truth_about_95_times_in_100():
    """With p uniform and true, the net benefit at 1/2 is the integral of 2p - 1 from 1/2 to 1: 1/4."""
    hits = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        p = rng.random(200)
        found = decision_curve(rng.random(200) < p, p)
        hits += at(found, 0.5, "low") <= 0.25 <= at(found, 0.5, "high")
    assert 274 <= hits <= 296


def test_one_patient_has_no_band(rng):
    found = decision_curve(rng.random(20) < 0.5, rng.random(20), groups=np.zeros(20))
    assert found["low"] == found["net_benefit"] == found["high"]
