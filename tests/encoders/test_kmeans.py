"""The codebook: k-means as a transformer, against scikit-learn's."""

import itertools

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from support.groups import ragged_groups

from medvlad import InputError, KMeansCodebook


@pytest.fixture
def ragged(rng):
    return ragged_groups(rng)


def inertia(x, centers):
    return ((x[:, None].astype(np.float64) - centers) ** 2).sum(axis=2).min(axis=1).sum()


def test_finds_what_scikit_learn_finds(ragged, backend):
    own = KMeansCodebook(4, random_state=0, backend=backend).fit(ragged)
    other = KMeans(4, n_init=5, random_state=0).fit(ragged.values)
    assert own.inertia_ == pytest.approx(other.inertia_, rel=1e-4)
    assert own.inertia_ == pytest.approx(inertia(ragged.values, own.cluster_centers_), rel=1e-6)
    assert own.cluster_centers_.dtype == np.float32
    np.testing.assert_array_equal(own.counts_, np.bincount(own.labels_, minlength=4))


def test_centers_are_means_at_rest(rng):
    x = rng.normal(size=(3000, 5)).astype(np.float32)
    own = KMeansCodebook(8, tol=0.0, max_iter=1000, random_state=1).fit(x)
    assert own.n_iter_ < 1000
    means = np.array([x[own.labels_ == k].mean(axis=0, dtype=np.float64) for k in range(8)])
    np.testing.assert_allclose(own.cluster_centers_, means, atol=1e-6)


@pytest.mark.parametrize("offset", [0, 100, 1000])
def test_seeding_does_not_depend_on_the_origin(rng, offset):
    """Each tight group gets its centre, near the origin and far from it."""
    groups = rng.normal(scale=3, size=(16, 8))
    x = (np.repeat(groups, 50, axis=0) + rng.normal(scale=0.02, size=(800, 8)) + offset).astype(np.float32)
    for seed in range(5):
        own = KMeansCodebook(16, random_state=seed).fit(x)
        assert own.inertia_ < 2 * 800 * 8 * 0.02**2


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_any_scale_finds_the_same_clusters(rng, scale):
    groups = rng.normal(scale=3, size=(5, 4))
    x = (np.repeat(groups, 40, axis=0) + rng.normal(scale=0.02, size=(200, 4))) * scale
    labels = KMeansCodebook(5, random_state=0).fit(x).labels_
    assert all(len(set(labels[i : i + 40])) == 1 for i in range(0, 200, 40))
    assert len(set(labels)) == 5


@pytest.mark.filterwarnings("ignore:k-means has not come to rest")
def test_each_step_lowers_the_inertia(rng):
    x = rng.normal(size=(2000, 6)).astype(np.float32)
    values = [KMeansCodebook(10, max_iter=i, tol=0.0, random_state=3).fit(x).inertia_ for i in range(1, 12)]
    assert all(a >= b for a, b in itertools.pairwise(values))


def test_seeded_and_the_same_on_every_backend_and_thread_count(ragged):
    fits = [
        KMeansCodebook(5, random_state=7, backend=name, n_threads=threads).fit(ragged).cluster_centers_
        for name in ("reference", "native")
        for threads in (1, 2, 3)
    ]
    for other in fits[1:]:
        np.testing.assert_array_equal(fits[0], other)
    assert (KMeansCodebook(5, random_state=8).fit(ragged).cluster_centers_ != fits[0]).any()


def test_empty_clusters_move_to_descriptors(rng, monkeypatch):
    """All centres but one start at one far place."""
    x = rng.normal(size=(400, 3)).astype(np.float32)
    far = np.concatenate([x[:1], np.full((5, 3), 1e3, np.float32)])
    monkeypatch.setattr("medvlad.encoders.kmeans.seed_centers", lambda *args: far.copy())
    own = KMeansCodebook(6, random_state=0).fit(x)
    assert (own.counts_ > 0).all()
    assert np.abs(own.cluster_centers_).max() < 10


def test_fewer_distinct_descriptors_than_clusters_are_warned_about():
    x = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    with pytest.warns(ConvergenceWarning, match="2 of n_clusters=5 clusters are empty"):
        own = KMeansCodebook(5, random_state=0).fit(x)
    assert own.inertia_ == 0.0
    assert np.isfinite(own.cluster_centers_).all()


def test_more_clusters_than_descriptors_are_refused():
    with pytest.raises(InputError, match=r"n_clusters=5 is more than .* \(n_samples = 3\)"):
        KMeansCodebook(5).fit(np.eye(3))


