"""Global pooling."""

import numpy as np
import pytest
from support.groups import ragged_groups

from medvlad import Descriptors, GlobalPool, InputError


@pytest.fixture
def ragged(rng):
    return ragged_groups(rng)


@pytest.mark.parametrize("l2_norm", [False, True])
@pytest.mark.parametrize("mode", ["avg", "max", "gem"])
def test_pooling_agrees_with_numpy_image_by_image(ragged, mode, l2_norm):
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


def test_many_images_may_include_empty_ones(rng):
    images = [rng.random((int(n), 3), dtype=np.float32) for n in rng.integers(0, 3, 700)]
    pooled = GlobalPool("avg", l2_norm=False).fit_transform(images)
    expected = [image.mean(axis=0) if len(image) else np.zeros(3) for image in images]
    np.testing.assert_allclose(pooled, expected, rtol=1e-6)


def test_average_of_one_scale_is_the_paper_baseline(rng):
    x = rng.random((5, 49, 16), dtype=np.float32)
    mean = x.mean(axis=1)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(GlobalPool().fit_transform(x), expected, rtol=1e-5)


@pytest.mark.parametrize("mode", ["avg", "max", "gem"])
def test_an_image_does_not_depend_on_the_others(mode):
    images = [np.full((3, 2), 1e-3), np.full((4, 2), 1e3), np.full((2, 2), 1e30)]
    pool = GlobalPool(mode, l2_norm=False, p=60).fit(images)
    together = pool.transform(images)
    alone = np.concatenate([pool.transform([image]) for image in images])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_allclose(together[:, 0], [1e-3, 1e3, 1e30], rtol=1e-5)


def test_an_unknown_mode_is_named():
    with pytest.raises(InputError, match="mode must be one of avg, sum, max, gem, got 'median'"):
        GlobalPool("median").fit(np.eye(2))


@pytest.mark.parametrize("mode", ["avg", "sum", "max", "gem"])
@pytest.mark.parametrize("weighted", [False, True])
def test_columns_of_large_images_are_pooled_apart_to_the_same_bits(monkeypatch, rng, mode, weighted):
    images = Descriptors.from_list(
        [rng.normal(size=(n, 7)) * 10.0 ** rng.integers(-6, 6) for n in (300, 0, 9)]
    )
    if weighted:
        images = images.weighted(rng.random(len(images.values)))
    pool = GlobalPool(mode).fit(images)
    expected = pool.transform(images)
    for columns in (1, 2, 3):
        monkeypatch.setattr("medvlad.encoders.pooling._COPIED_BYTES", 8 * len(images.values) * columns)
        np.testing.assert_array_equal(pool.transform(images), expected)
