r"""k-means over descriptors that do not fit into memory: exact Lloyd steps by passes, not a subsample.

A pass reads each descriptor once. The images are cut into slices of at most 32 MiB of descriptors. The cut
depends on the images alone. With the label :math:`l(x)` of the nearest centre, a slice gives

.. math::

    V_k = \sum_{l(x) = k} (x - c_k), \qquad n_k = \#\{x : l(x) = k\}, \qquad
    E = \sum_x \|x - c_{l(x)}\|^2,

and the numbers of the rows farthest from their centres, to which empty cells move. Each block of 16 MiB is
one image of ``backend.encode``. Its sums are added in float64, in the order of the images. So a fit gives the
same bits for any number of threads, and on a cluster (:mod:`medvlad._util.passes`). It is the step of
:mod:`medvlad.encoders.kmeans` up to rounding, and without rounding if the numbers are integers.

**Stop.** The rule is that of :mod:`medvlad.encoders.kmeans`. The mean variance of a feature follows from the
sums of the first pass. With the mean :math:`m = \frac1N \sum_k (V_k + n_k c_k)` of all N descriptors,

.. math::

    \sum_x \|x - m\|^2 = E + \sum_k \left( 2 V_k \cdot (c_k - m) + n_k \|c_k - m\|^2 \right).

A pass measures the inertia E of the centres that it begins with. A last pass measures the final centres.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.choices import BackendName
from medvlad._util.passes import Runner, run_here
from medvlad._util.progress import progress_bar
from medvlad._util.validate import InputError, check_n_threads
from medvlad.backends import get_backend
from medvlad.descriptors.block_jobs import BlockJobs
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.checks import check_finite
from medvlad.encoders.kmeans_steps import move_centers, sums_and_distances

__all__ = ["LloydJob", "LloydJobs", "PassRun", "PassSums", "best_run_by_passes", "resolved_backend"]

logger = logging.getLogger(__name__)

_SLICE_BYTES = 32 << 20  # of descriptors in a job
_SLICE_IMAGES = 8192  # in a job


@dataclass(frozen=True, eq=False)
class PassSums:
    """What a pass learns about centres from some descriptors, or from all.

    Attributes
    ----------
    residuals : ndarray of float64, shape (K, D)
        Summed residuals of each cell.
    counts : ndarray of int64, shape (K,)
        Number of descriptors of each cell.
    inertia : float
        Sum of the squared distances to the centres.
    far : ndarray of float64, shape (f,)
        Largest squared distances above 0, at most K, descending.
    far_rows : ndarray of int64, shape (f,)
        Numbers of their descriptors. Equal distances come in the order of the rows.
    """

    residuals: NDArray[np.float64]
    counts: NDArray[np.int64]
    inertia: float
    far: NDArray[np.float64]
    far_rows: NDArray[np.int64]

    def __add__(self, other: PassSums) -> PassSums:
        far, rows = _farthest(
            np.concatenate([self.far, other.far]),
            np.concatenate([self.far_rows, other.far_rows]),
            len(self.counts),
        )
        residuals, counts = self.residuals + other.residuals, self.counts + other.counts
        return PassSums(residuals, counts, self.inertia + other.inertia, far, rows)


@dataclass(frozen=True, eq=False)
class LloydJob:
    """Job: the sums of some images.

    Attributes
    ----------
    source : DescriptorBlocks
        The images.
    indices : ndarray of int64, shape (b,)
        Their numbers among all images, for messages.
    first_rows : ndarray of int64, shape (b,)
        Number of the first descriptor of each image.
    backend : str
        Name of a backend.
    n_threads : int or None
        None: all processors that the process may use.
    """

    source: DescriptorBlocks
    indices: NDArray[np.int64]
    first_rows: NDArray[np.int64]
    backend: BackendName
    n_threads: int | None
    stage: str = "k-means"

    @property
    def n_images(self) -> int:
        """Number of images, for a progress bar."""
        return len(self.indices)

    def run(self, centers: NDArray[np.float32], /) -> PassSums:
        """Return the sums for centres (K, D).

        Raises
        ------
        InputError
            If an image cannot be read, or a descriptor is not finite.
        """
        sums = PassSums(
            np.zeros(centers.shape),
            np.zeros(len(centers), np.int64),
            0.0,
            np.empty(0),
            np.empty(0, np.int64),
        )
        for own in self.source.cut(as_listed=True):
            block = self.source.read(own)
            if len(block.values):
                sums += self._of_block(block.values, block.offsets, own, centers)
        return sums

    def _of_block(
        self,
        x: NDArray[np.float32],
        offsets: NDArray[np.int64],
        own: NDArray[np.int64],
        centers: NDArray[np.float32],
    ) -> PassSums:
        backend = get_backend(self.backend, x)
        try:
            residuals, counts, distances = sums_and_distances(
                x, centers, backend, check_n_threads(self.n_threads)
            )
        except InputError:
            for number, first, last in zip(self.indices[own], offsets[:-1], offsets[1:], strict=True):
                check_finite(x[first:last], np.array([0, last - first]), first_image=int(number))
            raise
        rows = np.arange(len(x)) + np.repeat(self.first_rows[own] - offsets[:-1], np.diff(offsets))
        far, far_rows = _farthest(distances, rows, len(centers))
        return PassSums(residuals.astype(np.float64), counts, float(distances.sum()), far, far_rows)


class LloydJobs(BlockJobs[LloydJob]):
    """The jobs of a pass over all images.

    Parameters
    ----------
    source : DescriptorBlocks
    backend : str
    n_threads : int or None
    """

    def __init__(self, source: DescriptorBlocks, backend: BackendName, n_threads: int | None) -> None:
        super().__init__(source, list(source.cut(_SLICE_BYTES, _SLICE_IMAGES)))
        self._backend, self._n_threads = backend, n_threads

    def make(self, number: int) -> LloydJob:
        """Return a job by its number."""
        part = self.parts[number]
        first_rows = self._source.offsets[part]
        return LloydJob(self._source.excerpt(part), part, first_rows, self._backend, self._n_threads)


@dataclass(frozen=True, eq=False)
class PassRun:
    """Result of one run of k-means by passes.

    Attributes
    ----------
    centers : ndarray of float32, shape (K, D)
    counts : ndarray of int64, shape (K,)
        Number of descriptors of each cell.
    inertia_path : ndarray of float64, shape (n_iter + 1,)
        Inertia of the centres before each step, and of the final centres.
    n_iter : int
        Number of Lloyd steps.
    at_rest : bool
        Whether the centres came to rest within the allowed number of steps.
    """

    centers: NDArray[np.float32]
    counts: NDArray[np.int64]
    inertia_path: NDArray[np.float64]
    n_iter: int
    at_rest: bool


def best_run_by_passes(
    source: DescriptorBlocks,
    jobs: LloydJobs,
    starts: Iterable[NDArray[np.float32]],
    tol: float,
    max_iter: int,
    runner: Runner,
) -> PassRun:
    """Run k-means from each start and return the run with the lowest inertia; the first one on a tie.

    Parameters
    ----------
    source : DescriptorBlocks
        All descriptors. Rows for empty cells are read from it.
    jobs : sequence of LloydJob
        The jobs of a pass over them.
    starts : iterable of ndarray of float32, shape (K, D)
    tol : float
        Tolerance relative to the mean variance of a feature.
    max_iter : int
        Maximum number of steps.
    runner : Runner
        What carries out a pass.
    """
    best = None
    for start in starts:
        run = _run_lloyd(source, jobs, start, tol, max_iter, runner)
        if best is None or run.inertia_path[-1] < best.inertia_path[-1]:
            best = run
    assert best is not None
    return best


def _run_lloyd(
    source: DescriptorBlocks,
    jobs: LloydJobs,
    centers: NDArray[np.float32],
    tol: float,
    max_iter: int,
    runner: Runner,
) -> PassRun:
    path: list[float] = []
    at_rest, threshold = False, 0.0
    while len(path) < max_iter and not at_rest:
        sums = _one_pass(runner, jobs, centers, len(path))
        if not path:
            threshold = tol * _mean_variance(sums, centers)
        path.append(sums.inertia)
        moves = sums.residuals / np.maximum(sums.counts, 1)[:, None]
        updated = move_centers(centers, moves)
        empty = np.flatnonzero(sums.counts == 0)
        refilled = _fill_empty(source, updated, empty, sums)
        is_same = np.array_equal(updated, centers)
        at_rest = (is_same or float((moves**2).sum()) <= threshold) and not refilled
        centers = updated
        if is_same and at_rest:  # the sums are those of the final centres
            return PassRun(centers, sums.counts, np.array([*path, sums.inertia]), len(path), True)
    n_iter = len(path)
    sums = _one_pass(runner, jobs, centers, n_iter)
    return PassRun(centers, sums.counts, np.array([*path, sums.inertia]), n_iter, at_rest)


def _one_pass(runner: Runner, jobs: LloydJobs, centers: NDArray[np.float32], number: int) -> PassSums:
    """Return the sums over all descriptors, added in the order of the jobs."""
    begin = time.perf_counter()
    results: Iterator[PassSums] = runner(centers, jobs)
    shown = None if runner is run_here else False  # other runners show progress themselves
    sums: PassSums | None = None
    with progress_bar(jobs.n_images, f"k-means, pass {number + 1}", shown) as bar:
        for job, one in zip(range(len(jobs)), results, strict=True):
            sums = one if sums is None else sums + one
            bar.update(jobs.n_images_of(job))
    assert sums is not None
    logger.info(
        "k-means, pass %d: inertia %.9g, %.1f s", number + 1, sums.inertia, time.perf_counter() - begin
    )
    return sums


def _farthest(
    distances: NDArray[np.float64], rows: NDArray[np.int64], n: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the `n` largest distances above 0 and their rows, the largest first, on ties the first row."""
    kept = np.flatnonzero(distances > 0)
    if len(kept) > n:
        least = np.partition(distances[kept], len(kept) - n)[len(kept) - n]
        kept = kept[distances[kept] >= least]
    order = kept[np.lexsort((rows[kept], -distances[kept]))[:n]]
    return distances[order], rows[order]


def _fill_empty(
    source: DescriptorBlocks, updated: NDArray[np.float32], empty: NDArray[np.intp], sums: PassSums
) -> bool:
    """Move the `empty` centres of `updated` to the farthest descriptors. Return whether one moved."""
    rows = sums.far_rows[: len(empty)]
    if len(rows):
        order = np.argsort(rows)
        updated[empty[: len(rows)][order]] = source.rows(rows[order])
    return len(rows) > 0


def _mean_variance(sums: PassSums, centers: NDArray[np.float32]) -> float:
    """Return the mean of the variances of the features, from the sums of a pass."""
    c, n = centers.astype(np.float64), float(sums.counts.sum())
    mean = (sums.residuals + sums.counts[:, None] * c).sum(axis=0) / n
    offset = c - mean
    between = 2 * (sums.residuals * offset).sum() + (sums.counts * (offset**2).sum(axis=1)).sum()
    return max(0.0, sums.inertia + float(between)) / float(n * c.shape[1])


def resolved_backend(name: BackendName) -> Any:
    """Return the name of the backend that "auto" stands for here, so that every worker uses the same one."""
    return str(get_backend(name).__name__).rsplit(".", 1)[-1]  # type: ignore[attr-defined]
