"""Thresholds found without labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gamma, norm, skewnorm

from medvlad import InputError
from medvlad.evaluation.single_population import single_population_bic
from medvlad.evaluation.threshold import find_threshold, mixture_threshold
from medvlad.evaluation.two_populations import fit_two_populations


def humps(rng, n=(400, 600), means=(0.5, 3.0), deviations=(0.7, 0.6)):
    return np.concatenate([rng.normal(m, d, k) for k, m, d in zip(n, means, deviations, strict=True)])


def test_both_classes_are_equally_likely_at_the_threshold(rng):
    threshold = mixture_threshold(humps(rng, n=(20_000, 30_000)))
    low, high = 0.4 * norm.pdf(threshold, 0.5, 0.7), 0.6 * norm.pdf(threshold, 3.0, 0.6)
    assert low == pytest.approx(high, rel=0.15)
    assert 0.5 < threshold < 3


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000), st.floats(-5, 5), st.floats(0.01, 100))
def test_the_threshold_moves_with_the_values(seed, shift, scale):
    s = humps(np.random.default_rng(seed), (80, 120), (0.5, 4.0))
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


def skewed(rng, n, shape=2.0):
    """Numbers of one gamma-shaped class, with standard deviation 1."""
    return rng.gamma(shape, size=n) / np.sqrt(shape)


#: One class, however skewed, heavy or flat.
ONE_CLASS = {
    "exponential": lambda rng, n: rng.exponential(size=n),
    "gamma": skewed,
    "gamma to the left": lambda rng, n: -skewed(rng, n),
    "gamma of shape 5": lambda rng, n: skewed(rng, n, 5.0),
    "lognormal": lambda rng, n: np.exp(rng.normal(size=n)),
    "skew normal": lambda rng, n: skewnorm.rvs(8, size=n, random_state=rng),
    "Student": lambda rng, n: rng.standard_t(4, n),
    "Laplace": lambda rng, n: rng.laplace(size=n),
    "beta": lambda rng, n: rng.beta(2, 4, n),
    "normal": lambda rng, n: rng.normal(size=n),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ONE_CLASS)
def test_one_class_of_any_shape_is_hardly_ever_cut(kind):
    cut = [mixture_threshold(ONE_CLASS[kind](np.random.default_rng(seed), 250)) for seed in range(15)]
    assert sum(one is not None for one in cut) <= 1


@pytest.mark.parametrize("kind", ["exponential", "gamma", "gamma to the left", "lognormal"])
def test_a_skewed_class_is_not_cut(rng, kind):
    found = find_threshold(ONE_CLASS[kind](rng, 400))
    assert found.value is None
    assert found.reason == "the scores look like one group, which may be skewed"


def balanced(first, second, cut):
    return ((first <= cut).mean() + (second > cut).mean()) / 2


@pytest.mark.parametrize("signs", [(1, 1), (-1, -1), (-1, 1)], ids=["right", "left", "apart"])
@pytest.mark.parametrize("share", [0.5, 0.3])
def test_two_gamma_shaped_classes_are_cut_between(rng, signs, share):
    first = signs[0] * skewed(rng, int(600 * (1 - share)))
    second = 4 + signs[1] * skewed(rng, int(600 * share))
    best = max(balanced(first, second, cut) for cut in np.concatenate([first, second]))
    assert balanced(first, second, mixture_threshold(np.concatenate([first, second]))) > best - 0.02


def test_two_values_are_two_groups():
    cut = mixture_threshold(np.repeat([-1.0, 1.0], [30, 50]))
    assert -1 < cut < 1


@pytest.mark.parametrize("seed", range(3))
def test_a_rare_class_has_no_threshold(seed):
    """Of 5 %, a threshold would cost balanced accuracy."""
    found = find_threshold(humps(np.random.default_rng(seed), (950, 50), (0.0, 3.1), (1.0, 1.0)))
    assert found.value is None
    assert "less than 10%" in found.reason or "one group" in found.reason


def test_groups_that_overlap_have_no_threshold():
    """A narrow group inside a wide one: two groups for sure, and nothing to cut."""
    rng = np.random.default_rng(0)
    found = find_threshold(humps(rng, (600, 600), (0.0, 0.4), (0.1, 2.0)))
    assert (found.value, found.reason) == (None, "the two groups of scores overlap too much")


def test_scores_as_on_the_chest_x_rays_have_a_threshold():
    """Shares, means, spread and skewness of the test images there: a row of docs/results.md."""
    rng = np.random.default_rng(0)
    normal = -1.0 + 0.72 * skewnorm.rvs(-2, size=234, random_state=rng)
    pneumonia = 0.6 + 0.52 * rng.normal(size=390)
    cut = mixture_threshold(np.concatenate([normal, pneumonia]))
    best = max(balanced(normal, pneumonia, c) for c in pneumonia)
    assert balanced(normal, pneumonia, cut) > best - 0.04


def test_the_best_single_population_is_at_least_as_good_as_the_true_one(rng):
    """The criterion of a gamma distribution with the parameters that drew the numbers."""
    s = skewed(rng, 500)
    spread = s.std()
    standard = (s - s.mean()) / spread
    truth = gamma(2.0, loc=-s.mean() / spread, scale=1 / (np.sqrt(2) * spread)).logpdf(standard).sum()
    assert single_population_bic(standard) < -2 * truth + 3 * np.log(500)


def test_two_populations_have_the_parameters_that_drew_them(rng):
    s = humps(rng, (4000, 6000), (-1.2, 0.8), (0.5, 0.4))
    found = fit_two_populations(s)
    np.testing.assert_allclose(found.weights, [0.4, 0.6], atol=0.02)
    np.testing.assert_allclose(found.means, [-1.2, 0.8], atol=0.05)
    np.testing.assert_allclose(np.sqrt(found.variances), [0.5, 0.4], atol=0.03)


@pytest.mark.parametrize("n", [(5, 5), (0, 0)])
def test_few_values_have_no_threshold(rng, n):
    assert find_threshold(humps(rng, n)).reason == f"{sum(n)} images are too few, 20 are needed"


def test_the_same_values_have_the_same_threshold(rng):
    s = humps(rng)
    assert mixture_threshold(s, random_state=1) == mixture_threshold(s, random_state=1)


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [np.nan] * 30])
def test_other_shapes_and_nan_are_refused(values):
    with pytest.raises(InputError, match="finite and of shape"):
        mixture_threshold(values)