@pytest.mark.parametrize(
    "bad", [{"n_clusters": 0}, {"n_clusters": 2.0}, {"max_iter": 0}, {"tol": -1.0}, {"tol": "small"}]
)
def test_a_wrong_parameter_is_named(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        KMeansCodebook(**{"n_clusters": 2, **bad}).fit(np.eye(4))


@pytest.mark.filterwarnings("ignore:k-means has not come to rest")
def test_several_starts_keep_the_best(ragged):
    rng = np.random.RandomState(5)
    single = [KMeansCodebook(4, max_iter=1, random_state=rng).fit(ragged).inertia_ for _ in range(6)]
    several = KMeansCodebook(4, max_iter=1, n_init=6, random_state=5).fit(ragged)
    assert several.inertia_ == min(single) < max(single)
    np.testing.assert_array_equal(several.labels_, several.predict(ragged))


@pytest.fixture
def start(rng):
    return rng.normal(scale=10, size=(3, 8)).astype(np.float32)


def test_a_given_start_leads_to_the_centres_of_scikit_learn(ragged, start):
    own = KMeansCodebook(3, init=start, tol=0.0, n_init=7).fit(ragged)
    other = KMeans(3, init=start, n_init=1, tol=0.0).fit(ragged.values)
    np.testing.assert_allclose(own.cluster_centers_, other.cluster_centers_, rtol=1e-5, atol=1e-5)


def test_a_start_with_another_number_of_centres_is_refused(ragged, start):
    with pytest.raises(InputError, match="init holds 2 centres and n_clusters is 3"):
        KMeansCodebook(3, init=start[:2]).fit(ragged)


def test_a_start_of_another_width_is_refused(ragged, start):
    with pytest.raises(InputError, match="init have 4 features, descriptors have 8"):
        KMeansCodebook(3, init=start[:, :4]).fit(ragged)


def test_an_unknown_start_is_named(ragged):
    with pytest.raises(InputError, match=r"init must be one of k-means\+\+, got 'random'"):
        KMeansCodebook(3, init="random").fit(ragged)


def test_fit_predict_has_a_label_for_each_row(ragged):
    weights = np.arange(len(ragged.values)) % 2.0
    for codebook, given in (
        (KMeansCodebook(3, random_state=0, max_samples=20), ragged),
        (KMeansCodebook(3, random_state=0), ragged.weighted(weights)),
    ):
        labels = codebook.fit_predict(given)
        assert len(codebook.labels_) < len(labels) == len(ragged.values)
        np.testing.assert_array_equal(labels, codebook.predict(ragged))


def test_partial_fit_is_a_running_mean(rng):
    x = rng.normal(size=(600, 4)).astype(np.float32)
    own = KMeansCodebook(1, random_state=0)
    for part in np.split(x, 6):
        own.partial_fit(part)
    np.testing.assert_allclose(own.cluster_centers_[0], x.mean(axis=0), atol=1e-5)
    assert own.counts_.tolist() == [600]
    assert own.n_iter_ == 6


def test_partial_fit_approaches_fit(ragged):
    own = KMeansCodebook(4, random_state=0)
    for _ in range(5):
        own.partial_fit(ragged)
    assert (
        inertia(ragged.values, own.cluster_centers_)
        < 1.2 * KMeansCodebook(4, random_state=0).fit(ragged).inertia_
    )


def test_a_first_batch_with_too_few_descriptors_is_refused():
    with pytest.raises(InputError, match="n_clusters=4"):
        KMeansCodebook(4).partial_fit(np.eye(3))


def test_transform_is_the_distance(ragged):
    own = KMeansCodebook(4, random_state=0).fit(ragged)
    x, c = ragged.values.astype(np.float64), own.cluster_centers_
    expected = np.linalg.norm(x[:, None] - c, axis=2)
    np.testing.assert_allclose(own.transform(ragged), expected, rtol=1e-5)
    np.testing.assert_array_equal(own.predict(ragged), expected.argmin(axis=1))


def test_large_numbers_do_not_end_kmeans_early():
    """Their sum is beyond float32, which must not affect the stopping rule."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 4)) * 0.2 + rng.choice([1, 2, 3], (5000, 1))
    steps = [
        KMeansCodebook(8, random_state=0).fit((x * scale).astype(np.float32)).n_iter_ for scale in (1, 1e35)
    ]
    assert min(steps) > 1
