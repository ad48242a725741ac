"""Calibration slope and intercept against other software, known answers and simulation; the bins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from medvlad.evaluation.recalibration import observed_bins, recalibration


def study(rng, n, slope=1.0, intercept=0.0):
    """Truths, and probabilities whose calibration has this slope and, with slope 1, this intercept."""
    z = rng.normal(0, 1.5, n)
    return rng.random(n) < expit(slope * z + intercept), expit(z)


def test_the_slope_is_that_of_scikit_learn(rng):
    own, p = study(rng, 500, 0.6, 0.3)
    expected = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit(p)[:, None], own).coef_[0, 0]
    assert recalibration(own, p)["slope"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("slope", "intercept"), [(1.0, 0.0), (0.5, 0.0), (2.0, 0.0), (1.0, -1.0), (1.0, 0.7)]
)
def test_a_known_miscalibration_is_found(rng, slope, intercept):
    found = recalibration(*study(rng, 20_000, slope, intercept))
    low, high = found["slope_ci95"]
    assert low - 0.05 < slope < high + 0.05
    if slope == 1:
        assert found["intercept"] == pytest.approx(intercept, abs=0.1)


def test_the_mean_of_shifted_probabilities_is_the_observed_share(rng):
    """The defining equation of the intercept."""
    own, p = study(rng, 300, 1.0, -0.8)
    shifted = expit(logit(p) + recalibration(own, p)["intercept"])
    assert shifted.mean() == pytest.approx(own.mean(), abs=1e-6)


def test_intervals_hold_the_truth_about_95_times_in_100():
    hits = 0
    for seed in range(200):
        low, high = recalibration(*study(np.random.default_rng(seed), 150, 0.7))["slope_ci95"]
        hits += low <= 0.7 <= high
    assert 178 <= hits <= 199


def test_copies_of_images_of_a_patient_do_not_narrow_the_interval(rng):
    own, p = study(rng, 100)
    once = recalibration(own, p, groups=np.arange(100))
    copied = recalibration(np.tile(own, 5), np.tile(p, 5), groups=np.tile(np.arange(100), 5))
    assert copied["slope"] == pytest.approx(once["slope"], abs=1e-6)
    assert copied["slope_ci95"] == pytest.approx(once["slope_ci95"], abs=1e-5)


def test_probabilities_of_zero_and_one_give_numbers(rng):
    own, p = study(rng, 200)
    found = recalibration(own, np.where(p > 0.8, 1.0, np.where(p < 0.2, 0.0, p)))
    assert np.isfinite([found["slope"], found["intercept"], *found["slope_ci95"]]).all()


@pytest.mark.parametrize(
    ("own", "p", "name", "reason"),
    [
        ([1, 1, 1, 1], [0.2, 0.4, 0.6, 0.8], "slope", "images of the class and others"),
        ([0, 0, 0, 0], [0.2, 0.4, 0.6, 0.8], "intercept", "images of the class and others"),
        ([0, 0, 1, 1], [0.2, 0.4, 0.6, 0.8], "slope", "separate the classes completely"),
        ([1, 1, 0, 0], [0.2, 0.4, 0.6, 0.8], "slope", "separate the classes completely"),
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5], "slope", "all probabilities are equal"),
    ],
)
def test_a_value_that_does_not_exist_has_a_reason(own, p, name, reason):
    found = recalibration(np.array(own, bool), np.array(p))
    assert found[name] is None
    assert found[f"{name}_ci95"] is None
    assert reason in found["missing"][name]


def test_one_patient_has_values_but_no_interval(rng):
    own, p = study(rng, 50)
    found = recalibration(own, p, groups=np.zeros(50))
    assert found["slope"] is not None
    assert found["slope_ci95"] is None
    assert found["missing"]["slope"] == "all images are of one patient"


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0])), min_size=1, max_size=60)
)
def test_bins_hold_every_image_once_and_split_no_equal_probabilities(pairs):
    own, p = (np.array(one) for one in zip(*pairs, strict=True))
    bins = observed_bins(own, p, np.arange(len(own)))
    assert sum(one["n"] for one in bins) == len(own)
    assert sum(one["n"] * one["observed"] for one in bins) == pytest.approx(own.sum())
    assert sum(one["n"] * one["probability"] for one in bins) == pytest.approx(p.sum())
    assert len(bins) <= min(10, len(np.unique(p)))
    assert [one["probability"] for one in bins] == sorted(one["probability"] for one in bins)
