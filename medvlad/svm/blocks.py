"""Products of large matrices in float64, block by block.

The rows of an SVM can be float32, in Fortran order, or a memory map. Each function converts one block at a
time, so no float64 copy of the whole matrix is made.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk

from medvlad._util.blas_threads import single_threaded_blas
from medvlad._util.processors import usable_processors

__all__ = [
    "BLAS_WORK",
    "GRAM_BLOCK",
    "PASS_BLOCK",
    "Vector",
    "add_product",
    "block_entries",
    "blocks",
    "column_means",
    "products_of_rows",
    "results_of_blocks",
    "times",
    "transposed_times",
]

Vector = NDArray[np.float64]
Result = TypeVar("Result")

# Numbers of float64 entries in a block.
GRAM_BLOCK = 1 << 23  # for dsyrk: 64 MiB
BLAS_WORK = 4 << 20  # bytes; more than OpenBLAS allocates in dsyrk or ssyrk for its threads
PASS_BLOCK = 1 << 21  # for a product with a few vectors: 16 MiB
_LEAST_BLOCK = 1 << 17
_THREADED = 1 << 24  # entries of a matrix from which on several threads are faster


def block_entries(x: NDArray[Any], limit: int) -> int:
    """Return the number of entries of a float64 block of `x`.

    At most `limit`, and at most an eighth of `x` unless `x` is tiny.
    """
    return max(_LEAST_BLOCK, min(limit, x.size // 8))


def _is_fortran(x: NDArray[Any]) -> bool:
    return x.flags.f_contiguous and not x.flags.c_contiguous


def _slices(x: NDArray[Any], axis: int, limit: int) -> list[slice]:
    """Return the parts of `x` along `axis` that have at most about `limit` entries."""
    length, other = x.shape[axis], x.shape[1 - axis]
    step = min(length, max(1, block_entries(x, limit) // other))
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


class _Converter:
    """Converts parts of a matrix to contiguous float64. All parts share one buffer."""

    def __init__(self, x: NDArray[Any], axis: int, shift: Vector | None) -> None:
        self._x, self._axis, self._shift = x, axis, shift
        self._buffer: Vector = np.empty(0)

    def __call__(self, where: slice) -> Vector:
        x, axis, shift = self._x, self._axis, self._shift
        part = x[where] if axis == 0 else x[:, where]
        if shift is None and part.dtype == np.float64 and part.flags.forc:
            return part
        if self._buffer.size < part.size:
            self._buffer = np.empty(part.size)
        flat = self._buffer[: part.size]
        block: Vector = flat.reshape(part.shape[::-1]).T if _is_fortran(x) else flat.reshape(part.shape)
        np.copyto(block, part)
        if shift is not None:  # in place, which takes half the time of a subtraction that converts
            block -= shift if axis == 0 else shift[where]
        return block


def blocks(
    x: NDArray[Any], axis: int, limit: int, shift: Vector | None = None
) -> Iterator[tuple[slice, Vector]]:
    """Yield (slice along `axis`, that part of `x` as contiguous float64).

    `shift` (n_features,) is subtracted from each row, if given. The part is a copy then. Converted parts
    share one buffer, so a part is valid only until the next one is yielded.
    """
    convert = _Converter(x, axis, shift)
    for where in _slices(x, axis, limit):
        yield where, convert(where)


def results_of_blocks(
    x: NDArray[Any],
    axis: int,
    limit: int,
    work: Callable[[slice, Vector], Result],
    shift: Vector | None = None,
) -> Iterator[tuple[slice, Result]]:
    """Yield (slice, ``work(slice, block)``) for the blocks of :func:`blocks`, in their order.

    Large matrices use all processors: the blocks are converted and multiplied in several threads, with one
    thread of BLAS each. Blocks are then smaller, so that together they have at most `limit` entries.
    """
    n_threads = usable_processors().number
    if n_threads == 1 or x.size < _THREADED:
        for where, block in blocks(x, axis, limit, shift):
            yield where, work(where, block)
        return
    own = threading.local()

    def run(where: slice) -> Result:
        if not hasattr(own, "convert"):
            own.convert = _Converter(x, axis, shift)
        return work(where, own.convert(where))

    pending: deque[tuple[slice, Future[Result]]] = deque()
    with single_threaded_blas(), ThreadPoolExecutor(n_threads) as pool:
        for where in _slices(x, axis, limit // n_threads):
            pending.append((where, pool.submit(run, where)))
            if len(pending) > 2 * n_threads:  # so that few results wait
                first, done = pending.popleft()
                yield first, done.result()
        for first, done in pending:
            yield first, done.result()


def times(x: NDArray[Any], w: Vector, shift: Vector | None = None) -> Vector:
    """Return ``(x - shift) @ w`` in float64 for `w` of shape (n_features, k).

    `x` is converted block by block.
    """
    out = np.zeros((x.shape[0], w.shape[1]))
    if _is_fortran(x):
        for _, part in results_of_blocks(x, 1, PASS_BLOCK, lambda columns, block: block @ w[columns], shift):
            out += part
    else:
        for rows, part in results_of_blocks(x, 0, PASS_BLOCK, lambda _, block: block @ w, shift):
            out[rows] = part
    return out


def transposed_times(x: NDArray[Any], v: Vector, shift: Vector | None = None) -> Vector:
    """Return ``(x - shift).T @ v`` in float64 for `v` of shape (n_samples, k).

    `x` is converted block by block.
    """
    out = np.zeros((x.shape[1], v.shape[1]))
    if _is_fortran(x):
        for columns, part in results_of_blocks(x, 1, PASS_BLOCK, lambda _, block: block.T @ v, shift):
            out[columns] = part
    else:
        for _, part in results_of_blocks(x, 0, PASS_BLOCK, lambda rows, block: block.T @ v[rows], shift):
            out += part
    return out


def products_of_rows(x: NDArray[Any], a: Vector, shift: Vector) -> tuple[Vector, Vector]:
    """Return ``z.T @ a`` (n_features, k) and ``z @ z.T @ a`` (n_samples, k) in one pass over `x`.

    z is ``x - shift``, `a` has the shape (n_samples, k). Sums are float64.
    """
    weights, products = np.empty((x.shape[1], a.shape[1])), np.zeros(a.shape)

    def multiply(_: slice, block: Vector) -> tuple[Vector, Vector]:
        part = block.T @ a
        return part, block @ part

    for columns, (part, added) in results_of_blocks(x, 1, PASS_BLOCK, multiply, shift):
        weights[columns] = part
        products += added
    return weights, products


def column_means(x: NDArray[Any]) -> Vector:
    """Return the mean of each column in float64. `x` is converted block by block."""
    return transposed_times(x, np.full((len(x), 1), 1.0 / len(x)))[:, 0]


def add_product(c: Vector, block: Vector, outer: bool, alpha: float = 1.0) -> Vector:
    """Add ``alpha * block @ block.T`` to the lower triangle of the Fortran array `c`, in place.

    If not `outer`, add ``alpha * block.T @ block`` instead.
    """
    # OpenBLAS ends the process if it cannot allocate its work arrays, so a MemoryError is raised before.
    np.empty(BLAS_WORK, np.uint8)
    # dsyrk takes Fortran order. A C-ordered block is passed as its transpose, so nothing is copied.
    a, trans = (block, not outer) if block.flags.f_contiguous else (block.T, outer)
    result: Vector = dsyrk(alpha, a, beta=1.0, c=c, trans=int(trans), lower=1, overwrite_c=1)
    return result
