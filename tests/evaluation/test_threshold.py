"""Thresholds found without labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from medvlad import InputError
from medvlad.evaluation.threshold import mixture_threshold


def humps(rng, n=(400, 600), means=(0.5, 3.0), deviations=(0.7, 0.6)):
    return np.concatenate([rng.normal(m, d, k) for k, m, d in zip(n, means, deviations, strict=True)])


def test_both_classes_are_equally_likely_at_the_threshold(rng):
    threshold = mixture_threshold(humps(rng, n=(20_000, 30_000)))
    low, high = 0.4 * norm.pdf(threshold, 0.5, 0.7), 0.6 * norm.pdf(threshold, 3.0, 0.6)
    assert low == pytest.approx(high, rel=0.15)
    assert 0.5 < threshold < 3


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(-5, 5), st.floats(0.01, 100))
def test_the_threshold_moves_with_the_values(seed, shift, scale):
    s = humps(np.random.default_rng(seed), (60, 90))
    threshold = mixture_threshold(s)
    assert mixture_threshold(s * scale + shift) == pytest.approx(
        threshold * scale + shift, rel=1e-3, abs=1e-3
    )


def test_the_threshold_follows_a_shifted_class(rng):
    """One class has moved towards the other: 0 is a bad threshold, this one is nearly the best."""
    s = humps(rng, (300, 300), (0.3, 3.0), (0.6, 0.6))
    labels = np.repeat([0, 1], 300)
    best = max(((s > t) == labels).mean() for t in s)
    assert ((s > 0) == labels).mean() < 0.7
    assert ((s > mixture_threshold(s)) == labels).mean() > best - 0.01


@pytest.mark.parametrize("values", [np.random.default_rng(0).normal(size=500), np.ones(50)])
def test_one_hump_has_no_threshold(values):
    assert mixture_threshold(values) is None


@pytest.mark.parametrize("n", [(5, 5), (0, 0)])
def test_few_values_have_no_threshold(rng, n):
    assert mixture_threshold(humps(rng, n)) is None


def test_the_same_values_have_the_same_threshold(rng):
    s = humps(rng)
    assert mixture_threshold(s, random_state=1) == mixture_threshold(s, random_state=1)


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [np.nan] * 30])
def test_other_shapes_and_nan_are_refused(values):
    with pytest.raises(InputError, match="finite and of shape"):
        mixture_threshold(values)
