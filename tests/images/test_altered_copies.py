"""Altered copies: the same in every run, and of any size of image."""

import numpy as np
import pytest

from medvlad.images.altered_copies import altered_copy
from medvlad.images.shifted_copies import ShiftedCopies, shifted_copy


def test_a_copy_depends_on_pixels_and_seed_only(rng):
    first, second = rng.integers(0, 256, (2, 60, 70, 3), dtype=np.uint8)
    copies = [altered_copy(first), altered_copy(first, 1), altered_copy(second)]
    np.testing.assert_array_equal(copies[0], altered_copy(np.asfortranarray(first)))
    assert len({one.tobytes() for one in copies}) == 3


@pytest.mark.parametrize("shape", [(1, 1), (3, 400), (400, 3), (50, 60), (900, 700)])
def test_copies_of_any_size_are_pixels(rng, shape):
    pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    for seed in range(20):
        copy = altered_copy(pixels, seed)
        assert copy.dtype == np.uint8
        assert copy.shape[2] == 3
        assert min(copy.shape[:2]) >= 1
        assert max(copy.shape[:2]) <= min(544, max(shape))


def test_half_of_the_copies_are_mirrored():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32] = 200
    lighter_right = [
        copy[:, copy.shape[1] // 2 :].mean() > copy[:, : copy.shape[1] // 2].mean()
        for copy in (altered_copy(pixels, seed) for seed in range(100))
    ]
    assert 30 <= sum(lighter_right) <= 70


def test_a_sequence_makes_the_copies_that_it_is_told_to_make(rng):
    images = list(rng.integers(0, 256, (3, 40, 40, 3), dtype=np.uint8))
    altered, shifted = ShiftedCopies(images, 5, altered_copy), ShiftedCopies(images, 5)
    for i, pixels in enumerate(images):
        np.testing.assert_array_equal(altered[i], altered_copy(pixels, 5))
        np.testing.assert_array_equal(altered[1:][i - 1] if i else altered[:1][0], altered_copy(pixels, 5))
        np.testing.assert_array_equal(shifted[i], shifted_copy(pixels, 5))
