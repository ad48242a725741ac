"""VLAD, pooling and the codebook as transformers."""

import itertools

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

import medvlad as mv
from medvlad import (
    VLAD,
    BagOfWords,
    DescriptorProjection,
    Descriptors,
    FisherVector,
    GlobalPool,
    InputError,
    KMeansCodebook,
    SecondOrderPool,
    SpatialTiles,
)
from medvlad.encoders.recipe import Recipe

CHECKED = [
    VLAD(n_clusters=2, random_state=0),
    VLAD(n_clusters=2, random_state=0, power=0.5, intra_norm=True, backend="reference"),
    GlobalPool(),
    GlobalPool("max"),
    GlobalPool("gem", l2_norm=False),
    GlobalPool("sum"),
    VLAD(n_clusters=2, random_state=0, assignment="soft", mass_norm=True),
    VLAD(n_clusters=2, random_state=0, local_axes=True),
    BagOfWords(n_clusters=2, random_state=0),
    FisherVector(n_components=2, random_state=0),
    SecondOrderPool(),
    SpatialTiles(GlobalPool(), grids=[(1, 1)], tiles=[(1, 1)]),
    DescriptorProjection(),
    KMeansCodebook(n_clusters=2, random_state=0),
]


def known(estimator):
    """Checks that an estimator fails, with the reason."""
    if isinstance(estimator, VLAD) and estimator.local_axes:
        names = ("check_fit_score_takes_y", "check_n_features_in_after_fitting")
        return dict.fromkeys(names, "partial_fit is refused: axes are learnt from all descriptors at once")
    if isinstance(estimator, DescriptorProjection):
        names = (
            "check_array_api_input",
            "check_transformer_data_not_an_array",
            "check_transformer_general",
            "check_transformer_preserve_dtypes",
        )
        return dict.fromkeys(names, "it returns Descriptors, whatever the input")
    return {}


@parametrize_with_checks(CHECKED, expected_failed_checks=known)
@pytest.mark.filterwarnings("ignore:.*clusters are empty")
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_no_estimator_is_forgotten():
    """What scikit-learn's checks are not run on, with the reason."""
    elsewhere = {
        "CNNDescriptors": "takes images, not a matrix",
        "WideLinearSVC": "in test_classify.py",
    }
    public = {name: getattr(mv, name) for name in mv.__all__}
    estimators = {
        name for name, it in public.items() if isinstance(it, type) and issubclass(it, BaseEstimator)
    }
    assert estimators - elsewhere.keys() == {type(estimator).__name__ for estimator in CHECKED}


@pytest.fixture
def ragged(rng):
    """Four tight groups of descriptors in 8 dimensions, in images of several lengths, one empty."""
    groups = rng.normal(scale=10, size=(4, 8))
    lengths = [12, 0, 30, 7, 51]
    return Descriptors.from_list(
        [(groups[rng.integers(0, 4, n)] + rng.normal(size=(n, 8))).astype(np.float32) for n in lengths]
    )


def inertia(x, centers):
    return ((x[:, None].astype(np.float64) - centers) ** 2).sum(axis=2).min(axis=1).sum()


