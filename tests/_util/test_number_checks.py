"""Checks of single numbers: what passes, and what the message says."""

import math

import numpy as np
import pytest

from medvlad import BagOfWords, FisherVector, GlobalPool, KMeansCodebook
from medvlad._util.validate import (
    InputError,
    check_interval,
    check_non_negative_float,
    check_positive_float,
)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_an_interval_without_an_upper_end_holds_finite_numbers_only(value):
    with pytest.raises(InputError, match=r"x must lie in \(0, inf\], got -?(inf|nan)"):
        check_interval(value, "x", 0.0, math.inf)


def test_an_interval_includes_its_upper_end_only():
    assert check_interval(1, "x", 0.0, 1.0) == 1.0
    with pytest.raises(InputError, match=r"x must lie in \(0, 1\], got 0"):
        check_interval(0, "x", 0.0, 1.0)


@pytest.mark.parametrize("value", [0, 0.0, -0.0, 1e-300, np.float32(3), np.int64(4)])
def test_numbers_of_0_or_more_pass(value):
    found = check_non_negative_float(value, "tol")
    assert type(found) is float
    assert found == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1, r"tol must be 0 or more, got -1$"),
        (math.nan, "tol must be 0 or more, got nan"),
        (math.inf, "tol must be finite, got inf"),
        (10**400, "tol must be finite, got 1000"),
        ("small", "tol must be a number of 0 or more, got 'small'"),
        (True, "tol must be a number of 0 or more, got True"),
    ],
)
def test_other_values_are_refused_in_plain_terms(value, message):
    with pytest.raises(InputError, match=message):
        check_non_negative_float(value, "tol")


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, 10**400])
def test_a_positive_number_is_finite(value):
    with pytest.raises(InputError, match="C must be a finite number above 0"):
        check_positive_float(value, "C")


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (KMeansCodebook(2, tol=-1), r"tol must be 0 or more, got -1$"),
        (KMeansCodebook(2, tol=math.inf), "tol must be finite, got inf"),
        (GlobalPool("gem", p=math.inf), r"p must lie in \(0, 100\], got inf"),
        (FisherVector(2, reg_covar=math.inf), "reg_covar must be a finite number above 0, got inf"),
        (BagOfWords(2, max_iter=0), "max_iter must be an integer of at least 1, got 0"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_estimators_refuse_settings_in_plain_terms(estimator, message):
    with pytest.raises(InputError, match=message):
        estimator.fit(np.eye(4))
