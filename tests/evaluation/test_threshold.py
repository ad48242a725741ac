"""Cuts found without labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from medvlad import InputError
from medvlad.evaluation.threshold import mixture_threshold


def humps(rng, n=(400, 600), means=(0.5, 3.0), deviations=(0.7, 0.6)):
    return np.concatenate([rng.normal(m, d, k) for k, m, d in zip(n, means, deviations, strict=True)])


def test_the_cut_is_where_both_are_as_likely(rng):
    cut = mixture_threshold(humps(rng, n=(20_000, 30_000)))
    low, high = 0.4 * norm.pdf(cut, 0.5, 0.7), 0.6 * norm.pdf(cut, 3.0, 0.6)
    assert low == pytest.approx(high, rel=0.15)
    assert 0.5 < cut < 3


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(-5, 5), st.floats(0.01, 100))
def test_it_moves_with_the_values(seed, shift, scale):
    s = humps(np.random.default_rng(seed), (60, 90))
    cut = mixture_threshold(s)
    assert mixture_threshold(s * scale + shift) == pytest.approx(cut * scale + shift, rel=1e-3, abs=1e-3)


def test_a_moved_class_is_followed(rng):
    """One class has moved towards the other: 0 is a bad cut, this one is nearly the best."""
    s = humps(rng, (300, 300), (0.3, 3.0), (0.6, 0.6))
    labels = np.repeat([0, 1], 300)
    best = max(((s > t) == labels).mean() for t in s)
    assert ((s > 0) == labels).mean() < 0.7
    assert ((s > mixture_threshold(s)) == labels).mean() > best - 0.01


def test_one_hump_has_no_cut(rng):
    assert mixture_threshold(rng.normal(size=500)) is None
    assert mixture_threshold(np.ones(50)) is None
    assert mixture_threshold(humps(rng, (5, 5))) is None
    assert mixture_threshold([]) is None


def test_same_values_same_cut(rng):
    s = humps(rng)
    assert mixture_threshold(s, random_state=1) == mixture_threshold(s, random_state=1)


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [np.nan] * 30])
def test_what_is_no_list_of_numbers_is_refused(values):
    with pytest.raises(InputError, match="finite and of shape"):
        mixture_threshold(values)