class TestKMeans:
    def test_finds_what_scikit_learn_finds(self, ragged, backend):
        own = KMeansCodebook(4, random_state=0, backend=backend).fit(ragged)
        other = KMeans(4, n_init=5, random_state=0).fit(ragged.values)
        assert own.inertia_ == pytest.approx(other.inertia_, rel=1e-4)
        assert own.inertia_ == pytest.approx(inertia(ragged.values, own.cluster_centers_), rel=1e-6)
        assert own.cluster_centers_.dtype == np.float32
        np.testing.assert_array_equal(own.counts_, np.bincount(own.labels_, minlength=4))

    def test_centers_are_means_at_rest(self, rng):
        x = rng.normal(size=(3000, 5)).astype(np.float32)
        own = KMeansCodebook(8, tol=0.0, max_iter=1000, random_state=1).fit(x)
        assert own.n_iter_ < 1000
        means = np.array([x[own.labels_ == k].mean(axis=0, dtype=np.float64) for k in range(8)])
        np.testing.assert_allclose(own.cluster_centers_, means, atol=1e-6)

    @pytest.mark.parametrize("offset", [0, 100, 1000])
    def test_seeding_does_not_mind_the_origin(self, rng, offset):
        """Tight groups, near or far from the origin: each gets its centre."""
        groups = rng.normal(scale=3, size=(16, 8))
        x = (np.repeat(groups, 50, axis=0) + rng.normal(scale=0.02, size=(800, 8)) + offset).astype(
            np.float32
        )
        for seed in range(5):
            own = KMeansCodebook(16, random_state=seed).fit(x)
            assert own.inertia_ < 2 * 800 * 8 * 0.02**2

    @pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
    def test_any_scale_finds_the_same_clusters(self, rng, scale):
        groups = rng.normal(scale=3, size=(5, 4))
        x = (np.repeat(groups, 40, axis=0) + rng.normal(scale=0.02, size=(200, 4))) * scale
        labels = KMeansCodebook(5, random_state=0).fit(x).labels_
        assert all(len(set(labels[i : i + 40])) == 1 for i in range(0, 200, 40))
        assert len(set(labels)) == 5

    def test_each_step_lowers_the_inertia(self, rng):
        x = rng.normal(size=(2000, 6)).astype(np.float32)
        values = [
            KMeansCodebook(10, max_iter=i, tol=0.0, random_state=3).fit(x).inertia_ for i in range(1, 12)
        ]
        assert all(a >= b for a, b in itertools.pairwise(values))

    def test_seeded_and_the_same_on_every_backend_and_thread_count(self, ragged):
        fits = [
            KMeansCodebook(5, random_state=7, backend=name, n_threads=threads).fit(ragged).cluster_centers_
            for name in ("reference", "native")
            for threads in (1, 2, 3)
        ]
        for other in fits[1:]:
            np.testing.assert_array_equal(fits[0], other)
        assert (KMeansCodebook(5, random_state=8).fit(ragged).cluster_centers_ != fits[0]).any()

    def test_empty_clusters_are_filled(self, rng, monkeypatch):
        """A start with all centres at one far place still ends with every cluster used."""
        x = rng.normal(size=(400, 3)).astype(np.float32)
        far = np.concatenate([x[:1], np.full((5, 3), 1e3, np.float32)])
        monkeypatch.setattr("medvlad.encoders.kmeans.seed_centers", lambda *args: far.copy())
        own = KMeansCodebook(6, random_state=0).fit(x)
        assert (own.counts_ > 0).all()
        assert np.abs(own.cluster_centers_).max() < 10

    def test_fewer_distinct_points_than_clusters(self):
        x = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
        with pytest.warns(ConvergenceWarning, match="2 of n_clusters=5 clusters are empty"):
            own = KMeansCodebook(5, random_state=0).fit(x)
        assert own.inertia_ == 0.0
        assert np.isfinite(own.cluster_centers_).all()

    def test_more_clusters_than_descriptors(self):
        with pytest.raises(InputError, match=r"n_clusters=5 is more than .* \(n_samples = 3\)"):
            KMeansCodebook(5).fit(np.eye(3))

    @pytest.mark.parametrize(
        "bad", [{"n_clusters": 0}, {"n_clusters": 2.0}, {"max_iter": 0}, {"tol": -1.0}, {"tol": "small"}]
    )
    def test_bad_parameters(self, bad):
        with pytest.raises(InputError, match=next(iter(bad))):
            KMeansCodebook(**{"n_clusters": 2, **bad}).fit(np.eye(4))

    def test_several_starts_keep_the_best(self, ragged):
        rng = np.random.RandomState(5)
        single = [KMeansCodebook(4, max_iter=1, random_state=rng).fit(ragged).inertia_ for _ in range(6)]
        several = KMeansCodebook(4, max_iter=1, n_init=6, random_state=5).fit(ragged)
        assert several.inertia_ == min(single) < max(single)
        np.testing.assert_array_equal(several.labels_, several.predict(ragged))

    def test_given_start(self, ragged, rng):
        start = rng.normal(scale=10, size=(3, 8)).astype(np.float32)
        own = KMeansCodebook(3, init=start, tol=0.0, n_init=7).fit(ragged)
        other = KMeans(3, init=start, n_init=1, tol=0.0).fit(ragged.values)
        np.testing.assert_allclose(own.cluster_centers_, other.cluster_centers_, rtol=1e-5, atol=1e-5)
        for bad, message in (
            (start[:2], "init holds 2 centres and n_clusters is 3"),
            (start[:, :4], "init have 4 features, descriptors have 8"),
            ("random", r"init must be one of k-means\+\+, got 'random'"),
        ):
            with pytest.raises(InputError, match=message):
                KMeansCodebook(3, init=bad).fit(ragged)

    def test_fit_predict_has_a_label_for_each_row(self, ragged):
        weights = np.arange(len(ragged.values)) % 2.0
        for codebook, given in (
            (KMeansCodebook(3, random_state=0, max_samples=20), ragged),
            (KMeansCodebook(3, random_state=0), ragged.weighted(weights)),
        ):
            labels = codebook.fit_predict(given)
            assert len(codebook.labels_) < len(labels) == len(ragged.values)
            np.testing.assert_array_equal(labels, codebook.predict(ragged))

    def test_partial_fit_is_a_running_mean(self, rng):
        x = rng.normal(size=(600, 4)).astype(np.float32)
        own = KMeansCodebook(1, random_state=0)
        for part in np.split(x, 6):
            own.partial_fit(part)
        np.testing.assert_allclose(own.cluster_centers_[0], x.mean(axis=0), atol=1e-5)
        assert own.counts_.tolist() == [600]
        assert own.n_iter_ == 6

    def test_partial_fit_approaches_fit(self, ragged):
        own = KMeansCodebook(4, random_state=0)
        for _ in range(5):
            own.partial_fit(ragged)
        assert (
            inertia(ragged.values, own.cluster_centers_)
            < 1.2 * KMeansCodebook(4, random_state=0).fit(ragged).inertia_
        )

    def test_first_batch_too_small(self):
        with pytest.raises(InputError, match="n_clusters=4"):
            KMeansCodebook(4).partial_fit(np.eye(3))

    def test_transform_is_the_distance(self, ragged):
        own = KMeansCodebook(4, random_state=0).fit(ragged)
        x, c = ragged.values.astype(np.float64), own.cluster_centers_
        expected = np.linalg.norm(x[:, None] - c, axis=2)
        np.testing.assert_allclose(own.transform(ragged), expected, rtol=1e-5)
        np.testing.assert_array_equal(own.predict(ragged), expected.argmin(axis=1))


