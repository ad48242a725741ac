r"""One pass over the rows of an SVM: products with all classes at once, and sums over the rows.

For each column :math:`v` of a pass, the rows :math:`x_i` give the products :math:`z_i = x_i \cdot v` and the
sum :math:`\sum_i u_i x_i`, with one of

.. math::

   u_i = c_i y_i \max(0, 1 - y_i z_i) \quad \text{(gradient)} , \qquad
   u_i = c_i z_i \quad \text{(curvature)} .

So each chunk of rows is read once and multiplied twice while it is in the cache. Chunks have a fixed number
of rows, which depends on the matrix only. Several threads work on chunks, with one thread of BLAS each, and
the sums of the chunks are added in float64 in the order of the rows. The result therefore does not depend on
the number of threads, or on the runner.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvlad._util.blas_threads import single_threaded_blas
from medvlad._util.processors import usable_processors
from medvlad._util.validate import InputError
from medvlad.svm.blocks import Vector
from medvlad.svm.row_source import Reader, Rows

__all__ = ["CHUNK_BYTES", "Columns", "PartOfPass", "RowsJob", "cut"]

CHUNK_BYTES = 8 << 20
_CHUNKS_IN_JOB = 64


class Columns(NamedTuple):
    """Vectors (n_features + 1, k) that are multiplied with the rows, and how.

    Attributes
    ----------
    vectors : ndarray of float32 or float64, shape (n_features + 1, k)
        The dtype is that of the products. The last entry belongs to the constant feature.
    is_gradient : ndarray of bool, shape (k,)
    """

    vectors: NDArray[Any]
    is_gradient: NDArray[np.bool_]


class PartOfPass(NamedTuple):
    """Products (rows, k) and sums (n_features + 1, k), float64, of each group of columns."""

    products: list[Vector]
    sums: list[Vector]


@dataclass(frozen=True)
class RowsJob:
    """A range of rows and its work in a pass.

    Parameters
    ----------
    source : Rows
        All rows, or those of the range.
    start, stop : int
        The range.
    scale : float
        Value of the constant feature.
    weights : list of ndarray of float64, shape (stop - start, k)
        Signed weights :math:`y_i c_i`, or weights :math:`c_i`, for each group of columns.
    keep : tuple of bool
        Whether the products of the group are returned.
    stage : str, default="linear SVM"
        Name for a progress bar.
    n_threads : int or None, default=None
        None: all processors that the process may use.
    """

    source: Rows
    start: int
    stop: int
    scale: float
    weights: list[Vector] = field(repr=False)
    keep: tuple[bool, ...]
    stage: str = "linear SVM"
    n_threads: int | None = None

    @property
    def n_images(self) -> int:
        """Number of rows, for a progress bar."""
        return self.stop - self.start

    def run(self, shared: Sequence[Columns], /) -> PartOfPass:
        """Return the products and sums of the rows.

        Raises
        ------
        InputError
            If a row is not finite, or the file cannot be read.
        """
        products: list[Vector] = [
            np.empty((self.stop - self.start, len(group.is_gradient) if kept else 0))
            for group, kept in zip(shared, self.keep, strict=True)
        ]
        sums: list[Vector] = [np.zeros(group.vectors.shape) for group in shared]
        for where, parts in self._chunks(shared):
            for j, (product, added) in enumerate(parts):
                if self.keep[j]:
                    products[j][where] = product
                sums[j] += added
        return PartOfPass(products, sums)

    def _chunks(self, shared: Sequence[Columns]) -> Iterator[tuple[slice, list[tuple[Vector, NDArray[Any]]]]]:
        """Yield (rows relative to `start`, products and sums of each group) in the order of the rows."""
        step = rows_in_chunk(self.source)
        ranges = [(a, min(a + step, self.stop)) for a in range(self.start, self.stop, step)]
        n_threads = min(self.n_threads or usable_processors().number, len(ranges))
        own, readers, lock = threading.local(), ExitStack(), threading.Lock()

        def work(begin: int, end: int) -> list[tuple[Vector, NDArray[Any]]]:
            if not hasattr(own, "read"):
                with lock:
                    own.read = readers.enter_context(self.source.reader())
                    own.convert = _Converter()
            return self._multiply(own.read, own.convert, begin, end, shared)

        pending: deque[tuple[slice, Future[Any]]] = deque()
        with readers, single_threaded_blas(), ThreadPoolExecutor(n_threads) as pool:
            for begin, end in ranges:
                pending.append((slice(begin - self.start, end - self.start), pool.submit(work, begin, end)))
                if len(pending) > n_threads + 1:  # so that few results wait
                    where, done = pending.popleft()
                    yield where, done.result()
            for where, done in pending:
                yield where, done.result()

    def _multiply(
        self, read: Reader, convert: _Converter, begin: int, end: int, shared: Sequence[Columns]
    ) -> list[tuple[Vector, NDArray[Any]]]:
        x = read(begin, end)
        found: list[tuple[Vector, NDArray[Any]]] = []
        for group, all_weights in zip(shared, self.weights, strict=True):
            weights = all_weights[begin - self.start : end - self.start]
            rows = convert(x, group.vectors.dtype)
            with np.errstate(over="ignore", invalid="ignore"):
                product = (rows @ group.vectors[:-1]).astype(np.float64, copy=False)
                product += self.scale * group.vectors[-1]
                pull = weights * product
                for j in np.flatnonzero(group.is_gradient):
                    signed = weights[:, j]
                    pull[:, j] = signed * np.maximum(0.0, 1.0 - np.sign(signed) * product[:, j])
                added = np.empty(group.vectors.shape, group.vectors.dtype)
                np.matmul(rows.T, pull.astype(rows.dtype, copy=False), out=added[:-1])
                added[-1] = self.scale * pull.sum(axis=0)
            if not np.isfinite(added).all():
                self._explain(x, begin)
            found.append((product, added))
        return found

    @staticmethod
    def _explain(x: NDArray[Any], begin: int) -> None:
        """Raise InputError if the rows themselves are not finite."""
        bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
        if len(bad):
            raise InputError(
                f"row {begin + bad[0]} of X holds NaN or infinity: remove the row or replace its numbers"
            )


class _Converter:
    """Converts chunks to another dtype, into one buffer."""

    def __init__(self) -> None:
        self._buffer = np.empty(0)

    def __call__(self, x: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        if x.dtype == dtype:
            return x
        if self._buffer.size < x.size or self._buffer.dtype != dtype:
            self._buffer = np.empty(x.size, dtype)
        rows = self._buffer[: x.size].reshape(x.shape)
        np.copyto(rows, x)
        return rows


def rows_in_chunk(source: Rows) -> int:
    """Return the number of rows in a chunk. It depends on the matrix only."""
    return max(1, CHUNK_BYTES // max(1, source.shape[1] * source.dtype.itemsize))


def cut(source: Rows) -> list[tuple[int, int]]:
    """Return the ranges of rows of the jobs of a pass. They depend on the matrix only."""
    n, step = source.shape[0], rows_in_chunk(source) * _CHUNKS_IN_JOB
    return [(start, min(start + step, n)) for start in range(0, n, step)]
