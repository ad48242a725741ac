"""Descriptors with weights in several cells: sums of every backend, and the settings of VLAD."""

import itertools
import math

import hypothesis
import numpy as np
import pytest
from conftest import TOLERANCE
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from support.batches import batch, bits

from medvlad import VLAD, Descriptors, InputError
from medvlad.backends import get_backend, reference
from medvlad.backends.normalise import Normalisation
from medvlad.encoders.memberships import Memberships, softness

HOSTS = ["reference", "native"]
WAYS = [
    Normalisation(power, mass, intra, l2)
    for power, mass, intra, l2 in itertools.product((1.0, 0.5, 0.3), *[(False, True)] * 3)
]


def members(rng, n, k, r):
    """Return cells (n, r), no cell twice in a row, and weights, some of them 0."""
    cells = np.argsort(rng.random((n, k)), axis=1)[:, :r].astype(np.int32)
    weights = rng.random((n, r)) * (rng.random((n, r)) < 0.8)
    return np.ascontiguousarray(cells), weights


def weighted(name, *arguments, **settings):
    return get_backend(name).encode_weighted(*arguments, **settings)


@hypothesis.settings(max_examples=20)
@given(
    seed=st.integers(0, 2**31 - 1),
    lengths=st.lists(st.integers(0, 40), max_size=6),
    k=st.sampled_from([1, 2, 31, 33]),
    d=st.sampled_from([1, 7, 8, 31, 33]),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_native_agrees_with_the_reference(seed, lengths, k, d, share):
    rng = np.random.default_rng(seed)
    x, offsets, c = batch(rng, lengths, k, d)
    cells, weights = members(rng, len(x), k, 1 + int(share * (k - 1)))
    for way in WAYS:
        masses, expected_masses = np.full((2, len(lengths), k), np.nan)
        got = weighted("native", x, offsets, c, cells, weights, way, n_threads=1, masses_out=masses)
        expected = reference.encode_weighted(x, offsets, c, cells, weights, way, masses_out=expected_masses)
        scale = np.abs(expected).max(initial=1.0)
        np.testing.assert_allclose(got, expected, rtol=0, atol=scale * TOLERANCE["encode", "float32"])
        np.testing.assert_array_equal(masses, expected_masses)


@pytest.mark.parametrize("lengths", [[5, 0, 9], [70], []])
@pytest.mark.parametrize("d", [1, 33])
def test_every_backend_agrees_with_the_reference(rng, backend, lengths, d):
    x, offsets, c = batch(rng, lengths, 4, d)
    cells, weights = members(rng, len(x), 4, 2)
    for way in WAYS:
        masses, expected_masses = np.full((2, len(lengths), 4), np.nan)
        found = weighted(backend, x, offsets, c, cells, weights, way, n_threads=1, masses_out=masses)
        expected = reference.encode_weighted(x, offsets, c, cells, weights, way, masses_out=expected_masses)
        scale = np.abs(expected).max(initial=1.0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=scale * TOLERANCE["encode", "float32"])
        np.testing.assert_array_equal(masses, expected_masses)


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("lengths", [[3, 0, 200, 1], [9000, 5], []])
def test_bits_do_not_depend_on_threads_or_cuts(rng, name, lengths):
    x, offsets, c = batch(rng, lengths, 33, 40)
    cells, weights = members(rng, len(x), 33, 3)
    for way in (WAYS[0], WAYS[-1]):
        whole = weighted(name, x, offsets, c, cells, weights, way, n_threads=1)
        for n_threads in (2, 5):
            again = weighted(name, x, offsets, c, cells, weights, way, n_threads=n_threads)
            np.testing.assert_array_equal(bits(again), bits(whole))
        for b, (first, last) in enumerate(itertools.pairwise(offsets)):
            own = slice(first, last)
            alone = weighted(
                name,
                x[own],
                np.array([0, last - first]),
                c,
                cells[own],
                weights[own],
                way,
                n_threads=2,
            )
            np.testing.assert_array_equal(bits(alone[0]), bits(whole[b]))


def test_weighted_sums_of_integers_are_exact(rng, backend):
    x, offsets, c = batch(rng, [30, 0, 700], 12, 17, integers=True)
    cells, _ = members(rng, len(x), 12, 4)
    weights = rng.integers(-2, 3, cells.shape).astype(np.float64)
    got = weighted(backend, x, offsets, c, cells, weights, Normalisation(l2_norm=False), n_threads=2)
    expected = np.zeros((3, 12, 17), np.int64)
    image = np.repeat(np.arange(3), np.diff(offsets))
    for i, row in enumerate(x.astype(np.int64)):
        for cell, weight in zip(cells[i], weights[i], strict=True):
            expected[image[i], cell] += int(weight) * (row - c[cell].astype(np.int64))
    np.testing.assert_array_equal(got, expected.reshape(3, -1))


def test_weights_of_one_are_plain_vlad(rng, backend):
    x, offsets, c = batch(rng, [30, 0, 100], 9, 16)
    own = get_backend(backend)
    labels = own.assign(x, c, n_threads=1)[:, None]
    way = {"power": 0.5, "intra_norm": True, "l2_norm": True}
    expected = own.encode(x, offsets, c, n_threads=1, **way)
    ones = np.ones(labels.shape)
    got = own.encode_weighted(x, offsets, c, labels, ones, Normalisation(**way), n_threads=1)
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE["encode", "float32"])


