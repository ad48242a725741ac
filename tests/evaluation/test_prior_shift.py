"""Shares of classes without labels: known answers, and simulated images of other shares."""

import numpy as np
import pytest
from scipy.special import expit

from medvlad import InputError
from medvlad.evaluation.prior_shift import estimate_shares, prior_shift
from medvlad.report.external import share_rows


def images(rng, n, share):
    """Probabilities that are right if half of the images are of class b; `share` of these are."""
    own = rng.random(n) < share
    p = expit(2 * rng.normal(np.where(own, 1, -1), 1))  # the logarithm of the likelihood ratio is 2 x
    return own, np.column_stack([1 - p, p])


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_a_changed_share_is_found(rng, share):
    own, p = images(rng, 5000, share)
    found = prior_shift(p, {"a": 500, "b": 500})
    assert found["b"]["estimated"] == pytest.approx(own.mean(), abs=0.02)
    low, high = found["b"]["estimated_ci95"]
    assert low < found["b"]["estimated"] < high
    assert high - low < 0.08
    assert sum(one["estimated"] for one in found.values()) == pytest.approx(1)


def test_unequal_training_shares_are_taken_into_account(rng):
    """The same images, with probabilities of a training set in which b is rare."""
    own, p = images(rng, 5000, 0.4)
    odds = p * [0.9, 0.1]
    rare = odds / odds.sum(axis=1, keepdims=True)
    found = prior_shift(rare, {"a": 900, "b": 100})
    assert found["b"]["training"] == 0.1
    assert found["b"]["estimated"] == pytest.approx(own.mean(), abs=0.02)


def test_certain_probabilities_are_counted():
    p = np.eye(3)[[0, 0, 0, 1, 2, 2]]
    assert estimate_shares(p, np.ones(3)) == pytest.approx([3 / 6, 1 / 6, 2 / 6], abs=1e-6)


def test_probabilities_that_say_nothing_leave_the_training_shares():
    priors = np.array([0.2, 0.8])
    assert estimate_shares(np.tile(priors, (10, 1)), priors) == pytest.approx(priors)


def test_copies_of_images_of_a_patient_do_not_narrow_the_interval(rng):
    _, p = images(rng, 100, 0.4)
    widths = []
    for images_of, groups in ((p, np.arange(100)), (np.tile(p, (5, 1)), np.tile(np.arange(100), 5))):
        low, high = prior_shift(images_of, {"a": 1, "b": 1}, groups=groups)["b"]["estimated_ci95"]
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=0.05)


def test_images_of_one_patient_have_no_interval(rng):
    _, p = images(rng, 20, 0.4)
    found = prior_shift(p, {"a": 1, "b": 1}, groups=np.zeros(20))
    assert [one["estimated_ci95"] for one in found.values()] == [None, None]
    shown = {name: one | {"observed": 0.5} for name, one in found.items()}
    _, rows = share_rows({"external": {"shares": shown}})
    assert [row[2] for row in rows] == [f"{one['estimated']:.3f}" for one in found.values()]


def test_a_class_without_training_images_is_refused():
    with pytest.raises(InputError, match="no training images"):
        prior_shift(np.full((4, 2), 0.5), {"a": 0, "b": 3})
