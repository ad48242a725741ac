"""The Gram matrix of bfloat16 tiles: exact on small integers, close on random rows, for all layouts."""

import importlib

import numpy as np
import pytest

from medvlad.backends import native
from medvlad.backends.shifted_rows import ShiftedRows

SHAPES = [(1, 1), (15, 31), (16, 32), (17, 33), (33, 1025), (257, 300), (300, 2100)]


@pytest.fixture(params=["amx", "amx_emulated"])
def level(request, monkeypatch):
    if request.param not in importlib.import_module("medvlad.backends._native_portable").supported_levels():
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setenv("MEDVLAD_SIMD", request.param)
    assert native.level() == request.param
    return request.param


def layouts(x):
    """Yield the same numbers in memory of another order or with gaps."""
    yield np.ascontiguousarray(x)
    yield np.asfortranarray(x)
    yield np.repeat(x, 2, axis=1)[:, ::2]
    yield x[::-1, ::-1].copy()[::-1, ::-1]


def plain(x, n_threads=1):
    n, d = x.shape
    gram = np.full((n, n), 0.5)
    assert native.add_gram(ShiftedRows(x, np.zeros(d), np.zeros(n), np.zeros(d)), gram, n_threads=n_threads)
    return gram


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_integers_are_exact_and_the_lower_triangle_stays(level, rng, shape, dtype):
    x = rng.integers(-100, 100, shape).astype(dtype)
    expected = np.triu(x.astype(np.int64) @ x.T.astype(np.int64)) + 0.5
    for same in layouts(x):
        np.testing.assert_array_equal(plain(same), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shifted_rows_are_those_of_float64(level, rng, dtype):
    x = (rng.normal(size=(70, 1500)) + 1000.0 * rng.uniform(size=1500)).astype(dtype)
    shift = x.mean(axis=0, dtype=np.float64)
    direction = shift / np.linalg.norm(shift)
    along = (x - shift) @ direction
    z = x - shift - np.multiply.outer(along, direction)
    for same in layouts(x):
        gram = np.zeros((70, 70))
        native.add_gram(ShiftedRows(same, shift, along, direction), gram, n_threads=2)
        bound = 2.0**-15 * (np.abs(z) @ np.abs(z).T)
        assert (np.abs(gram - np.triu(z @ z.T)) <= bound).all()


def test_the_number_of_threads_does_not_change_a_bit(level, rng):
    x = rng.normal(size=(530, 1100)).astype(np.float32)
    np.testing.assert_array_equal(plain(x, 3), plain(x, 1))


def test_a_level_without_tiles_changes_nothing(monkeypatch):
    monkeypatch.setenv("MEDVLAD_SIMD", "portable")
    gram = np.full((3, 3), 2.0)
    rows = ShiftedRows(np.ones((3, 5), np.float32), np.zeros(5), np.zeros(3), np.zeros(5))
    assert not native.add_gram(rows, gram)
    assert (gram == 2.0).all()


@pytest.mark.parametrize("wrong", ["shift", "along", "direction", "gram"])
def test_arrays_of_another_size_are_refused(level, wrong):
    sizes = {"shift": 5, "along": 3, "direction": 5, "gram": 3}
    sizes[wrong] += 1
    rows = ShiftedRows(np.ones((3, 5)), *(np.zeros(sizes[name]) for name in ("shift", "along", "direction")))
    with pytest.raises(ValueError, match="must be"):
        native.add_gram(rows, np.zeros((sizes["gram"], sizes["gram"])))