def test_native_refuses_cells_and_weights_that_do_not_fit(rng):
    x, offsets, c = batch(rng, [5], 3, 4)
    native = get_backend("native")
    for cells, weights in (
        (np.full((5, 1), 3, np.int32), np.ones((5, 1))),
        (np.full((5, 1), -1, np.int32), np.ones((5, 1))),
        (np.zeros((4, 1), np.int32), np.ones((4, 1))),
        (np.zeros((5, 1), np.int32), np.ones((5, 2))),
        (np.zeros((5, 4), np.int32), np.ones((5, 4))),
    ):
        with pytest.raises(ValueError, match="cells"):
            native.encode_weighted(x, offsets, c, cells, weights, Normalisation())


@pytest.fixture
def images(rng):
    return Descriptors.from_list(
        [rng.normal(size=(n, 6)).astype(np.float32) + rng.normal(size=6) for n in (7, 0, 15, 30, 4)]
    )


def soft_by_hand(x, centers, alpha, r):
    """Return the sums (K, D) of one image, descriptor by descriptor."""
    total = np.zeros(centers.shape)
    for row in x.astype(np.float64):
        squared = ((row - centers) ** 2).sum(axis=1)
        nearest = sorted(range(len(centers)), key=lambda k: (squared[k], k))[:r]
        weights = [math.exp(-alpha * squared[k]) for k in nearest]
        for k, weight in zip(nearest, weights, strict=True):
            total[k] += weight / sum(weights) * (row - centers[k])
    return total


@pytest.mark.parametrize("n_nearest", [None, 1, 3])
def test_soft_assignment_agrees_with_sums_by_hand(images, backend, n_nearest):
    vlad = VLAD(5, assignment="soft", n_nearest=n_nearest, alpha=0.3, backend=backend, random_state=0)
    got = vlad.fit_transform(images)
    for i, x in enumerate(images):
        expected = soft_by_hand(x, vlad.cluster_centers_.astype(np.float64), 0.3, n_nearest or 5)
        expected /= max(np.linalg.norm(expected), 1e-12)
        np.testing.assert_allclose(got[i], expected.ravel(), atol=1e-6)


def test_soft_assignment_with_one_cell_is_hard_assignment(images):
    hard = VLAD(5, power=0.5, random_state=0).fit(images)
    for settings in ({"alpha": 1e9}, {"n_nearest": 1}, {"n_nearest": 1, "alpha": 1e-3}):
        soft = clone(hard).set_params(assignment="soft", **settings).fit(images)
        np.testing.assert_allclose(soft.transform(images), hard.transform(images), atol=1e-6)


