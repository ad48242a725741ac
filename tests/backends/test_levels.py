"""Every instruction-set level and way of multiplying that runs here gives the same labels and bits.

Other levels are skipped with the reason. Thread counts, awkward sizes and invariants are tested in
test_backends.py, which runs in a subprocess once more for each level.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.levels import skip_unless_here

from medvlad._util.validate import InputError
from medvlad.backends import reference

native = pytest.importorskip("medvlad.backends.native", reason="native was not built")

#: Levels and the methods that they have. Any other method is the same as dense.
WAYS = [
    ("portable", "auto"),
    *itertools.product(("avx2", "avx512"), ("auto", "dense", "sparse")),
    *itertools.product(("avx512bf16",), ("auto", "dense", "sparse", "bf16")),
    *itertools.product(("amx", native.EMULATED), ("auto", "sparse", "bf16", "bf16x3")),
]


@pytest.fixture(params=WAYS, ids="-".join)
def way(request, monkeypatch):
    """Set one level by the environment and return the name of one method."""
    level, method = request.param
    skip_unless_here(level)
    monkeypatch.setenv("MEDVLAD_SIMD", level)
    return method


def relu(rng, n, d, share):
    """Return descriptors of which a fraction `share` is not zero."""
    x = rng.normal(size=(n, d)).astype(np.float32)
    x[rng.random((n, d)) > share] = 0
    return np.abs(x)


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("k", [1, 15, 16, 33, 65, 130])
def test_labels_are_those_of_the_reference(way, rng, k, share):
    for d in (1, 64, 65, 130):
        x, c = relu(rng, 300, d, share), relu(rng, k, d, share)
        labels = native.assign(x, c, n_threads=2, method=way)
        np.testing.assert_array_equal(labels, reference.assign(x, c))


@pytest.mark.parametrize("n", [0, 1, 5, 11, 12, 13, 127, 128, 129, 700])
def test_labels_are_right_for_any_number_of_rows(way, rng, n):
    x, c = relu(rng, n, 70, 0.3), relu(rng, 20, 70, 0.3)
    np.testing.assert_array_equal(native.assign(x, c, n_threads=1, method=way), reference.assign(x, c))


def test_near_ties_are_decided_as_by_the_reference(way, rng):
    """Descriptors are halfway between centres, except for the last bit."""
    c = relu(rng, 100, 200, 0.4)
    pairs = rng.integers(0, 100, (500, 2))
    x = ((c[pairs[:, 0]] + c[pairs[:, 1]]) / 2).astype(np.float32)
    np.testing.assert_array_equal(native.assign(x, c, n_threads=2, method=way), reference.assign(x, c))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e17])
def test_labels_are_right_at_any_scale(way, rng, scale):
    x, c = relu(rng, 200, 40, 0.5) * np.float32(scale), relu(rng, 30, 40, 0.5) * np.float32(scale)
    np.testing.assert_array_equal(native.assign(x, c, n_threads=1, method=way), reference.assign(x, c))


def test_nan_centres_give_labels_within_range(way):
    """No check runs before a backend. It may return any label that exists."""
    x, c = np.ones((200, 4), np.float32), np.full((3, 4), np.nan, np.float32)
    labels = native.assign(x, c, n_threads=1, method=way)
    assert ((labels >= 0) & (labels < 3)).all()
    native.encode(x, np.array([0, 200]), c, method=way)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_row_that_is_not_finite_is_named(way, rng, value):
    """It is found by whichever thread reads it, in small images and in one that threads share."""
    x, c = relu(rng, 30_500, 33, 0.4), relu(rng, 20, 33, 0.4)
    offsets = np.array([0, 100, 200, 30_200, 30_300, 30_500])
    x[[30_310, 30_499], [32, 0]] = value
    with pytest.raises(InputError, match="at image 4, row 10:"):
        native.encode(x, offsets, c, n_threads=2, method=way)
    x[20_007, 5] = value
    with pytest.raises(InputError, match="at image 2, row 19807:"):
        native.aggregate(x, offsets, c, n_threads=2, method=way)
    x[3, 7] = value
    with pytest.raises(InputError, match=r"hold (NaN|-?inf) at row 3:"):
        native.assign(x, c, n_threads=2, method=way)


def test_many_rows_that_are_not_finite_take_no_time(way, rng):
    """An exact decision among all centres for each of them would take minutes."""
    x, c = np.full((3000, 512), np.inf, np.float32), relu(rng, 256, 512, 0.4)
    begin = time.perf_counter()
    with pytest.raises(InputError, match="at row 0:"):
        native.assign(x, c, n_threads=1, method=way)
    assert time.perf_counter() - begin < 10


def test_large_numbers_are_finite_although_their_squares_are_not(way, rng):
    x, c = relu(rng, 200, 33, 0.4), relu(rng, 20, 33, 0.4)
    x[7, 3] = 3e38
    np.testing.assert_array_equal(native.assign(x, c, n_threads=2, method=way), reference.assign(x, c))


@pytest.mark.parametrize("sizes", [[9] * 80, [20_000]], ids=["small images", "a large image"])
def test_vectors_without_norm_that_overflow_are_found_by_all_threads(way, rng, sizes):
    """The sums of the last image are beyond float32 in one cell only. Those before it are not."""
    offsets = np.cumsum([0, *sizes])
    x, c = relu(rng, offsets[-1], 33, 0.4), relu(rng, 20, 33, 0.4)
    vectors = native.encode(x, offsets, c, l2_norm=False, n_threads=2, method=way)
    assert np.isfinite(vectors).all()
    x[-2:] = 0
    x[-2:, 32] = 3e38
    with pytest.raises(InputError, match=f"too large for float32, hold inf at row {len(sizes) - 1}:"):
        native.encode(x, offsets, c, l2_norm=False, n_threads=2, method=way)
    residuals, _ = native.aggregate(x, offsets, c, n_threads=2, method=way)
    assert np.isinf(residuals).sum() == 1
    x[-1] = 0  # a single one is within float32, but not its square
    vectors = native.encode(x, offsets, c, l2_norm=False, n_threads=2, method=way)
    assert np.isfinite(vectors).all()
    assert vectors.max() > 2e38
    assert np.isfinite(native.encode(x, offsets, c, n_threads=2, method=way)).all()


def test_many_candidates_for_each_row(way, rng):
    """With one bfloat16 product, all centres are candidates of all rows."""
    base = 10 * rng.normal(size=(1, 96)).astype(np.float32)
    c = base + np.float32(2e-3) * rng.normal(size=(70, 96)).astype(np.float32)
    x = base + np.float32(2e-3) * rng.normal(size=(1500, 96)).astype(np.float32)
    np.testing.assert_array_equal(native.assign(x, c, n_threads=1, method=way), reference.assign(x, c))


def test_many_candidates_for_rows_with_many_zeros(way, rng):
    """Centres of 16 bits leave all of them as candidates, so the next blocks are dense."""
    base = 10 * relu(rng, 1, 96, 0.2)
    c = base + np.float32(2e-3) * rng.normal(size=(70, 96)).astype(np.float32)
    x = base + np.float32(2e-3) * relu(rng, 1500, 96, 0.1)
    np.testing.assert_array_equal(native.assign(x, c, n_threads=1, method=way), reference.assign(x, c))


def test_long_calls_may_try_several_methods(way, rng):
    """With tiles, the time of a block decides whether zeros are skipped in rows with many of them."""
    x, c = relu(rng, 5000, 70, 0.1), relu(rng, 40, 70, 0.3)
    x[2000:2600] = relu(rng, 600, 70, 1.0)
    np.testing.assert_array_equal(native.assign(x, c, n_threads=1, method=way), reference.assign(x, c))


@pytest.mark.parametrize("d", [7, 40, 100])
def test_each_position_of_a_number_is_found(way, d):
    """One number in each row. If it is missed, the centre at the origin has the largest score by far."""
    c = np.vstack([10 * np.eye(d, dtype=np.float32), np.zeros((1, d), np.float32)])
    x = c[:d].repeat(20, axis=0)
    labels = native.assign(x, c, n_threads=2, method=way)
    np.testing.assert_array_equal(labels, np.arange(d).repeat(20))


@pytest.mark.parametrize("d", [8192, 8200])
def test_labels_of_wide_rows(way, rng, d):
    """Up to 8192 numbers the levels multiply, beyond that BLAS."""
    x, c = relu(rng, 60, d, 0.1), relu(rng, 20, d, 0.3)
    x[30:45] = relu(rng, 15, d, 1.0)
    np.testing.assert_array_equal(native.assign(x, c, n_threads=2, method=way), reference.assign(x, c))


def test_labels_are_right_far_from_the_origin(way, rng):
    x, c = 1000 + relu(rng, 300, 64, 1.0), 1000 + relu(rng, 70, 64, 1.0)
    np.testing.assert_array_equal(native.assign(x, c, n_threads=1, method=way), reference.assign(x, c))


def test_all_levels_give_the_bits_of_portable(way, rng, monkeypatch):
    """Sums and norms are computed in one order, so all results agree to the bit."""
    offsets = np.array([0, 0, 3, 52, 341, 2000])
    integers = rng.integers(-5, 6, (2000, 65)).astype(np.float32)
    for x in (integers, relu(rng, 2000, 65, 0.3)):
        c = x[rng.choice(len(x), 40, replace=False)].copy()
        options = {"power": 0.5, "intra_norm": True, "l2_norm": True, "n_threads": 2, "method": way}
        own = native.encode(x, offsets, c, **options), native.aggregate(x, offsets, c, method=way)[0]
        with monkeypatch.context() as patch:
            patch.setenv("MEDVLAD_SIMD", "portable")
            portable = native.encode(x, offsets, c, **options), native.aggregate(x, offsets, c)[0]
        for a, b in zip(own, portable, strict=True):
            np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


def test_distances_have_the_bits_of_the_reference(way, rng):
    for d in (1, 7, 8, 9, 64, 100):
        x, c = relu(rng, 2500, d, 0.4), relu(rng, 9, d, 0.4)
        labels = reference.assign(x, c)
        distances = native.squared_distances(x, c, labels, n_threads=2)
        np.testing.assert_array_equal(distances, reference.squared_distances(x, c, labels))
        for n_candidates in (1, 7, 9, 17):
            candidates = rng.integers(0, len(x), n_candidates)
            own, expected = native.seeding(x, n_threads=3), reference.seeding(x)
            own.closest[:], expected.closest[:] = distances, distances
            found = own.distances(candidates)
            for a, b in zip(found, expected.distances(candidates), strict=True):
                np.testing.assert_array_equal(a, b)
            assert (found[0][np.arange(n_candidates), candidates] == 0).all()


def test_column_sums_have_the_bits_of_the_reference(way, rng):
    for n, d in ((1, 1), (9, 17), (8192, 3), (20001, 5)):
        x = rng.normal(size=(n, d)).astype(np.float32)
        np.testing.assert_array_equal(native.column_sums(x, n_threads=3), reference.column_sums(x))


def test_given_outputs_are_filled(way, rng):
    offsets = np.array([0, 50, 50, 900])
    x, c = relu(rng, 900, 48, 0.3), relu(rng, 33, 48, 0.3)
    out = np.full((3, 33 * 48), np.nan, np.float32)
    labels, counts = np.empty(900, np.int32), np.empty((3, 33), np.int64)
    given = {"out": out, "labels_out": labels, "counts_out": counts}
    assert native.encode(x, offsets, c, n_threads=2, method=way, **given) is out
    np.testing.assert_array_equal(out, native.encode(x, offsets, c, method=way))
    np.testing.assert_array_equal(labels, reference.assign(x, c))
    np.testing.assert_array_equal(counts, reference.aggregate(x, offsets, c)[1])


@pytest.mark.parametrize("shift", [0, 1, 4, 15])
def test_a_large_output_may_begin_at_any_address(way, rng, shift):
    """Results over 4 MiB bypass the cache, by stores that depend on the alignment of the memory."""
    x, c = relu(rng, 70, 64, 0.3), relu(rng, 256, 64, 0.3)
    offsets = np.arange(71)
    memory = np.full(70 * 256 * 64 + 64, np.nan, np.float32)
    start = (-memory.ctypes.data // 4) % 16 + shift
    out = memory[start : start + 70 * 256 * 64].reshape(70, -1)
    native.encode(x, offsets, c, out=out, method=way)
    np.testing.assert_array_equal(out, reference.encode(x, offsets, c))
    assert np.isnan(memory[:start]).all()
    assert np.isnan(memory[start + out.size :]).all()


def test_a_large_image_among_small_ones_changes_no_bit(way, rng):
    """Threads share a large image, but not a small one. The bits do not depend on this."""
    lengths = [3] * 200 + [30_000] + [3] * 200
    offsets = np.cumsum([0, *lengths])
    x = relu(rng, offsets[-1], 16, 0.4)
    c = relu(rng, 24, 16, 0.4)
    whole = [native.encode(x, offsets, c, n_threads=t, method=way).view(np.int32) for t in (1, 2, 5)]
    np.testing.assert_array_equal(whole[0], whole[1])
    np.testing.assert_array_equal(whole[0], whole[2])
    some = slice(190, 210)
    expected = reference.encode(x[offsets[190] : offsets[210]], offsets[190:211] - offsets[190], c)
    np.testing.assert_allclose(whole[0].view(np.float32)[some], expected, rtol=0, atol=6e-8)


@pytest.mark.slow
@pytest.mark.parametrize("level", [*native.LEVELS, native.EMULATED])
def test_the_common_suite_passes_at_each_level(level, tmp_path):
    """Run test_backends.py and test_bindings.py at the levels that are not in use."""
    skip_unless_here(level)
    if level == native.level():
        pytest.skip(f"{level} is the level in use: these tests have run with it")
    # In another folder, so that the installed package is imported.
    where = {"cwd": tmp_path, "capture_output": True, "text": True}
    environment = {**os.environ, "MEDVLAD_SIMD": level, "MEDVLAD_REQUIRE": "native"}
    suite = [str(Path(__file__).with_name(name)) for name in ("test_backends.py", "test_bindings.py")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-k", "native or bindings", *suite],
        env=environment,
        check=False,
        **where,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
    code = "import medvlad; print(medvlad.available_backends()['native'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, **where)
    assert done.stdout.strip() == f"ok: {level}"
