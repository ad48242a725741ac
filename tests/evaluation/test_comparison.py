"""Paired comparisons by patient, against maximum likelihood by search, enumeration and arithmetic by hand."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from support.clustered import decisions

from medvlad.evaluation.comparison import _signs_test, _tango, compare
from medvlad.evaluation.intervals import metric_estimates

Z = 1.959963984540054


@pytest.fixture
def nine_against_one():
    """Comparison of 30 images, of which the first classifier alone has 1 right, the second alone 9."""
    labels = np.arange(30) % 2
    first, second = np.ones(30, bool), np.ones(30, bool)
    second[0] = False
    first[1:10] = False
    first[29] = second[29] = False
    return compare(labels, decisions(labels, first), decisions(labels, second))


# -------------------------------------------------------------------------------------------- tests


def test_one_image_a_patient_is_mcnemars_exact_test(nine_against_one):
    assert (nine_against_one["only_first"], nine_against_one["only_second"]) == (1, 9)
    assert nine_against_one["mcnemar_p"] == pytest.approx(2 * (1 + 10) / 1024)


@given(st.integers(0, 30), st.integers(0, 30))
def test_gains_of_one_image_are_a_binomial_test(b, c):
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert _signs_test(np.array([-1] * b + [1] * c, int)) == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_the_p_value_counts_the_signs_of_patients(gains):
    gains = np.array(gains)
    sums = [abs(np.dot(signs, gains)) for signs in product((-1, 1), repeat=len(gains))]
    assert _signs_test(gains) == pytest.approx(np.mean(np.array(sums) >= abs(gains.sum())))


def test_ten_images_of_one_patient_prove_as_little_as_one():
    labels = np.arange(40) % 2
    first = np.arange(40) >= 10
    second = np.ones(40, bool)
    values = decisions(labels, first), decisions(labels, second)
    assert compare(labels, *values)["mcnemar_p"] < 0.01
    assert compare(labels, *values, groups=np.arange(40) // 10)["mcnemar_p"] == 1.0


def test_a_classifier_does_not_differ_from_itself():
    labels = np.arange(60) % 2
    one = decisions(labels, np.arange(60) % 7 > 0)
    found = compare(labels, one, one)
    assert found["mcnemar_p"] == 1
    assert set(found["difference"].values()) == {0}


# ---------------------------------------------------------------------------------------- intervals


def score_limits(b, c, n):
    """The differences that the score test keeps: the nuisance share maximises the likelihood by search."""
    a = n - b - c

    def kept(delta):
        def cost(q):
            terms = ((a, 1 - 2 * q - delta), (b, q), (c, q + delta))
            return -sum(k * np.log(max(p, 1e-300)) for k, p in terms if k)

        bounds = max(0, -delta), (1 - delta) / 2
        q = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        return abs(c - b - n * delta) <= Z * np.sqrt(n * (2 * q + delta * (1 - delta)))

    inside = [delta for delta in np.linspace(-0.999, 0.999, 1999) if kept(delta)]
    return inside[0], inside[-1]


@pytest.mark.parametrize(("b", "c", "n"), [(0, 1, 44), (3, 16, 100), (9, 2, 32), (0, 40, 44), (5, 5, 12)])
def test_the_interval_of_a_difference_is_that_of_the_score_test(b, c, n):
    assert _tango(b, c, n, Z) == pytest.approx(score_limits(b, c, n), abs=0.0015)


@pytest.mark.parametrize("n", [1, 20, 44])
def test_all_images_gained_is_not_a_certain_difference(n):
    low, high = _tango(0, n, n, Z)
    assert high == 1
    assert -1 < low < 1
    assert _tango(n, 0, n, Z) == pytest.approx((-1, -low))


def test_equal_decisions_have_an_interval_with_a_width():
    """No image differs: as with Wilson's interval, z^2 / (n + z^2)."""
    labels = np.arange(60) % 2
    one = decisions(labels, np.arange(60) % 7 > 0)
    low, high = compare(labels, one, one)["difference_ci95"]["accuracy"]
    assert (low, high) == pytest.approx((-(Z**2) / (60 + Z**2), Z**2 / (60 + Z**2)))


def test_equal_decisions_on_patients_have_the_interval_of_the_patients():
    labels = np.arange(60) % 2
    one = decisions(labels, np.arange(60) % 7 > 0)
    high = compare(labels, one, one, groups=np.arange(60) // 5)["difference_ci95"]["accuracy"][1]
    assert high == pytest.approx(Z**2 / (12 + Z**2))


def test_equal_ranks_have_no_interval_of_the_auc_but_a_reason():
    labels = np.arange(60) % 2
    one = decisions(labels, np.arange(60) % 7 > 0)
    found = compare(labels, one, one)
    assert found["difference_ci95"]["auc"] is None
    assert found["difference_ci95_missing"] == {"auc": "both rank all images alike"}


def test_one_patient_has_no_interval_of_a_difference():
    labels = np.arange(20) % 2
    values = [decisions(labels, np.arange(20) > k) for k in (2, 5)]
    found = compare(labels, *values, groups=np.zeros(20, int))
    assert found["difference_ci95"] == {"accuracy": None, "balanced_accuracy": None, "auc": None}
    assert found["difference_ci95_missing"]["accuracy"] == "all 20 images are of one patient"


def test_the_interval_of_a_difference_holds_the_difference(nine_against_one):
    for name, (low, high) in nine_against_one["difference_ci95"].items():
        assert low <= nine_against_one["difference"][name] <= high
    assert 0 < nine_against_one["difference_ci95"]["accuracy"][0] < 8 / 30


def test_a_paired_comparison_is_sharper_than_two_intervals():
    """Two classifiers nearly always agree and one is better on a few images: their own intervals overlap."""
    labels = np.arange(300) % 2
    second = np.arange(300) >= 90
    first = second & (np.arange(300) < 290)
    values = decisions(labels, first), decisions(labels, second)
    assert compare(labels, *values)["difference_ci95"]["accuracy"][0] > 0
    one, other = (metric_estimates(labels, value)["accuracy"].ends for value in values)
    assert one[1] > other[0]


def test_copies_of_images_do_not_sharpen_the_comparison_by_patient(rng):
    labels = np.arange(60) % 2
    values = [decisions(labels, rng.random(60) < share) for share in (0.7, 0.9)]
    alone = compare(labels, *values)
    copied = compare(
        np.repeat(labels, 5),
        *(np.repeat(value, 5, axis=0) for value in values),
        groups=np.repeat(np.arange(60), 5),
    )
    assert copied["mcnemar_p"] == pytest.approx(alone["mcnemar_p"])
    assert copied["difference_ci95"]["accuracy"] == pytest.approx(
        alone["difference_ci95"]["accuracy"], abs=0.02
    )
