"""The steps of k-means: seeding, Lloyd's step and empty clusters, computed by a backend.

:mod:`medvlad.encoders.kmeans` explains the mathematics. `x` stands for descriptors (N, D) that the backend
has placed in its memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.backends import Backend
from medvlad.backends.normalise import Normalisation
from medvlad.descriptors.gpu_array import GpuArray, array_module, host_array

__all__ = [
    "SEED_ROWS",
    "best_run",
    "distances_to_centers",
    "fill_empty",
    "labels_and_inertia",
    "mean_variance",
    "move_centers",
    "seed_centers",
    "sums_and_distances",
]

#: Number of descriptors per cluster among which seeds are chosen.
SEED_ROWS = 256

# Number of rows whose distances to the centres are computed at a time, which bounds memory.
_BLOCK_ROWS = 8192

_SUMS = Normalisation(l2_norm=False)


Weights = NDArray[np.float64] | None


def seed_centers(
    x: Any,
    n_clusters: int,
    rng: np.random.RandomState,
    backend: Backend,
    n_threads: int,
    weights: Weights = None,
) -> NDArray[np.float32]:
    """Draw centres (K, D) from the rows of `x` by greedy k-means++."""
    rows = None
    if len(x) > SEED_ROWS * n_clusters:
        rows = np.sort(rng.choice(len(x), SEED_ROWS * n_clusters, replace=False))
        weights = None if weights is None else weights[rows]
    n = len(x) if rows is None else len(rows)
    n_trials = -(-2 * (2 + int(math.log(n_clusters))) // 8) * 8
    shares = None if weights is None else weights / weights.sum()
    chosen = [int(rng.randint(n) if shares is None else rng.choice(n, p=shares))]
    seeding = backend.seeding(x, rows, n_threads=n_threads)
    seeding.add_best(np.array(chosen, np.int64))
    while len(chosen) < n_clusters:
        cumulative = np.cumsum(seeding.closest if shares is None else seeding.closest * shares)
        if cumulative[-1] > 0:
            draws = rng.uniform(size=n_trials) * cumulative[-1]
            trials = np.minimum(np.searchsorted(cumulative, draws, side="right"), n - 1).astype(np.int64)
        else:  # there are fewer distinct descriptors than centres, so any row is as good
            trials = rng.randint(n, size=1).astype(np.int64)
        if shares is None:
            best = seeding.add_best(trials)
        else:
            distances, _ = seeding.distances(trials)
            best = int((distances @ shares).argmin())
            seeding.closest = distances[best]
        chosen.append(int(trials[best]))
    seeds = np.array(chosen) if rows is None else rows[chosen]
    return backend.take(x, seeds)


@dataclass(frozen=True, eq=False)
class Run:
    """Result of one run of k-means.

    Attributes
    ----------
    centers : ndarray of float32, shape (K, D)
    labels : ndarray of int32, shape (N,)
    inertia : float
    n_iter : int
        Number of Lloyd steps.
    at_rest : bool
        Whether the centres came to rest within the allowed number of steps.
    """

    centers: NDArray[np.float32]
    labels: NDArray[np.int32]
    inertia: float
    n_iter: int
    at_rest: bool


def best_run(
    x: Any,
    starts: Iterable[NDArray[np.float32]],
    threshold: float,
    max_iter: int,
    backend: Backend,
    n_threads: int,
    weights: Weights = None,
) -> Run:
    """Run k-means from each start and return the run with the lowest inertia; the first one on a tie."""
    best = None
    shares = None
    if weights is not None:
        # Weights of mean 1, so that sums are as far from the limits of float32 as without weights.
        with x.stream() if isinstance(x, GpuArray) else nullcontext():
            shares = array_module(x).asarray(weights / weights.mean())[:, None]
    for start in starts:
        centers, n_iter, at_rest = _run_lloyd(x, start, threshold, max_iter, backend, n_threads, shares)
        labels, inertia = labels_and_inertia(x, centers, backend, n_threads, weights)
        if best is None or inertia < best.inertia:
            best = Run(centers, labels, inertia, n_iter, at_rest)
    assert best is not None
    return best


def _run_lloyd(
    x: Any,
    centers: NDArray[np.float32],
    threshold: float,
    max_iter: int,
    backend: Backend,
    n_threads: int,
    shares: Any,
) -> tuple[NDArray[np.float32], int, bool]:
    """Run Lloyd's steps until the sum of the squared moves is at most `threshold`.

    Return the centres, the number of steps, and whether the centres came to rest within `max_iter` steps.
    """
    for n_iter in range(1, max_iter + 1):
        residuals, masses = _sums(x, centers, backend, n_threads, shares)
        moves = residuals.astype(np.float64) / np.where(masses > 0, masses, 1)[:, None]
        updated = move_centers(centers, moves)
        empty = np.flatnonzero(masses == 0)
        refilled = False
        if len(empty):
            refilled = fill_empty(x, centers, updated, empty, backend, n_threads)
        at_rest = np.array_equal(updated, centers) or float((moves**2).sum()) <= threshold
        centers = updated
        if at_rest and not refilled:
            return centers, n_iter, True
    return centers, max_iter, False


def _sums(
    x: Any, centers: NDArray[np.float32], backend: Backend, n_threads: int, shares: Any
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Return the summed residuals (K, D) of the cells, and the number or the weight (K,) of their rows.

    `shares` (N, 1) are weights in the memory of `x`. None: all 1.
    """
    offsets = np.array([0, len(x)], np.int64)
    if shares is None:
        residuals, counts = backend.aggregate(x, offsets, centers, n_threads=n_threads)
        return residuals[0], counts[0]
    masses = np.empty((1, len(centers)))
    labels = backend.assign(x, centers, n_threads=n_threads)[:, None]
    summed = backend.encode_weighted(
        x, offsets, centers, labels, shares, _SUMS, n_threads=n_threads, masses_out=masses
    )
    return host_array(summed).reshape(centers.shape), masses[0]