def test_alpha_is_learnt_from_the_two_nearest_centres(images):
    vlad = VLAD(4, assignment="soft", random_state=0).fit(images)
    squared = ((images.values[:, None].astype(np.float64) - vlad.cluster_centers_) ** 2).sum(axis=2)
    nearest = np.sort(squared, axis=1)
    assert vlad.alpha_ == pytest.approx(math.log(100) / (nearest[:, 1] - nearest[:, 0]).mean(), rel=1e-6)


def test_alpha_of_a_single_centre_is_1(images):
    assert softness(images.values, np.zeros((1, 6), np.float32)) == 1


def test_alpha_cannot_be_learnt_from_ties():
    with pytest.raises(InputError, match="give one, or fewer clusters"):
        softness(np.ones((3, 2), np.float32), np.zeros((2, 2), np.float32))


def test_weights_of_far_descriptors_sum_to_1(rng):
    """No row underflows to zeros."""
    x = (1e4 + rng.normal(size=(50, 8))).astype(np.float32)
    centers = (1e4 + rng.normal(size=(6, 8))).astype(np.float32)
    soft = Memberships(
        centers, n_nearest=6, alpha=1e3, origins=None, backend=get_backend("native"), n_threads=1
    )
    cells, weights = soft.of(x)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    exact = ((x[:, None].astype(np.float64) - centers.astype(np.float64)) ** 2).sum(axis=2)
    np.testing.assert_array_equal(cells[np.arange(50), weights.argmax(axis=1)], exact.argmin(axis=1))


@pytest.mark.parametrize("settings", [{}, {"assignment": "soft", "alpha": 0.5}])
def test_mass_normalisation_agrees_with_numbers_by_hand(images, settings):
    raw = {"l2_norm": False, "random_state": 0, **settings}
    plain = VLAD(4, **raw).fit(images)
    mean = VLAD(4, mass_norm=True, **raw).fit(images)
    cells, weights = plain.memberships(images.values)
    masses = np.zeros((len(images), 4))
    np.add.at(masses, (np.repeat(np.arange(5), np.diff(images.offsets))[:, None], cells), weights)
    shape = (5, 4, 6)
    expected = plain.transform(images).reshape(shape) / np.where(masses > 0, masses, 1)[..., None]
    np.testing.assert_allclose(mean.transform(images).reshape(shape), expected, atol=1e-6)


def test_local_axes_are_a_rotation(images):
    raw = {"l2_norm": False, "random_state": 0}
    plain, turned = VLAD(3, **raw).fit(images), VLAD(3, local_axes=True, **raw).fit(images)
    assert turned.rotations_.shape == (3, 6, 6)
    for axes in turned.rotations_:
        np.testing.assert_allclose(axes @ axes.T, np.eye(6), atol=1e-5)
    a, b = plain.transform(images), turned.transform(images)
    np.testing.assert_allclose(a @ a.T, b @ b.T, rtol=1e-4, atol=1e-5)  # as far as no power is taken
    assert np.abs(a - b).max() > 0.1
    labels = plain.codebook_.predict(images)
    for k in range(3):
        residuals = (images.values[labels == k] - plain.cluster_centers_[k]) @ turned.rotations_[k].T
        moments = residuals.T @ residuals
        np.testing.assert_allclose(moments, np.diag(np.diag(moments)), atol=1e-4 * np.trace(moments))
        assert (np.diff(np.diag(moments)) <= 1e-5 * np.trace(moments)).all()