class TestVLAD:
    def test_all_inputs_agree(self, rng):
        x = rng.normal(size=(6, 10, 8)).astype(np.float32)
        vlad = VLAD(3, random_state=0).fit(x)
        for other in (list(x), Descriptors.from_array(x), x.astype(np.float64), tuple(x)):
            np.testing.assert_array_equal(vlad.transform(other), vlad.transform(x))

    def test_given_vocabulary(self, ragged, rng):
        centers = rng.normal(scale=10, size=(3, 8)).astype(np.float32)
        vlad = VLAD(3, centers=centers, power=0.5).fit(ragged)
        expected = mv.vlad_encode(ragged, centers, power=0.5)
        np.testing.assert_array_equal(vlad.transform(ragged), expected)
        np.testing.assert_array_equal(clone(vlad).fit_transform(ragged), expected)
        assert vlad.n_iter_ == 0
        soft = VLAD(3, centers=centers, assignment="soft", local_axes=True).fit(ragged)
        assert np.isfinite(soft.transform(ragged)).all()
        assert soft.alpha_ > 0
        with pytest.raises(InputError, match="centers holds 3 centres and n_clusters is 64"):
            VLAD(centers=centers).fit(ragged)
        with pytest.raises(InputError, match="none to move"):
            VLAD(3, centers=centers).partial_fit(ragged)
        assert not np.shares_memory(vlad.cluster_centers_, centers)
        with pytest.raises(InputError, match="no descriptors"):
            VLAD(3, centers=centers, assignment="soft").fit(ragged[1:2])

    def test_is_vlad_encode_of_its_centers(self, ragged, backend):
        vlad = VLAD(4, power=0.5, intra_norm=True, backend=backend, random_state=0).fit(ragged)
        encoded = vlad.transform(ragged)
        expected = mv.vlad_encode(ragged, vlad.cluster_centers_, power=0.5, intra_norm=True, backend=backend)
        np.testing.assert_array_equal(encoded, expected)
        assert encoded.shape == (5, 32)
        assert encoded.dtype == np.float32
        assert not encoded[1].any()
        assert len(vlad.get_feature_names_out()) == 32

    def test_partial_fit(self, ragged):
        vlad = VLAD(4, random_state=0).partial_fit(ragged).partial_fit(ragged)
        assert vlad.n_iter_ == 2
        np.testing.assert_array_equal(vlad.cluster_centers_, vlad.codebook_.cluster_centers_)
        with pytest.raises(InputError, match="3 features, those that VLAD was fitted on have 8"):
            vlad.partial_fit([np.ones((4, 3))])

    def test_width_is_checked(self, ragged):
        vlad = VLAD(2, random_state=0).fit(ragged)
        with pytest.raises(
            InputError, match="descriptors have 3 features, those that VLAD was fitted on have 8"
        ):
            vlad.transform([np.ones((4, 3))])

    def test_not_fitted(self, ragged):
        with pytest.raises(NotFittedError):
            VLAD().transform(ragged)

    def test_clone_keeps_parameters(self):
        vlad = VLAD(7, power=0.5, intra_norm=True, random_state=3)
        assert clone(vlad).get_params() == vlad.get_params()


