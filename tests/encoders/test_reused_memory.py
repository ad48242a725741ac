"""Blocks of encoded images share memory only if nobody keeps them."""

import numpy as np
import pytest

import medvlad as mv
from medvlad._util.validate import InputError
from medvlad.encoders.base import ReusedArray


def address(array):
    return array.__array_interface__["data"][0]


def test_a_loop_uses_two_pieces_of_memory():
    memory = ReusedArray(8)
    addresses = set()
    for _ in range(10):
        rows = memory.rows(5)
        addresses.add(address(rows))
    assert len(addresses) == 2


def test_arrays_that_are_kept_are_not_overwritten():
    memory = ReusedArray(8)
    kept = []
    for i in range(10):
        rows = memory.rows(5 + i % 3)
        rows[...] = i
        kept.append(rows[1:, ::2])  # a view of the view
        del rows
    for i, rows in enumerate(kept):
        assert (rows == i).all()


@pytest.mark.parametrize("how", [{}, {"assignment": "soft"}])
def test_blocks_that_are_kept_are_the_rows_of_transform(rng, monkeypatch, how):
    monkeypatch.setattr("medvlad.encoders.base._BLOCK_BYTES", 4096)
    images = [rng.normal(size=(int(n), 16)).astype(np.float32) for n in rng.integers(0, 30, 40)]
    vlad = mv.VLAD(8, random_state=0, **how).fit(images)
    expected = vlad.transform(images)
    kept = list(vlad.transform_blocks(images))
    assert len(kept) >= 5
    for indices, vectors in kept:
        np.testing.assert_array_equal(vectors, expected[indices])
    for indices, vectors in vlad.transform_blocks(images):
        np.testing.assert_array_equal(vectors, expected[indices])


@pytest.mark.parametrize("how", [{}, {"assignment": "soft"}, {"mass_norm": True}])
def test_a_number_that_is_not_finite_is_found_in_a_block(rng, monkeypatch, how):
    monkeypatch.setattr("medvlad.encoders.base._BLOCK_BYTES", 4096)
    images = rng.normal(size=(40, 20, 16)).astype(np.float32)
    vlad = mv.VLAD(8, random_state=0, **how).fit(images)
    images[37, 4, 3] = np.inf
    for call in (vlad.transform, lambda x: list(vlad.transform_blocks(x))):
        with pytest.raises(InputError, match="descriptors hold inf at image"):
            call(images)
