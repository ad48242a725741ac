"""Recipes and presets: the estimators that settings give."""

import warnings

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import Normalizer

from medvlad import VLAD, Descriptors, GlobalPool, InputError, WideLinearSVC
from medvlad.encoders.projection import DescriptorProjection
from medvlad.encoders.recipe import PRESETS, Recipe, encoder_steps, vector_width
from medvlad.encoders.vector_pca import VectorPCA
from medvlad.experiment import Experiment


@pytest.fixture
def images(rng):
    return Descriptors.from_list([rng.normal(size=(n, 6)) for n in (5, 9, 0, 12, 7, 8)])


def test_default_settings_give_the_encoder_alone():
    encoder = Recipe().encoder("vlad8", random_state=3)
    assert isinstance(encoder, VLAD)
    assert (encoder.n_clusters, encoder.power, encoder.random_state) == (8, 1.0, 3)
    assert encoder_steps(encoder) == [("encode", encoder)]


def test_all_settings_give_four_steps_in_order(images):
    encoder = Recipe(descriptor_norm=True, n_components=3, vocabularies=2, reduce=2, whiten=True).encoder(
        "vlad2"
    )
    assert [name for name, _ in encoder_steps(encoder)] == ["descriptors", "encode", "reduce", "normalise"]
    vectors = encoder.fit_transform(images)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert vectors.shape == (6, 2)


@pytest.mark.parametrize("name", ["avg", "vlad3", "fisher2", "bow4", "second-order", "avg+vlad2+bow3"])
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(descriptor_norm=True, n_components=3),
        Recipe(vocabularies=2),
        Recipe(tiles=((1, 1), (2, 1))),
        Recipe(n_components=2, reduce=3),
    ],
    ids=["default", "projection", "vocabularies", "tiles", "reduce"],
)
def test_the_width_of_vectors_is_known_before_the_encoder_is_fitted(rng, name, recipe):
    maps = Descriptors.from_array(rng.normal(size=(6, 4, 6)))
    encoder = recipe.encoder(name, random_state=0, grids=[(2, 2)])
    if name == "avg" and recipe.reduce:
        encoder.set_params(reduce__n_components=2)  # as many as there are numbers
    width = vector_width(encoder, 6)
    assert encoder.fit_transform(maps).shape == (6, width)
    assert vector_width(encoder, 6) == width


def test_vocabularies_stand_side_by_side(images):
    union = dict(encoder_steps(Recipe(vocabularies=3).encoder("vlad2", random_state=5)))["encode"]
    assert isinstance(union, FeatureUnion)
    vectors = union.fit_transform(images)
    parts = [part.transform(images) for _, part in union.transformer_list]
    np.testing.assert_array_equal(vectors, np.concatenate(parts, axis=1))
    first = VLAD(2, random_state=5).fit(images)
    np.testing.assert_array_equal(parts[0], first.transform(images))
    assert not np.array_equal(parts[0], parts[1])


def test_encodings_stand_side_by_side(images):
    encoder = Recipe(power=0.5, vocabularies=2).encoder("avg+vlad3", random_state=1)
    vectors = encoder.fit_transform(images)
    assert vectors.shape == (6, 6 + 2 * 18)
    average = GlobalPool().fit_transform(images)
    norms = np.linalg.norm(average, axis=1)
    np.testing.assert_allclose(
        vectors[:, :6], average / np.sqrt(np.where(norms > 0, 3, 1))[:, None], atol=1e-6
    )


def test_an_encoding_that_names_an_encoder_twice_is_refused():
    with pytest.raises(InputError, match="names one encoder twice"):
        Recipe().encoder("avg+avg")


def test_residual_normalisation_agrees_with_numbers_by_hand(images):
    vlad = VLAD(3, residual_norm=True, power=0.5, intra_norm=True, random_state=0).fit(images)
    got = vlad.transform(images)
    centers = vlad.cluster_centers_.astype(np.float64)
    for i, x in enumerate(images):
        expected = np.zeros_like(centers)
        for row in x.astype(np.float64):
            k = int(((row - centers) ** 2).sum(axis=1).argmin())
            expected[k] += (row - centers[k]) / np.linalg.norm(row - centers[k])
        expected = np.sign(expected) * np.sqrt(np.abs(expected))
        norms = np.linalg.norm(expected, axis=1, keepdims=True)
        expected = np.divide(expected, norms, out=np.zeros_like(expected), where=norms > 0)
        expected /= max(np.linalg.norm(expected), 1e-12)
        np.testing.assert_allclose(got[i], expected.ravel(), atol=1e-6)


