"""Products of large matrices in float64, block by block.

The rows of an SVM can be float32, in Fortran order, or a memory map. Each function converts one block at a
time, so no float64 copy of the whole matrix is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk

__all__ = [
    "GRAM_BLOCK",
    "PASS_BLOCK",
    "Vector",
    "add_product",
    "block_entries",
    "blocks",
    "column_means",
    "times",
    "transposed_times",
]

Vector = NDArray[np.float64]

# Numbers of float64 entries in a block.
GRAM_BLOCK = 1 << 23  # for dsyrk: 64 MiB
_BLAS_WORK = 4 << 20  # bytes; more than OpenBLAS allocates in dsyrk for its threads
PASS_BLOCK = 1 << 21  # for a product with a few vectors: 16 MiB
_LEAST_BLOCK = 1 << 17


def block_entries(x: NDArray[Any], limit: int) -> int:
    """Return the number of entries of a float64 block of `x`.

    At most `limit`, and at most an eighth of `x` unless `x` is tiny.
    """
    return max(_LEAST_BLOCK, min(limit, x.size // 8))


def _is_fortran(x: NDArray[Any]) -> bool:
    return x.flags.f_contiguous and not x.flags.c_contiguous


def blocks(
    x: NDArray[Any], axis: int, limit: int, shift: Vector | None = None
) -> Iterator[tuple[slice, Vector]]:
    """Yield (slice along `axis`, that part of `x` as contiguous float64).

    `shift` (n_features,) is subtracted from each row, if given. The part is a copy then. Converted parts
    share one buffer, so a part is valid only until the next one is yielded.
    """
    length, other = x.shape[axis], x.shape[1 - axis]
    step = min(length, max(1, block_entries(x, limit) // other))
    buffer: Vector | None = None
    for start in range(0, length, step):
        where = slice(start, min(start + step, length))
        part = x[where] if axis == 0 else x[:, where]
        if shift is None and part.dtype == np.float64 and part.flags.forc:
            yield where, part
            continue
        if buffer is None:
            buffer = np.empty(step * other)
        flat = buffer[: part.size]
        block = flat.reshape(part.shape[::-1]).T if _is_fortran(x) else flat.reshape(part.shape)
        if shift is None:
            np.copyto(block, part)
        else:
            np.subtract(part, shift if axis == 0 else shift[where], out=block, dtype=np.float64)
        yield where, block


def times(x: NDArray[Any], w: Vector, shift: Vector | None = None) -> Vector:
    """Return ``(x - shift) @ w`` in float64 for `w` of shape (n_features, k).

    `x` is converted block by block.
    """
    out = np.zeros((x.shape[0], w.shape[1]))
    if _is_fortran(x):
        for columns, block in blocks(x, 1, PASS_BLOCK, shift):
            out += block @ w[columns]
    else:
        for rows, block in blocks(x, 0, PASS_BLOCK, shift):
            out[rows] = block @ w
    return out


def transposed_times(x: NDArray[Any], v: Vector, shift: Vector | None = None) -> Vector:
    """Return ``(x - shift).T @ v`` in float64 for `v` of shape (n_samples, k).

    `x` is converted block by block.
    """
    out = np.zeros((x.shape[1], v.shape[1]))
    if _is_fortran(x):
        for columns, block in blocks(x, 1, PASS_BLOCK, shift):
            out[columns] = block.T @ v
    else:
        for rows, block in blocks(x, 0, PASS_BLOCK, shift):
            out += block.T @ v[rows]
    return out


def column_means(x: NDArray[Any]) -> Vector:
    """Return the mean of each column in float64. `x` is converted block by block."""
    return transposed_times(x, np.full((len(x), 1), 1.0 / len(x)))[:, 0]


def add_product(c: Vector, block: Vector, outer: bool, alpha: float = 1.0) -> Vector:
    """Add ``alpha * block @ block.T`` to the lower triangle of the Fortran array `c`, in place.

    If not `outer`, add ``alpha * block.T @ block`` instead.
    """
    # OpenBLAS ends the process if it cannot allocate its work arrays, so a MemoryError is raised before.
    np.empty(_BLAS_WORK, np.uint8)
    # dsyrk takes Fortran order. A C-ordered block is passed as its transpose, so nothing is copied.
    a, trans = (block, not outer) if block.flags.f_contiguous else (block.T, outer)
    result: Vector = dsyrk(alpha, a, beta=1.0, c=c, trans=int(trans), lower=1, overwrite_c=1)
    return result
