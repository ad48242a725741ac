"""Fisher vectors, bags of words, second-order pooling and tiles; numbers of VLFeat and scikit-image."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import logm, sqrtm
from sklearn.base import clone
from sklearn.mixture import GaussianMixture
from support import vlfeat

import medvlad as mv
from medvlad import (
    VLAD,
    BagOfWords,
    Descriptors,
    FisherVector,
    GlobalPool,
    InputError,
    KMeansCodebook,
    SecondOrderPool,
    SpatialTiles,
)

GOLDEN = json.loads(vlfeat.GOLDEN.read_text())
VLAD_SETTINGS = {
    "raw": {"l2_norm": False},
    "mass": {"l2_norm": False, "mass_norm": True},
    "l2": {},
    "power": {"power": 0.5},
    "intra": {"intra_norm": True},
    "mass, intra": {"mass_norm": True, "intra_norm": True},
}
FISHER_SETTINGS = {
    "raw": {"power": 1.0, "l2_norm": False},
    "l2": {"power": 1.0},
    "improved": {"power": 0.5},
}


def as_if_fitted(estimator, n_features, **learnt):
    estimator.n_features_in_ = n_features
    for name, value in learnt.items():
        setattr(estimator, name, value)
    return estimator


class TestVLFeat:
    """Comparison with another implementation."""

    @pytest.mark.skipif(vlfeat.library() is None, reason="no VLFeat here (Debian: libvlfeat-dev)")
    def test_the_recorded_numbers_are_those_of_vlfeat(self):
        for name, vector in vlfeat.encodings().items():
            np.testing.assert_allclose(vector, GOLDEN[name], rtol=1e-6, atol=1e-7, err_msg=name)

    def test_every_recorded_encoding_is_compared(self):
        ours = [f"vlad {name}" for name in VLAD_SETTINGS] + [f"fisher {name}" for name in FISHER_SETTINGS]
        assert sorted(GOLDEN) == sorted(ours)

    @pytest.mark.parametrize("backend", ["reference", "native"])
    @pytest.mark.parametrize("name", VLAD_SETTINGS)
    def test_vlad_agrees_with_vlfeat(self, name, backend):
        x, centers, *_ = vlfeat.problem()
        vlad = as_if_fitted(VLAD(4, backend=backend, **VLAD_SETTINGS[name]), 5, cluster_centers_=centers)
        np.testing.assert_allclose(vlad.transform([x])[0], GOLDEN[f"vlad {name}"], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("name", FISHER_SETTINGS)
    def test_fisher_vectors_agree_with_vlfeat(self, name):
        x, means, variances, priors, _ = vlfeat.problem()
        fisher = as_if_fitted(
            FisherVector(4, **FISHER_SETTINGS[name]),
            5,
            means_=means.astype(np.float64),
            variances_=variances.astype(np.float64),
            weights_=priors.astype(np.float64),
        )
        # VLFeat leaves posteriors below 1e-6 out, and square roots make small differences large.
        atol = 2e-3 if name == "improved" else 1e-5
        np.testing.assert_allclose(fisher.transform([x])[0], GOLDEN[f"fisher {name}"], rtol=1e-4, atol=atol)


def test_fisher_vectors_agree_with_scikit_image(rng):
    fisher_vector = pytest.importorskip("skimage.feature", reason="needs scikit-image").fisher_vector
    x = rng.normal(size=(40, 6)).astype(np.float32)
    mixture = GaussianMixture(3, covariance_type="diag", random_state=0).fit(rng.normal(size=(300, 6)))
    theirs = fisher_vector(x, mixture, improved=False)
    ours = as_if_fitted(
        FisherVector(3, power=1.0, l2_norm=False),
        6,
        means_=mixture.means_,
        variances_=mixture.covariances_,
        weights_=mixture.weights_,
    ).transform([x])[0]
    np.testing.assert_allclose(ours[:18], theirs[3:21], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours[18:], -theirs[21:], rtol=1e-4, atol=1e-6)


@pytest.fixture
def images(rng):
    groups = rng.normal(scale=4, size=(3, 6))
    return Descriptors.from_list(
        [(groups[rng.integers(0, 3, n)] + rng.normal(size=(n, 6))).astype(np.float32) for n in (9, 0, 30, 14)]
    )


ENCODERS = {
    "fisher": FisherVector(3, random_state=0),
    "words": BagOfWords(4, random_state=0),
    "frequencies": BagOfWords(4, tf_idf=False, l2_norm=False, random_state=0),
    "sqrt": SecondOrderPool(),
    "log": SecondOrderPool("log", power=0.5),
    "bilinear": SecondOrderPool(None, l2_norm=False),
    "sum": GlobalPool("sum", l2_norm=False),
}


@pytest.fixture(params=ENCODERS)
def encoder(request, images):
    return clone(ENCODERS[request.param]).fit(images)


@pytest.fixture
def vectors(encoder, images):
    return encoder.transform(images)


def test_vectors_are_finite_float32_and_zero_for_an_empty_image(encoder, vectors):
    assert vectors.dtype == np.float32
    assert vectors.shape == (4, len(encoder.get_feature_names_out()))
    assert np.isfinite(vectors).all()
    assert not vectors[1].any()


def test_unit_length_is_the_length_1(encoder, vectors):
    if not encoder.get_params().get("l2_norm"):
        pytest.skip("no unit length")
    np.testing.assert_allclose(np.linalg.norm(vectors[[0, 2, 3]], axis=1), 1, atol=1e-6)


def test_an_image_alone_gives_the_same_vector(encoder, images, vectors):
    tolerance = 1e-5 * np.abs(vectors).max()
    alone = np.concatenate([encoder.transform(images[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(alone, vectors, rtol=0, atol=tolerance)


def test_the_order_of_descriptors_does_not_matter(encoder, images, vectors, rng):
    tolerance = 1e-5 * np.abs(vectors).max()
    shuffled = Descriptors.from_list([rng.permutation(image) for image in images])
    np.testing.assert_allclose(encoder.transform(shuffled), vectors, rtol=0, atol=tolerance)


def test_doubled_descriptors_double_sums_only(encoder, images, vectors):
    tolerance = 1e-5 * np.abs(vectors).max()
    doubled = encoder.transform(Descriptors.from_list([np.concatenate([x, x]) for x in images]))
    factor = 2 if getattr(encoder, "mode", None) == "sum" else 1
    np.testing.assert_allclose(doubled, factor * vectors, rtol=0, atol=tolerance)


def test_a_second_fit_gives_the_same_bits(encoder, images, vectors):
    again = clone(encoder).fit(images).transform(images)
    np.testing.assert_array_equal(again, vectors)


def test_images_in_a_store_give_the_same_bits(encoder, images, tmp_path):
    from medvlad.store.store import DescriptorStore

    section = DescriptorStore(tmp_path / "store").section({"of": "tests"})
    keys = [f"key {i}" if len(image) else None for i, image in enumerate(images)]
    with section.writer() as writer:
        for key, image in zip(keys, images, strict=True):
            if key is not None:
                writer.add(key, image)
    stored = mv.StoredDescriptors(section, keys)
    np.testing.assert_array_equal(encoder.transform(stored), encoder.transform(images))
    np.testing.assert_array_equal(clone(encoder).fit(stored).transform(images), encoder.transform(images))


class TestFisherVector:
    def test_moments_agree_with_sums_by_hand(self, images):
        fisher = FisherVector(3, power=1.0, l2_norm=False, random_state=0).fit(images)
        sigma = np.sqrt(fisher.variances_)
        for got, x in zip(fisher.transform(images), images, strict=True):
            u, v = np.zeros((3, 6)), np.zeros((3, 6))
            for row in x.astype(np.float64):
                z = (row - fisher.means_) / sigma
                density = fisher.weights_ * np.exp(-0.5 * (z**2).sum(axis=1)) / sigma.prod(axis=1)
                q = (density / density.sum())[:, None]
                u += q * z / np.sqrt(fisher.weights_)[:, None]
                v += q * (z**2 - 1) / np.sqrt(2 * fisher.weights_)[:, None]
            expected = np.concatenate([u.ravel(), v.ravel()]) / max(len(x), 1)
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)

    def test_the_gradient_of_the_training_descriptors_is_zero(self, images):
        """At a maximum of the likelihood the derivatives vanish."""
        fisher = FisherVector(
            2, power=1.0, l2_norm=False, reg_covar=1e-9, tol=1e-10, max_iter=2000, random_state=0
        )
        everything = Descriptors(images.values, [0, len(images.values)])
        vector = fisher.fit(everything).transform(everything)
        assert np.abs(vector).max() < 1e-3

    def test_the_unit_of_the_descriptors_does_not_matter(self, images):
        shifted = Descriptors(images.values * 1000 + 5000, images.offsets)
        a = FisherVector(3, random_state=0).fit_transform(images)
        np.testing.assert_allclose(FisherVector(3, random_state=0).fit_transform(shifted), a, atol=2e-3)

    def test_more_gaussians_than_descriptors_are_refused(self, images):
        with pytest.raises(InputError, match="n_components=60 is more"):
            FisherVector(60).fit(images)

    def test_equal_descriptors_are_refused(self):
        with pytest.raises(InputError, match="are the same and have no Gaussians"):
            FisherVector(2).fit(np.ones((4, 3, 2)))

    def test_a_wrong_power_is_named(self, images):
        with pytest.raises(InputError, match="power"):
            FisherVector(2, power=0.0).fit(images)

    def test_kmeans_uses_all_drawn_descriptors(self, rng, monkeypatch):
        fewer = KMeansCodebook.__init__.__kwdefaults__ | {"max_samples": 20}
        monkeypatch.setattr(KMeansCodebook.__init__, "__kwdefaults__", fewer)
        x = rng.normal(size=(10, 5, 3)).astype(np.float32)
        assert FisherVector(2, max_samples=None, random_state=0).fit_transform(x).shape == (10, 12)


class TestBagOfWords:
    @pytest.mark.parametrize("backend", ["reference", "native"])
    def test_words_agree_with_counts_by_hand(self, images, backend):
        words = BagOfWords(4, backend=backend, l2_norm=False, random_state=0).fit(images)
        counts = np.zeros((4, 4))
        for i, x in enumerate(images):
            for row in x:
                counts[i, ((row - words.cluster_centers_) ** 2).sum(axis=1).argmin()] += 1
        idf = [math.log(4 / (counts[:, k] > 0).sum()) for k in range(4)]
        expected = counts / np.maximum(counts.sum(axis=1), 1)[:, None] * idf
        np.testing.assert_allclose(words.transform(images), expected, atol=1e-6)

    def test_frequencies_sum_to_one(self, images):
        vectors = BagOfWords(5, tf_idf=False, l2_norm=False, random_state=0).fit_transform(images)
        np.testing.assert_allclose(vectors.sum(axis=1), [1, 0, 1, 1], atol=1e-6)


class TestSecondOrderPool:
    @pytest.mark.parametrize("mode", ["sqrt", "log", None])
    def test_vectors_agree_with_scipy(self, images, mode):
        vectors = SecondOrderPool(mode, l2_norm=False).fit_transform(images)
        upper = np.triu_indices(6)
        for vector, x in zip(vectors, images, strict=True):
            if not len(x):
                continue
            matrix = x.T.astype(np.float64) @ x / len(x)
            if mode == "sqrt":
                matrix = sqrtm(matrix).real
            elif mode == "log":
                matrix = logm(matrix + 1e-3 * np.trace(matrix) / 6 * np.eye(6))
            weights = np.where(upper[0] == upper[1], 1, math.sqrt(2))
            np.testing.assert_allclose(vector, matrix[upper] * weights, rtol=1e-4, atol=1e-4)

    def test_scalar_products_are_those_of_matrices(self, images):
        vectors = SecondOrderPool(None, l2_norm=False).fit_transform(images).astype(np.float64)
        a, b = (x.T.astype(np.float64) @ x / len(x) for x in (images[0], images[2]))
        assert vectors[0] @ vectors[2] == pytest.approx((a * b).sum(), rel=1e-5)

    def test_an_unknown_mode_is_named(self, images):
        with pytest.raises(InputError, match="mode"):
            SecondOrderPool("cube").fit(images)

    def test_a_wrong_epsilon_is_named(self, images):
        with pytest.raises(InputError, match="epsilon"):
            SecondOrderPool(epsilon=0.0).fit(images)


class TestSpatialTiles:
    @given(
        st.integers(1, 7), st.integers(1, 7), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**31 - 1)
    )
    def test_residuals_of_tiles_add_up(self, h, w, rows, columns, seed):
        rng = np.random.default_rng(seed)
        maps = rng.integers(-4, 5, (3, h, w, 4)).astype(np.float32)
        vlad = VLAD(1, l2_norm=False, random_state=0).fit(maps)
        vlad.n_clusters, vlad.cluster_centers_ = 2, rng.integers(-4, 5, (2, 4)).astype(np.float32)
        tiles = SpatialTiles(vlad, grids=[(h, w)], tiles=[(rows, columns)], l2_norm=False)
        tiles.n_features_in_, tiles.encoder_ = 4, vlad
        parts = tiles.transform(maps).reshape(3, rows * columns, 8)
        np.testing.assert_array_equal(parts.sum(axis=1), vlad.transform(maps))

    def test_each_descriptor_is_in_the_tile_of_its_place(self):
        maps = np.zeros((1, 4, 6, 24), np.float32)
        maps[0].reshape(24, 24)[:] = np.eye(24)
        vectors = SpatialTiles(
            GlobalPool("sum", l2_norm=False), grids=[(4, 6)], tiles=[(2, 3), (1, 1)], l2_norm=False
        ).fit_transform(maps)
        tiles = vectors.reshape(7, 4, 6)
        for row in range(2):
            for column in range(3):
                expected = np.zeros((4, 6))
                expected[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 1
                np.testing.assert_array_equal(tiles[3 * row + column], expected)
        assert (tiles[6] == 1).all()

    def test_the_middle_of_an_odd_grid_goes_to_one_side(self):
        tiles = SpatialTiles(GlobalPool(), grids=[(1, 5)], tiles=[(1, 2)])
        assert tiles._tile_of_each(1, 2).tolist() == [0, 0, 1, 1, 1]

    def test_descriptors_of_mirror_images_count_at_their_original_place(self, rng):
        maps = rng.random((2, 3, 4, 5)).astype(np.float32)
        both = np.concatenate([maps.reshape(2, 12, 5), maps[:, :, ::-1].reshape(2, 12, 5)], axis=1)
        once = SpatialTiles(GlobalPool(), grids=[(3, 4)], tiles=[(1, 2)]).fit_transform(maps)
        twice = SpatialTiles(
            GlobalPool(), grids=[(3, 4)] * 2, mirrored=[False, True], tiles=[(1, 2)]
        ).fit_transform(both)
        np.testing.assert_allclose(once, twice, atol=1e-6)

    def test_an_empty_image_gives_zeros(self, rng):
        images = Descriptors.from_list([rng.random((4, 3)), np.zeros((0, 3)), rng.random((4, 3))])
        tiles = SpatialTiles(VLAD(2, random_state=0), grids=[(2, 2)]).fit(images)
        vectors = tiles.transform(images)
        assert vectors.shape == (3, 5 * 6) == (3, len(tiles.get_feature_names_out()))
        assert not vectors[1].any()
        np.testing.assert_allclose(np.linalg.norm(vectors[[0, 2]], axis=1), 1, atol=1e-6)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"grids": [(2, 3)]}, r"image 0 has 4 descriptors, but grids=.* have 6"),
            ({"grids": []}, "grids must be pairs"),
            ({"grids": (2, 2)}, "grids must be pairs"),
            ({"grids": [(1.6, 2.5)]}, "grids must be pairs"),
            ({"tiles": [(0, 1)]}, "tiles must be pairs"),
            ({"tiles": [(1.5, 1)]}, "tiles must be pairs"),
            ({"tiles": [(1, 1, 1)]}, "tiles must be pairs"),
            ({"tiles": 2}, "tiles must be pairs"),
            ({"mirrored": [True, False]}, "mirrored must hold True or False for each of 1 grids"),
            ({"mirrored": True}, "mirrored must hold True or False for each of 1 grids"),
        ],
    )
    def test_wrong_settings_are_named(self, rng, settings, message):
        with pytest.raises(InputError, match=message):
            SpatialTiles(GlobalPool(), **({"grids": [(2, 2)]} | settings)).fit(rng.random((3, 4, 5)))
