"""k-means with weights of the descriptors, its score, and the warning about too few steps."""

import warnings

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from medvlad import VLAD, BagOfWords, Descriptors, FisherVector, InputError, KMeansCodebook


@pytest.fixture
def x(rng):
    groups = rng.normal(scale=5, size=(4, 6))
    return (np.repeat(groups, 50, axis=0) + rng.normal(size=(200, 6))).astype(np.float32)


@pytest.fixture
def weights(rng):
    return rng.integers(0, 5, 200).astype(float)


@pytest.mark.parametrize("scale", [1, 1e-30, 1e30])
def test_weights_give_what_scikit_learn_gives(x, weights, backend, scale):
    own = KMeansCodebook(4, init=x[[0, 60, 110, 160]], tol=0.0, backend=backend)
    own.fit(x, sample_weight=weights * scale)
    other = KMeans(4, init=x[[0, 60, 110, 160]], n_init=1, tol=0.0).fit(x, sample_weight=weights)
    np.testing.assert_allclose(own.cluster_centers_, other.cluster_centers_, rtol=1e-5, atol=1e-5)
    assert own.inertia_ == pytest.approx(other.inertia_ * scale, rel=1e-5)
    assert own.score(x, sample_weight=weights * scale) == pytest.approx(-own.inertia_)


def test_a_weight_is_that_many_copies(x, weights):
    init = x[[0, 60, 110, 160]]
    copies = np.repeat(x, weights.astype(int), axis=0)
    weighted = KMeansCodebook(4, init=init, tol=0.0).fit(x, sample_weight=weights)
    copied = KMeansCodebook(4, init=init, tol=0.0).fit(copies)
    np.testing.assert_allclose(weighted.cluster_centers_, copied.cluster_centers_, rtol=1e-6, atol=1e-6)
    assert weighted.inertia_ == pytest.approx(copied.inertia_)


@pytest.mark.parametrize("weight", [0, 1e-12])
def test_the_start_is_drawn_by_weight(x, weight):
    """Only rows of weight 1 become centres, and the others move them little."""
    weights = np.full(200, float(weight))
    weights[:8] = 1
    for seed in range(5):
        own = KMeansCodebook(4, random_state=seed, max_iter=1000).fit(x, sample_weight=weights)
        distances = np.linalg.norm(own.cluster_centers_ - x[:8].mean(axis=0), axis=1)
        assert distances.max() < 10


def test_a_subsample_keeps_the_weights_of_its_rows(x):
    weights = np.zeros(200)
    weights[::2] = 1
    twice = KMeansCodebook(4, init=x[[0, 60, 110, 160]], max_samples=150, random_state=0)
    own = twice.fit(x, sample_weight=weights + (np.arange(200) % 2) * 1e-12)
    labels = KMeansCodebook(4, init=x[[0, 60, 110, 160]]).fit(x[::2]).cluster_centers_
    np.testing.assert_allclose(own.cluster_centers_, labels, atol=1)


def test_the_score_is_minus_the_inertia(x, backend):
    own = KMeansCodebook(4, random_state=0, backend=backend).fit(x)
    assert own.score(x) == pytest.approx(-own.inertia_)
    exact = ((x[:, None].astype(float) - own.cluster_centers_) ** 2).sum(axis=2).min(axis=1)
    assert own.score(x[:7]) == pytest.approx(-exact[:7].sum(), rel=1e-6)
    masked = Descriptors(x, [0, 200], np.arange(200) < 7)
    assert own.score(masked) == pytest.approx(-exact[:7].sum(), rel=1e-6)


@pytest.mark.parametrize("bad", [np.ones(3), -np.ones(200), np.full(200, np.nan), ["a"] * 200])
def test_wrong_weights_are_refused(x, bad):
    with pytest.raises(InputError, match="weights must"):
        KMeansCodebook(2).fit(x, sample_weight=bad)


def test_too_few_steps_are_a_warning(x):
    with pytest.warns(ConvergenceWarning, match="not come to rest after max_iter=1 steps: raise max_iter"):
        KMeansCodebook(9, max_iter=1, tol=0.0, random_state=0).fit(x)


@pytest.mark.parametrize(
    "encoder", [VLAD(9, max_iter=1, tol=0.0), BagOfWords(9, max_iter=1), FisherVector(3)], ids=str
)
def test_encoders_do_not_warn_about_steps(x, encoder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.set_params(random_state=0).fit(x)
