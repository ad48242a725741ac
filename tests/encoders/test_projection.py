"""Projection of descriptors: unit length, PCA, whitening."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from medvlad import VLAD, Descriptors, InputError, KMeansCodebook
from medvlad.encoders.projection import DescriptorProjection
from medvlad.store.store import DescriptorStore
from medvlad.store.stored_descriptors import StoredDescriptors


@pytest.fixture
def images(rng):
    lengths = [4, 0, 30, 17, 0]
    return Descriptors.from_list([rng.normal(1, [1, 3, 2, 0.5, 1], (n, 5)) for n in lengths])


def test_descriptors_get_unit_length_and_keep_their_direction(images):
    images.values[2] = 0
    got = DescriptorProjection().fit_transform(images)
    np.testing.assert_array_equal(got.offsets, images.offsets)
    norms = np.linalg.norm(got.values, axis=1)
    assert norms[2] == 0
    np.testing.assert_allclose(np.delete(norms, 2), 1, rtol=1e-6)
    parallel = np.einsum("ij,ij->i", got.values, images.values)
    np.testing.assert_allclose(parallel, np.linalg.norm(images.values, axis=1), rtol=1e-6)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("l2_norm", [False, True])
def test_pca_is_that_of_scikit_learn(images, whiten, l2_norm):
    x = images.values.astype(np.float64)
    if l2_norm:
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    expected = PCA(3, whiten=whiten, svd_solver="full").fit_transform(x)
    if whiten:  # scikit-learn divides the variance by n - 1
        expected *= np.sqrt(len(x) / (len(x) - 1))
    projection = DescriptorProjection(3, l2_norm=l2_norm, whiten=whiten)
    got = projection.fit_transform(images).values
    signs = np.sign((got * expected).sum(axis=0))
    np.testing.assert_allclose(got, expected * signs, rtol=1e-4, atol=1e-5)
    largest = np.abs(projection.components_).argmax(axis=1)
    assert (projection.components_[np.arange(3), largest] > 0).all()


@pytest.mark.parametrize("n", [50, 20_000])
def test_a_large_mean_costs_no_digits_of_the_covariance(rng, n):
    """The same numbers far from the origin: one block of rows, and several."""
    near = rng.integers(-512, 513, (n, 1, 4)).astype(np.float32) * np.float32([3, 1, 0.25, 0.125]) / 128
    settings = {"n_components": 4, "l2_norm": False, "max_samples": None}
    expected = DescriptorProjection(**settings).fit(near)
    far = near + np.float32(1e4)
    assert (far - np.float32(1e4) == near).all()  # the shift is exact
    found = DescriptorProjection(**settings).fit(far)
    np.testing.assert_allclose(found.explained_variance_, expected.explained_variance_, rtol=1e-12)
    np.testing.assert_allclose(found.components_, expected.components_, atol=1e-11)
    np.testing.assert_allclose(found.mean_ - 1e4, expected.mean_, atol=1e-10)


def test_a_first_block_that_differs_from_the_rest_costs_no_digits(rng):
    """The shift is the mean of the first 8192 rows only."""
    x = rng.normal(1e4, 1, (20_000, 3))
    x[:8192] += 50
    found = DescriptorProjection(3, l2_norm=False, max_samples=None).fit(x[:, None].astype(np.float32))
    exact = np.linalg.eigvalsh(np.cov(x.astype(np.float32).astype(np.float64), rowvar=False, bias=True))
    np.testing.assert_allclose(found.explained_variance_, exact[::-1], rtol=1e-10)


def test_a_small_variance_far_from_the_origin_can_be_whitened(rng):
    x = np.float32(1e4) + rng.integers(-4, 5, (1000, 1, 2)).astype(np.float32) / 128
    found = DescriptorProjection(2, l2_norm=False, whiten=True).fit_transform(x)
    np.testing.assert_allclose(found.values.var(axis=0), 1, rtol=1e-5)


@pytest.mark.parametrize("value", [0.1, 1e4, 1e-20])
def test_a_constant_dimension_cannot_be_whitened(rng, value):
    x = np.full((9000, 1, 3), value, np.float32)
    x[:, :, 0] += rng.normal(size=(9000, 1)).astype(np.float32)
    with pytest.raises(InputError, match="only 1 of n_components=2 vary"):
        DescriptorProjection(2, whiten=True, l2_norm=False).fit(x)


def test_images_in_a_store_give_the_same_bits(images, tmp_path):
    section = DescriptorStore(tmp_path / "store").section({"model": "a"})
    keys = [f"{i:064x}" for i in range(len(images))]
    with section.writer() as writer:
        for key, values in zip(keys, images, strict=True):
            writer.add(key, values)
    stored = StoredDescriptors(section, keys[::-1])
    backwards = images.take(range(len(images))[::-1])
    for projection in (DescriptorProjection(), DescriptorProjection(2, random_state=0)):
        here = clone(projection).fit(backwards).transform(backwards)
        there = clone(projection).fit(stored).transform(stored)
        np.testing.assert_array_equal(here.values, there.values)
        np.testing.assert_array_equal(here.offsets, there.offsets)


def test_a_subsample_gives_nearly_the_same_components(rng):
    images = Descriptors.from_array(rng.normal(0, [9, 3, 1, 0.1], (500, 10, 4)))
    whole = DescriptorProjection(2, l2_norm=False).fit(images)
    drawn = DescriptorProjection(2, l2_norm=False, max_samples=2000, random_state=0).fit(images)
    assert not np.array_equal(whole.components_, drawn.components_)
    np.testing.assert_allclose(whole.components_, drawn.components_, atol=0.05)
    again = DescriptorProjection(2, l2_norm=False, max_samples=2000, random_state=0).fit(images)
    np.testing.assert_array_equal(again.components_, drawn.components_)


@given(st.integers(0, 2**31 - 1), st.integers(1, 4))
def test_one_image_alone_is_the_same_image_in_a_batch(seed, n_components):
    rng = np.random.default_rng(seed)
    images = Descriptors.from_list([rng.normal(size=(n, 4)) for n in rng.integers(0, 9, 5)] + [np.eye(4)])
    projection = DescriptorProjection(n_components).fit(images)
    together = projection.transform(images)
    for i in range(len(images)):
        alone = projection.transform(images[i : i + 1]).values
        np.testing.assert_allclose(alone, together[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("n", "message"), [(6, "n_components=6 is more"), (0, "n_components must be")])
def test_a_wrong_number_of_components_is_named(images, n, message):
    with pytest.raises(InputError, match=message):
        DescriptorProjection(n).fit(images)


def test_dependent_dimensions_cannot_be_whitened():
    with pytest.raises(InputError, match="only 1 of n_components=2 vary"):
        DescriptorProjection(2, whiten=True, l2_norm=False).fit([np.arange(12.0)[:, None] * [1.0, 2.0]])


def test_descriptors_of_another_width_are_refused(images):
    with pytest.raises(InputError, match="descriptors"):
        DescriptorProjection(2).fit(images).transform([np.ones((2, 4))])


@pytest.mark.parametrize("library", ["pandas", "polars", "default"])
def test_a_pipeline_can_return_tables(images, library):
    pytest.importorskip("pandas" if library == "default" else library)
    steps = make_pipeline(DescriptorProjection(), VLAD(2, random_state=0)).set_output(transform=library)
    expected = make_pipeline(DescriptorProjection(), VLAD(2, random_state=0)).fit_transform(images)
    table = steps.fit_transform(images)
    assert type(table).__module__.split(".")[0] == ("numpy" if library == "default" else library)
    np.testing.assert_array_equal(np.asarray(table), expected)


def test_unit_centres_order_descriptors_by_cosine(rng):
    """Note 7 of the page about encodings."""
    unit = DescriptorProjection().fit_transform(rng.normal(size=(30, 20, 5)) + 1)
    centers = KMeansCodebook(6, random_state=0).fit(unit).cluster_centers_
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    vlad = VLAD(6, centers=centers).fit(unit)
    cosine = unit.values.astype(np.float64) @ centers.T
    np.testing.assert_array_equal(vlad.memberships(unit.values)[0][:, 0], cosine.argmax(axis=1))


@pytest.mark.parametrize("n_components", [None, 2])
def test_descriptors_that_would_fill_memory_are_projected_when_they_are_read(
    images, tmp_path, monkeypatch, n_components
):
    section = DescriptorStore(tmp_path / "store").section({"model": "a"})
    keys = [f"{i:064x}" for i in range(len(images))]
    with section.writer() as writer:
        for key, values in zip(keys, images, strict=True):
            writer.add(key, values)
    stored = StoredDescriptors(section, keys)
    projection = DescriptorProjection(n_components, random_state=0).fit(stored)
    inside = projection.transform(stored)
    monkeypatch.setattr("medvlad.encoders.projection._IN_MEMORY", 0)
    outside = projection.transform(stored)
    assert not isinstance(outside, Descriptors)
    assert (len(outside), outside.n_features) == (len(inside), inside.n_features)
    np.testing.assert_allclose(outside.load().values, inside.values, rtol=1e-6, atol=1e-7)
    taken, order = outside.take([3, 0]), [3, 0]
    np.testing.assert_allclose(taken.load().values, inside.take(order).values, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(outside.sample(9, 0), inside.values[_drawn(inside, 9)], rtol=1e-6, atol=1e-7)


def _drawn(images, n):
    from medvlad.descriptors.ragged import draw_rows

    return draw_rows(len(images.values), n, 0)
