"""The part of the reference that k-means and distances need. See :mod:`medvlad.backends.reference`.

Sums are taken in one fixed order, because k-means++ draws seeds by comparing them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad.backends.normalise import ordered_sum
from medvlad.backends.seeding import PlainSeeding

__all__ = [
    "by_column",
    "candidate_distances",
    "center_distances",
    "column_sums",
    "place",
    "seeding",
    "squared_distances",
    "take",
]

_UNIT_ROUNDOFF = 2.0**-53
_BLOCK_ROWS = 8192
_POTENTIAL_ROWS = 1024


def squared_distances(
    x: NDArray[np.float32], centers: NDArray[np.float32], labels: NDArray[np.int32], *, n_threads: int = 1
) -> NDArray[np.float64]:
    """Return the squared distance of each row to the centre of its label, or of each of its labels.

    Parameters
    ----------
    x : ndarray of float32, shape (N, D)
    centers : ndarray of float32, shape (K, D)
    labels : ndarray of int32, shape (N,) or (N, r)
    n_threads : int
        Not used.

    Returns
    -------
    ndarray of float64, of the shape of `labels`
    """
    if labels.ndim == 2:
        return by_column(squared_distances, x, centers, labels, n_threads)
    distances = np.empty(len(x))
    for start in range(0, len(x), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        difference = x[rows].astype(np.float64) - centers[labels[rows]]
        distances[rows] = ordered_sum(difference * difference)
    return distances


def by_column(
    distances_of: Callable[..., NDArray[np.float64]],
    x: NDArray[np.float32],
    centers: NDArray[np.float32],
    labels: NDArray[np.int32],
    n_threads: int,
) -> NDArray[np.float64]:
    """Return the squared distances for labels (N, r), from a function for labels (N,)."""
    distances = np.empty(labels.shape)
    for j in range(labels.shape[1]):
        own = np.ascontiguousarray(labels[:, j])
        distances[:, j] = distances_of(x, centers, own, n_threads=n_threads)
    return distances


def center_distances(
    x: NDArray[np.float32], centers: NDArray[np.float32], *, n_threads: int = 1
) -> NDArray[np.float64]:
    """Return the squared distances of each row to all centres.

    They are computed by a matrix product. The mean of the centres is subtracted first, because smaller
    numbers lose less to rounding.

    Parameters
    ----------
    x : ndarray of float32, shape (N, D)
    centers : ndarray of float32, shape (K, D)
    n_threads : int
        Not used. BLAS chooses its number of threads.

    Returns
    -------
    ndarray of float64, shape (N, K)
    """
    origin = centers.mean(axis=0, dtype=np.float64)
    rows, c = x - origin, centers - origin
    with np.errstate(invalid="ignore"):  # rows that are not finite get distances that are not finite
        squared: NDArray[np.float64] = rows @ (-2.0 * c.T)
        squared += np.einsum("nd,nd->n", rows, rows)[:, None]
        squared += np.einsum("kd,kd->k", c, c)
    return np.maximum(squared, 0.0, out=squared)


def candidate_distances(
    x: NDArray[np.float32],
    norms: NDArray[np.float64],
    candidates: NDArray[np.int64],
    closest: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute one step of greedy k-means++: distances to the nearest seed if a candidate becomes a seed.

    Parameters
    ----------
    x : ndarray of float32, shape (N, D)
    norms : ndarray of float64, shape (N,)
        Squared norms of the rows: the result of :func:`squared_distances` for a centre of zeros.
    candidates : ndarray of int64, shape (T,)
        Rows of `x` that may become the next seed.
    closest : ndarray of float64, shape (N,)
        Squared distance of each row to its nearest seed so far.

    Returns
    -------
    distances : ndarray of float64, shape (T, N)
        min(closest, |x - c|^2). A squared distance within its rounding error of 0 counts as 0.
    potentials : ndarray of float64, shape (T,)
        Sums of `distances`: first over runs of 1024 rows, then over the runs, each in order.
    """
    rounding = 4 * (x.shape[1] + 4) * _UNIT_ROUNDOFF
    distances = np.empty((len(candidates), len(x)))
    for t, row in enumerate(candidates):
        for start in range(0, len(x), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            scale = norms[rows] + norms[row]
            squared = scale - 2.0 * ordered_sum(x[rows].astype(np.float64) * x[row])
            squared[~(squared > rounding * scale)] = 0.0
            distances[t, rows] = np.minimum(squared, closest[rows])
    runs = [
        np.cumsum(distances[:, i : i + _POTENTIAL_ROWS], axis=1)[:, -1]
        for i in range(0, len(x), _POTENTIAL_ROWS)
    ]
    return distances, np.cumsum(runs, axis=0)[-1]


def seeding(
    x: NDArray[np.float32], rows: NDArray[np.int64] | None = None, *, n_threads: int = 1
) -> PlainSeeding:
    """Return the state of k-means++ before the first seed.

    Parameters
    ----------
    x : ndarray of float32, shape (N, D)
    rows : ndarray of int64, shape (n,), optional
        Rows among which seeds are chosen. Candidates are positions in it. None: all rows.
    n_threads : int
        Not used.

    Returns
    -------
    PlainSeeding
    """
    x = x if rows is None else x[rows]
    norms = squared_distances(x, np.zeros((1, x.shape[1]), np.float32), np.zeros(len(x), np.int32))
    return PlainSeeding(x, norms, candidate_distances)


def place(x: Any) -> Any:
    """Return `x` itself, because the reference computes in host memory."""
    return x


def take(x: NDArray[np.float32], rows: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return a copy of rows of `x` (N, D)."""
    taken: NDArray[np.float32] = x[rows]
    return taken


def column_sums(x: NDArray[np.float32], *, n_threads: int = 1) -> NDArray[np.float64]:
    """Return the sum of `x` (N, D), feature by feature, in float64.

    Sums are taken over blocks of 8192 rows, in order, then over the blocks.
    """
    total: NDArray[np.float64] = np.zeros(x.shape[1])
    for start in range(0, len(x), _BLOCK_ROWS):
        # In order. NumPy's sum of a single column is not.
        total += np.cumsum(x[start : start + _BLOCK_ROWS], axis=0, dtype=np.float64)[-1]
    return total