def sums_and_distances(
    x: NDArray[np.float32], centers: NDArray[np.float32], backend: Backend, n_threads: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
    """Return the summed residuals (K, D), the counts (K,) and the squared distances (N,) to the centres.

    The labels are computed once. `x` is in host memory.
    """
    labels, counts = np.empty(len(x), np.int32), np.empty((1, len(centers)), np.int64)
    residuals = backend.encode(
        x,
        np.array([0, len(x)], np.int64),
        centers,
        power=1.0,
        intra_norm=False,
        l2_norm=False,
        n_threads=n_threads,
        labels_out=labels,
        counts_out=counts,
    )
    distances = backend.squared_distances(x, centers, labels, n_threads=n_threads)
    return residuals.reshape(centers.shape), counts[0], distances


def labels_and_inertia(
    x: Any, centers: NDArray[np.float32], backend: Backend, n_threads: int, weights: Weights = None
) -> tuple[NDArray[np.int32], float]:
    """Return the labels (N,) and the sum of squared distances of the descriptors to their centres."""
    labels = _labels(x, centers, backend, n_threads)
    distances = backend.squared_distances(x, centers, labels, n_threads=n_threads)
    return labels, float(distances.sum() if weights is None else distances @ weights)


def _labels(x: Any, centers: NDArray[np.float32], backend: Backend, n_threads: int) -> NDArray[np.int32]:
    """Return the labels of placed descriptors in host memory."""
    return np.asarray(host_array(backend.assign(x, centers, n_threads=n_threads)), np.int32)


def mean_variance(x: Any, backend: Backend, n_threads: int, weights: Weights = None) -> float:
    """Return the mean of the variances of the features.

    Sums are in float64, because sums of large float32 numbers could overflow.
    """
    n, d = x.shape
    shares = None if weights is None else weights / weights.sum()
    one_cell, origin = np.zeros(n, np.int32), np.zeros((1, d), np.float32)
    if shares is None:
        mean = (backend.column_sums(x, n_threads=n_threads) / n)[None].astype(np.float32)
    else:
        offsets, cells = np.array([0, n], np.int64), one_cell[:, None]
        summed = backend.encode_weighted(
            x, offsets, origin, cells, shares[:, None], _SUMS, n_threads=n_threads
        )
        mean = host_array(summed)
    distances = backend.squared_distances(x, mean, one_cell, n_threads=n_threads)
    return float(distances.sum()) / float(n * d) if shares is None else float(shares @ distances) / d


def move_centers(centers: NDArray[np.float32], moves: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the moved centres, or raise InputError if a sum of descriptors is beyond float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        updated = (centers + moves).astype(np.float32)
    if not np.isfinite(updated).all():
        raise InputError(
            f"descriptors as large as {np.abs(centers).max():.3g} add up to more than float32: rescale them"
        )
    return updated


def fill_empty(
    x: Any,
    centers: NDArray[np.float32],
    updated: NDArray[np.float32],
    empty: NDArray[np.intp],
    backend: Backend,
    n_threads: int,
) -> bool:
    """Move the `empty` centres of `updated` to the rows farthest from their `centers`.

    Return whether a centre moved. None does if all rows are at their centres.
    """
    labels = _labels(x, centers, backend, n_threads)
    distances = backend.squared_distances(x, centers, labels, n_threads=n_threads)
    farthest = np.argsort(-distances, kind="stable")[: len(empty)]
    farthest = farthest[distances[farthest] > 0]
    updated[empty[: len(farthest)]] = backend.take(x, farthest)
    return len(farthest) > 0


def distances_to_centers(x: NDArray[np.float32], centers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the Euclidean distances (N, K) of descriptors in host memory to the centres (K, D).

    Those of a row that is not finite are not finite either.
    """
    c = centers.astype(np.float64)
    distances = np.empty((len(x), len(c)), np.float32)
    for start in range(0, len(x), _BLOCK_ROWS):
        block = x[start : start + _BLOCK_ROWS].astype(np.float64)
        with np.errstate(invalid="ignore"):
            cross = 2 * block @ c.T
            squared = np.einsum("nd,nd->n", block, block)[:, None] - cross + np.einsum("kd,kd->k", c, c)
        distances[start : start + _BLOCK_ROWS] = np.sqrt(np.maximum(squared, 0))
    return distances