def test_local_axes_change_what_a_power_does(images):
    settings = {"power": 0.5, "intra_norm": True, "random_state": 0}
    vlad = VLAD(3, local_axes=True, **settings).fit(images)
    others = Descriptors(images.values[::-1] + np.float32(0.1), images.offsets)  # no residual is rounding
    raw = VLAD(3, l2_norm=False, random_state=0).fit(images).transform(others).reshape(5, 3, 6)
    expected = np.einsum("bkd,ked->bke", raw, vlad.rotations_)
    expected = np.sign(expected) * np.sqrt(np.abs(expected))
    for axis in (2, (1, 2)):
        norms = np.linalg.norm(expected, axis=axis, keepdims=True)
        expected = np.divide(expected, norms, out=np.zeros_like(expected), where=norms > 1e-12)
    np.testing.assert_allclose(vlad.transform(others), expected.reshape(5, -1), atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"assignment": "soft"},
        {"assignment": "soft", "n_nearest": 2, "residual_norm": True},
        {"mass_norm": True, "local_axes": True},
    ],
)
def test_backends_threads_and_cuts_agree(rng, settings, cuda_on_host):
    images = Descriptors.from_list([rng.normal(size=(n, 9)).astype(np.float32) for n in (40, 0, 9, 600)])
    vlad = VLAD(7, power=0.5, random_state=0, **settings).fit(images)
    expected = vlad.transform(images)
    for change in ({"backend": "reference"}, {"backend": "cuda"}, {"backend": "auto"}, {"n_threads": 3}):
        np.testing.assert_allclose(vlad.set_params(**change).transform(images), expected, atol=1e-6)
    alone = np.concatenate([vlad.transform(images[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(alone, expected, atol=1e-6)
    norms = np.linalg.norm(expected, axis=1)
    np.testing.assert_allclose(norms, [1, 0, 1, 1], atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"assignment": "soft", "n_nearest": 2}, {"residual_norm": True}])
def test_adaptation_moves_the_origins_and_keeps_the_cells(images, rng, settings):
    """The residuals of the new images add up to zero."""
    vlad = VLAD(4, l2_norm=False, random_state=0, **settings).fit(images)
    before = vlad.transform(images)
    others = Descriptors((images.values + rng.normal(size=6)).astype(np.float32), images.offsets)
    cells, weights = vlad.memberships(others.values)
    vlad.adapt(others)
    masses = np.zeros(4)
    np.add.at(masses, cells, weights)
    means = np.zeros((4, 6))
    np.add.at(means, cells, weights[..., None] * others.values[:, None])
    filled = masses > 0
    np.testing.assert_allclose(
        vlad.residual_centers_[filled], means[filled] / masses[filled, None], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(vlad.residual_centers_[~filled], vlad.cluster_centers_[~filled])
    if "residual_norm" not in settings:
        total = vlad.transform(others).sum(axis=0)
        np.testing.assert_allclose(total, 0, atol=1e-3)
    np.testing.assert_array_equal(cells, vlad.memberships(others.values)[0])
    assert np.abs(vlad.transform(images) - before).max() > 0.1
    vlad.fit(images)
    np.testing.assert_array_equal(vlad.transform(images), before)  # a new fit forgets it


def test_partial_fit_learns_alpha(images):
    vlad = VLAD(3, assignment="soft", random_state=0)
    vlad.partial_fit(images[:3]).partial_fit(images[3:])
    assert vlad.transform(images).shape == (5, 18)


def test_partial_fit_refuses_local_axes(images):
    with pytest.raises(InputError, match="local_axes=True needs all descriptors at once"):
        VLAD(3, local_axes=True).partial_fit(images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"assignment": "softer"}, "assignment"),
        ({"alpha": 1.0}, "are for assignment='soft'"),
        ({"n_nearest": 2}, "are for assignment='soft'"),
        ({"assignment": "soft", "alpha": -1.0}, "alpha"),
        ({"assignment": "soft", "n_nearest": 0}, "n_nearest"),
        ({"assignment": "soft", "n_nearest": 6}, "n_nearest=6 is more than n_clusters=5"),
    ],
)
def test_wrong_settings_are_named(images, settings, message):
    with pytest.raises(InputError, match=message):
        VLAD(5, **settings).fit(images)


def test_adaptation_to_huge_descriptors_is_refused(images):
    vlad = VLAD(3, random_state=0).fit(images)
    with pytest.raises(InputError, match="adapted centres, too large"):
        vlad.adapt([np.full((4, 6), 3e38, np.float32)])
    assert not hasattr(vlad, "residual_centers_")


def test_alpha_does_not_depend_on_later_batches(images):
    vlad = VLAD(3, assignment="soft", random_state=0).partial_fit(images)
    alpha = vlad.alpha_
    assert vlad.partial_fit(images[:1]).alpha_ == alpha