class TestGlobalPool:
    @pytest.mark.parametrize("l2_norm", [False, True])
    @pytest.mark.parametrize("mode", ["avg", "max", "gem"])
    def test_against_one_image_at_a_time(self, ragged, mode, l2_norm):
        pooled = GlobalPool(mode, l2_norm=l2_norm).fit_transform(ragged)
        for row, image in zip(pooled, ragged, strict=True):
            if len(image) == 0:
                assert not row.any()
                continue
            image = image.astype(np.float64)
            expected = {
                "avg": lambda v: v.mean(axis=0),
                "max": lambda v: v.max(axis=0),
                "gem": lambda v: (np.maximum(v, 1e-6) ** 3).mean(axis=0) ** (1 / 3),
            }[mode](image)
            if l2_norm:
                expected = expected / np.linalg.norm(expected)
            np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)

    def test_many_images_with_empty_ones(self, rng):
        images = [rng.random((int(n), 3), dtype=np.float32) for n in rng.integers(0, 3, 700)]
        pooled = GlobalPool("avg", l2_norm=False).fit_transform(images)
        expected = [image.mean(axis=0) if len(image) else np.zeros(3) for image in images]
        np.testing.assert_allclose(pooled, expected, rtol=1e-6)

    def test_average_of_one_scale_is_the_paper_baseline(self, rng):
        x = rng.random((5, 49, 16), dtype=np.float32)
        mean = x.mean(axis=1)
        expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        np.testing.assert_allclose(GlobalPool().fit_transform(x), expected, rtol=1e-5)

    @pytest.mark.parametrize("mode", ["avg", "max", "gem"])
    def test_other_images_do_not_matter(self, mode):
        images = [np.full((3, 2), 1e-3), np.full((4, 2), 1e3), np.full((2, 2), 1e30)]
        pool = GlobalPool(mode, l2_norm=False, p=60).fit(images)
        together = pool.transform(images)
        alone = np.concatenate([pool.transform([image]) for image in images])
        np.testing.assert_array_equal(together, alone)
        np.testing.assert_allclose(together[:, 0], [1e-3, 1e3, 1e30], rtol=1e-5)

    def test_bad_mode(self):
        with pytest.raises(InputError, match="mode must be one of avg, sum, max, gem, got 'median'"):
            GlobalPool("median").fit(np.eye(2))


def test_encoder_names():
    assert Recipe(power=0.5).encoder("vlad256").get_params()["n_clusters"] == 256
    assert isinstance(Recipe().encoder("gem"), GlobalPool)
    for bad in ("vlad", "vlad0", "VLAD64", "fisher"):
        with pytest.raises(InputError, match="unknown encoding"):
            Recipe().encoder(bad)


def test_large_numbers_do_not_end_kmeans_early():
    """Their sum is beyond float32; the stopping rule must not notice."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 4)) * 0.2 + rng.choice([1, 2, 3], (5000, 1))
    steps = [
        KMeansCodebook(8, random_state=0).fit((x * scale).astype(np.float32)).n_iter_ for scale in (1, 1e35)
    ]
    assert min(steps) > 1
