"""Projected descriptors that are computed when they are read, because all would not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np
from numpy.typing import NDArray

from medvlad.descriptors.blocks import DescriptorBlocks

__all__ = ["ProjectedBlocks"]


class ProjectedBlocks(DescriptorBlocks):
    """Descriptors of a source, projected row by row as they are read.

    Parameters
    ----------
    source : DescriptorBlocks
    width : int
        Width of a projected descriptor.
    project : callable
        Writes the projection of its first argument (n, D) into its second argument (n, `width`). Both may be
        the same array.
    """

    __slots__ = ("_project", "_source")

    def __init__(
        self,
        source: DescriptorBlocks,
        width: int,
        project: Callable[[NDArray[np.float32], NDArray[np.float32]], None],
    ) -> None:
        self._source, self._project = source, project
        self.n_features, self.offsets = width, source.offsets

    def _taken(self, index: NDArray[np.int64]) -> Self:
        taken = type(self).__new__(type(self))
        taken._source, taken._project = self._source.take(index), self._project
        return taken

    def excerpt(self, indices: NDArray[np.int64]) -> Self:
        """Return images for a job in another process."""
        part = super().excerpt(indices)
        part._source = self._source.excerpt(indices)
        return part

    def _read_into(self, i: int, out: NDArray[np.float32]) -> None:
        if self._source.n_features == self.n_features:  # in place, which halves the memory
            self._source._read_into(i, out)
            self._project(out, out)
        else:
            self._project(self._source[i], out)

    def _read_rows(self, i: int, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        values = np.empty((len(rows), self._source.n_features), np.float32)
        self._source._read_rows(i, rows, values)
        self._project(values, out)

    def _in_reading_order(self, images: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._source._in_reading_order(images)
