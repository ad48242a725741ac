"""Weights of descriptors: weight 2 counts as two descriptors, weight 0 as none."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

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
    WideLinearSVC,
)
from medvlad.explain import evidence

LENGTHS = [9, 0, 20, 5, 12, 7]
ENCODERS = {
    "avg": GlobalPool(),
    "sum": GlobalPool("sum", l2_norm=False),
    "max": GlobalPool("max"),
    "gem": GlobalPool("gem"),
    "vlad": VLAD(4, power=0.5, random_state=0),
    "vlad, soft": VLAD(4, assignment="soft", n_nearest=2, residual_norm=True, random_state=0),
    "vlad, mass": VLAD(4, mass_norm=True, intra_norm=True, random_state=0),
    "fisher": FisherVector(2, random_state=0),
    "words": BagOfWords(5, random_state=0),
    "second order": SecondOrderPool(),
    "projected": make_pipeline(DescriptorProjection(4, random_state=0), VLAD(3, random_state=0)),
}


@pytest.fixture
def images(rng):
    return Descriptors.from_list([rng.normal(size=(n, 6)).astype(np.float32) for n in LENGTHS])


@pytest.fixture
def times(rng, images):
    """Number of times that each descriptor counts. The fourth image has none left."""
    times = rng.integers(0, 4, len(images.values))
    times[images.offsets[3] : images.offsets[4]] = 0
    return times


@pytest.fixture(params=ENCODERS)
def encoder(request, images):
    return clone(ENCODERS[request.param]).fit(images)


def repeated(images, times):
    return Descriptors.from_list(
        [
            np.repeat(image, times[first : first + len(image)], axis=0)
            for image, first in zip(images, images.offsets[:-1], strict=True)
        ]
    )


def test_a_whole_weight_counts_like_repeated_descriptors(encoder, images, times):
    found = encoder.transform(images.weighted(times))
    expected = encoder.transform(repeated(images, times))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert not found[3].any()


def test_weights_of_one_change_nothing_and_others_do(encoder, images, times):
    plain = encoder.transform(images)
    found = encoder.transform(images.weighted(times))
    np.testing.assert_allclose(encoder.transform(images.weighted(np.ones(len(times)))), plain, atol=1e-5)
    assert np.abs(found - plain).max() > 1e-3


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "sum"])
def test_only_ratios_of_weights_count(name, images, rng):
    encoder = clone(ENCODERS[name]).fit(images)
    weights = rng.random(len(images.values))
    a, b = (encoder.transform(images.weighted(factor * weights)) for factor in (1.0, 7.0))
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("estimator", [*ENCODERS.values(), KMeansCodebook(3, random_state=0)])
def test_fit_ignores_masked_descriptors(estimator, images, times):
    wild = images.values.copy()
    wild[times == 0] += 1000
    masked = Descriptors(wild, images.offsets, times > 0)
    left = images.weighted(times > 0).counted()
    probe = images[:1]
    found = clone(estimator).fit(masked).transform(probe)
    np.testing.assert_allclose(found, clone(estimator).fit(left).transform(probe), atol=1e-5)


def test_slices_and_selections_keep_their_weights(images, times):
    weighted = images.weighted(times)
    assert weighted[2:4].weights.tolist() == times[images.offsets[2] : images.offsets[4]].tolist()
    taken = weighted.take([4, 0])
    expected = np.concatenate([times[images.offsets[4] : images.offsets[5]], times[: LENGTHS[0]]])
    assert taken.weights.tolist() == expected.tolist()
    assert images.take([]).weights is None


def test_descriptors_on_the_host_are_not_copied_to_it(images, times):
    weighted = images.weighted(times)
    assert weighted.to_host() is weighted


def test_counted_drops_descriptors_of_weight_0(images, times):
    weighted = images.weighted(times)
    assert images.counted() is images
    counted = weighted.counted()
    assert np.diff(counted.offsets).tolist() == [
        int((times[a:b] > 0).sum()) for a, b in zip(images.offsets[:-1], images.offsets[1:], strict=True)
    ]
    np.testing.assert_array_equal(counted.values, images.values[times > 0])


def test_tiles_use_the_weights_of_their_descriptors(rng):
    maps = rng.random((3, 4, 4, 5)).astype(np.float32)
    images = Descriptors.from_array(maps)
    weights = rng.random((3, 4, 4))
    tiles = SpatialTiles(GlobalPool(), grids=[(4, 4)], tiles=[(2, 2)]).fit(images)
    found = tiles.transform(images.weighted(weights.ravel()))
    corner = (maps * weights[..., None])[:, :2, :2].sum(axis=(1, 2))
    corner /= np.linalg.norm(corner, axis=1, keepdims=True)
    np.testing.assert_allclose(found[:, :5], corner / 2, atol=1e-6)


@pytest.mark.parametrize("name", ["avg", "sum", "max", "words", "vlad, soft", "vlad, mass"])
def test_evidence_of_weighted_descriptors_adds_up_to_the_decision(name, images, times):
    weighted = images.weighted(times)
    encoder = clone(ENCODERS[name]).fit(weighted)
    svm = WideLinearSVC().fit(encoder.transform(weighted), [0, 1, 0, 1, 0, 1])
    found = evidence(weighted, encoder, svm)
    expected = svm.decision_function(encoder.transform(weighted))
    np.testing.assert_allclose(found.decision()[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert not found.terms[times == 0].any()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"weights must have shape \(53,\)"),
        (np.full(53, -1.0), r"from 0 to 3\.4e\+38, got -1.0 of descriptor 0"),
        (np.full(53, np.nan), "got nan of descriptor 0"),
        (np.full(53, 1e200), "got 1e.200 of descriptor 0"),  # residuals times these are infinite
        (["a"] * 53, "weights must be one real number per descriptor"),
        ([[1], [1, 2]], "weights must be one real number per descriptor"),
        (np.full(53, 1j), "they are complex"),
        ([10**400] * 53, "too large to convert"),
    ],
)
def test_wrong_weights_are_named(images, weights, message):
    with pytest.raises(InputError, match=message):
        images.weighted(weights)


def test_constant_descriptors_cannot_be_whitened():
    with pytest.raises(InputError, match="cannot all be"):
        DescriptorProjection(2, whiten=True).fit(np.ones((20, 1, 3)))


def test_descriptors_of_weight_0_have_no_components():
    absent = Descriptors(np.eye(4, 3), [0, 4], np.zeros(4))
    with pytest.raises(InputError, match=r"more than the number of descriptors \(0\)"):
        DescriptorProjection(2).fit(absent)