def test_a_descriptor_at_its_centre_adds_nothing():
    x = np.array([[1.0, 2.0], [4.0, 2.0]], np.float32)
    centers = np.array([[1.0, 2.0]], np.float32)
    vlad = VLAD(1, residual_norm=True, l2_norm=False, random_state=0).fit(x)
    vlad.cluster_centers_ = centers
    np.testing.assert_array_equal(vlad.transform(x[None]), [[1.0, 0.0]])


def test_presets_are_settings_of_an_experiment():
    fields = Experiment.__dataclass_fields__.keys() | Recipe.__dataclass_fields__.keys() | {"encode"}
    for preset in PRESETS.values():
        assert preset.keys() <= fields
        for name in preset["encode"].split(","):
            assert isinstance(Recipe().encoder(name), VLAD | GlobalPool)


def test_whitening_keeps_the_dimensions_that_vary(rng):
    """Of 20 images that stand twice, 20 components are asked for, and 19 vary around the mean."""
    x = np.repeat(rng.normal(size=(20, 400)).astype(np.float32), 2, axis=0)
    other = rng.normal(size=(5, 400)).astype(np.float32)
    with pytest.warns(UserWarning, match=r"only 19 of reduce=20 components .* choose reduce=19 or fewer"):
        pca = VectorPCA(20, whiten=True, random_state=0).fit(x)
    assert pca.transform(other).shape == (5, 19)
    exact = PCA(19, whiten=True).fit(x.astype(np.float64)).transform(other)
    np.testing.assert_allclose(np.abs(pca.transform(other)), np.abs(exact), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("offset", [0, 1, 30])
@pytest.mark.parametrize("shape", [(20, 30), (12, 3000), (150, 400)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_numerical_rank_is_found(rng, shape, dtype, offset):
    x = rng.normal(size=shape) + offset * rng.random(shape[1])
    x = np.repeat(x / np.linalg.norm(x, axis=1, keepdims=True), 2, axis=0).astype(dtype)
    with pytest.warns(UserWarning, match="components vary"):
        vectors = VectorPCA(min(*x.shape, shape[0] + 5), whiten=True, random_state=0).fit_transform(x)
    assert vectors.shape[1] == shape[0] - 1
    np.testing.assert_allclose(vectors.std(axis=0, ddof=1), 1, rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dependent_features_of_many_images_are_found(rng, dtype):
    x = 3 + rng.normal(size=(400, 12)).astype(dtype)
    x[:, 11] = x[:, 0]
    with pytest.warns(UserWarning, match="only 11 of reduce=12 components vary"):
        pca = VectorPCA(12, whiten=True).fit(x)
    assert (pca.n_components_, pca.svd_solver) == (11, "auto")


def test_independent_vectors_are_whitened_in_full(rng):
    pca = VectorPCA(19, whiten=True, random_state=0).fit(rng.normal(size=(20, 400)).astype(np.float32))
    assert pca.n_components_ == 19


def test_equal_vectors_cannot_be_whitened():
    with pytest.raises(InputError, match="all training images are equal"):
        VectorPCA(2, whiten=True).fit(np.full((5, 4), 0.1, np.float32))


def test_whitening_beyond_the_rank_costs_no_accuracy(rng):
    directions = rng.normal(size=(2, 300))
    y = np.repeat([0, 1], 100)
    images = (directions[y] + 3 * rng.normal(size=(200, 300))).astype(np.float32)
    train = np.r_[0:10, 100:110]
    train = np.repeat(train, 2)
    test = np.r_[20:100, 120:200]
    accuracy = {}
    for n in (19, 20):
        steps = make_pipeline(VectorPCA(n, whiten=True, random_state=0), Normalizer(), WideLinearSVC())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            accuracy[n] = steps.fit(images[train], y[train]).score(images[test], y[test])
    assert accuracy[20] == accuracy[19] > 0.7


def test_whitening_needs_reduce():
    with pytest.raises(InputError, match="give reduce as well"):
        Recipe(whiten=True).encoder("avg")


def test_there_is_at_least_one_vocabulary():
    with pytest.raises(InputError, match="vocabularies must be"):
        Recipe(vocabularies=0).encoder("vlad4")


def test_pca_of_descriptors_is_the_first_step():
    assert isinstance(
        dict(encoder_steps(Recipe(n_components=2).encoder("avg")))["descriptors"], DescriptorProjection
    )


def test_a_number_in_a_name_is_the_number_of_centres():
    assert Recipe(power=0.5).encoder("vlad256").get_params()["n_clusters"] == 256
    assert isinstance(Recipe().encoder("gem"), GlobalPool)
    for bad in ("vlad", "vlad0", "VLAD64", "fisher"):
        with pytest.raises(InputError, match="unknown encoding"):
            Recipe().encoder(bad)
