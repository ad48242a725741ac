"""Encoders find NaN and infinity while they compute, and name image and row as a check beforehand would."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

import medvlad as mv
from medvlad import Descriptors, InputError

ENCODERS = {
    "vlad": mv.VLAD(4, random_state=0),
    "vlad, no norm": mv.VLAD(4, l2_norm=False, random_state=0),
    "soft": mv.VLAD(4, assignment="soft", random_state=0),
    "top 2, residual": mv.VLAD(4, assignment="soft", n_nearest=2, residual_norm=True, random_state=0),
    "residual": mv.VLAD(4, residual_norm=True, random_state=0),
    "local axes": mv.VLAD(4, local_axes=True, random_state=0),
    "avg": mv.GlobalPool(),
    "sum": mv.GlobalPool("sum"),
    "max": mv.GlobalPool("max"),
    "gem": mv.GlobalPool("gem"),
    "words": mv.BagOfWords(4, random_state=0),
    "fisher": mv.FisherVector(2, random_state=0),
    "second-order": mv.SecondOrderPool(),
    "bilinear": mv.SecondOrderPool(None),
    "tiles": mv.SpatialTiles(mv.GlobalPool("max"), grids=[(4, 3)]),
    "tiles of another class": mv.SpatialTiles(make_pipeline(mv.GlobalPool()), grids=[(4, 3)]),
    "projection": mv.DescriptorProjection(2),
}
N, IMAGES, WIDTH = 12, 9, 5

#: What makes a row not finite. The second one cancels itself out in a sum.
ROWS = {
    "NaN": {2: np.nan},
    "inf": {2: np.inf},
    "-inf": {2: -np.inf},
    "inf and -inf": {1: np.inf, 3: -np.inf},
}


@pytest.fixture(params=ENCODERS)
def encoder(request, rng):
    return clone(ENCODERS[request.param]).fit(rng.normal(size=(IMAGES, N, WIDTH)).astype(np.float32))


@pytest.fixture
def values(rng):
    return rng.normal(size=(IMAGES * N, WIDTH)).astype(np.float32)


def images_of(values, weights=None):
    return Descriptors(values, np.arange(IMAGES + 1) * N, weights)


@pytest.fixture(params=ROWS.values(), ids=ROWS)
def broken(request, values):
    """Descriptors whose image 7 is not finite in row 5."""
    for column, value in request.param.items():
        values[7 * N + 5, column] = value
    return values


def refused(encoder, images):
    """Encode images that are not finite: one sentence, and no warning besides."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"descriptors hold (NaN|-?inf) at image 7, row 5: NaN and inf"):
            encoder.transform(images)


def test_the_image_and_the_row_are_named(encoder, broken):
    refused(encoder, images_of(broken))
    for call in (clone(encoder).fit, clone(encoder).fit_transform):
        with pytest.raises(ValueError, match=r"NaN|inf"):
            call(images_of(broken))


def test_masked_rows_must_be_finite_too(encoder, broken):
    weights = np.ones(len(broken))
    weights[7 * N + 5] = 0
    refused(encoder, images_of(broken, weights))


def test_only_infinities_of_both_signs(encoder, values):
    """Their sum is NaN, their maximum is inf, and their minimum is not looked at twice."""
    values[7 * N + 5 :] = np.inf
    values[7 * N + 6] = -np.inf
    refused(encoder, images_of(values))


@pytest.mark.parametrize("sign", [1, -1])
def test_finite_rows_whose_sums_overflow_are_encoded(encoder, values, sign):
    """A sum in float32 of two of these rows is infinite."""
    values[7 * N + 5 : 7 * N + 8] = sign * 3e38
    with np.errstate(over="ignore"):
        if getattr(encoder, "l2_norm", True) and not getattr(encoder, "local_axes", False):
            encoder.transform(images_of(values))
            return
        with pytest.raises(InputError, match="too large for float32"):
            encoder.transform(images_of(values))


@pytest.mark.parametrize("mode", ["avg", "max", "gem"])
def test_an_image_larger_than_a_run_is_searched(mode, rng):
    values = rng.normal(size=(30_000, 16)).astype(np.float32)
    values[20_300, 3] = -np.inf
    with pytest.raises(InputError, match="hold -inf at image 1, row 20000:"):
        mv.GlobalPool(mode).fit(values[:9]).transform(Descriptors(values, [0, 300, 29_000, 30_000]))
