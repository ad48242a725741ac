"""Descriptors that lie outside memory and are read block by block.

::

    images        a b c d e f ...
    blocks()      images (0, 1, 2) with the descriptors of a, b, c; then images (3, 4) with d, e; ...

Encoders, cross-validation and evidence accept any `DescriptorBlocks` in place of `Descriptors`. There are two
kinds: :class:`medvlad.StoredDescriptors` reads a store, :class:`medvlad.bags.BagFiles` reads feature files.
Lengths and width are known from the beginning. Descriptors are read when they are needed.

Work on all images can be cut into jobs, see :mod:`medvlad._util.passes`. A job holds an excerpt: some images
that another process can read. `on` chooses the runner of the jobs, such as a cluster.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from medvlad._util.memory import memory_for
from medvlad._util.passes import Runner
from medvlad._util.validate import check_indices, check_positive_int
from medvlad.descriptors.checks import check_width
from medvlad.descriptors.ragged import Descriptors, draw_rows

__all__ = ["BLOCK_BYTES", "DescriptorBlocks"]

#: Maximum size of the descriptors in a block.
BLOCK_BYTES = 16 << 20


class DescriptorBlocks(Sequence[NDArray[np.float32]]):
    """A ragged batch of local descriptors that is read block by block.

    A subclass sets the attributes, and implements `_taken` and `_read_into`. It may implement `_read_rows`
    and `_in_reading_order` to read less, or in a better order.

    Attributes
    ----------
    offsets : ndarray of int64, shape (B + 1,)
        Image `i` has the descriptors ``offsets[i]`` to ``offsets[i + 1] - 1``.
    n_features : int
        Width D of a descriptor.
    """

    __slots__ = ("_runner", "n_features", "offsets")

    n_features: int
    offsets: NDArray[np.int64]
    _runner: Runner | None

    @property
    def nbytes(self) -> int:
        """Size in bytes that all descriptors would have in memory."""
        return 4 * self.n_features * int(self.offsets[-1])

    @property
    def runner(self) -> Runner | None:
        """What runs the jobs of encoders and of k-means. None: nobody has chosen a runner with `on`."""
        runner: Runner | None = getattr(self, "_runner", None)
        return runner

    def on(self, runner: Runner | None) -> Self:
        """Return the same images, whose k-means and encoding `runner` carries out, such as a cluster.

        Parameters
        ----------
        runner : Runner or None
            See :mod:`medvlad._util.passes`. None: estimators work in this process.

        Returns
        -------
        DescriptorBlocks
            Of the same class. `take` keeps the runner, pickling drops it.
        """
        same = copy(self)
        same._runner = runner
        return same

    def __getstate__(self) -> dict[str, Any]:
        names = {name for cls in type(self).__mro__ for name in getattr(cls, "__slots__", ())}
        names.update(getattr(self, "__dict__", ()))
        return {name: getattr(self, name) for name in sorted(names - {"_runner"}) if hasattr(self, name)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def check_width(self, expected: int, other: str) -> None:
        """Raise InputError unless descriptors have `expected` features, as those of `other` have."""
        check_width(self.n_features, expected, "descriptors", other)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.float32]: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.float32] | Self:
        """Read the descriptors (n_i, D) of one image, or return a range of images without reading them."""
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        return self._read(range(len(self))[index])

    def take(self, indices: Sequence[int] | NDArray[np.integer | np.bool_]) -> Self:
        """Return the images at `indices`, in that order, without reading them.

        Parameters
        ----------
        indices : sequence of int, or of bool with shape (n_images,)

        Returns
        -------
        DescriptorBlocks
            Of the same class.

        Raises
        ------
        InputError
            If `indices` are neither, or out of range.
        """
        index = check_indices(indices, len(self))
        taken = self._taken(index)
        taken._runner = self.runner
        taken.n_features = self.n_features
        taken.offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.diff(self.offsets)[index])])
        return taken

    def blocks(self, max_bytes: int = BLOCK_BYTES) -> Iterator[tuple[NDArray[np.int64], Descriptors]]:
        """Read all images in the order that is fastest.

        Parameters
        ----------
        max_bytes : int, default=16,777,216
            Maximum size of the descriptors in a block. A larger image is a block of its own.

        Yields
        ------
        indices : ndarray of int64, shape (b,)
            Indices of the images in this block.
        descriptors : Descriptors
            Descriptors of these images, in the same order.

        Raises
        ------
        InputError
            If an image cannot be read.
        """
        for indices in self.cut(max_bytes):
            yield indices, self.read(indices)

    def cut(
        self, max_bytes: int = BLOCK_BYTES, max_images: int | None = None, *, as_listed: bool = False
    ) -> Iterator[NDArray[np.int64]]:
        """Cut the images into the parts that :meth:`blocks` reads. Nothing is read.

        Parameters
        ----------
        max_bytes : int, default=16,777,216
            Maximum size of the descriptors of a part. A larger image is a part of its own.
        max_images : int or None, default=None
            Maximum number of images in a part. None: any number.
        as_listed : bool, default=False
            Keep the order of the images, instead of the order that is read fastest.

        Yields
        ------
        ndarray of int64, shape (b,)
            Indices of the images of a part.
        """
        limit = check_positive_int(max_bytes, "max_bytes") // (4 * self.n_features)
        order = np.arange(len(self))
        order = order if as_listed else self._in_reading_order(order)
        ends = np.cumsum(np.diff(self.offsets)[order])
        first, begin = 0, 0
        while first < len(order):
            last = max(first + 1, int(np.searchsorted(ends, begin + limit, side="right")))
            last = last if max_images is None else min(last, first + max_images)
            yield order[first:last]
            first, begin = last, int(ends[last - 1])

    def excerpt(self, indices: NDArray[np.int64]) -> Self:
        """Return images as :meth:`take` does, for a job in another process.

        A pickled excerpt is small, and opens no other images than its own.
        """
        return self.take(indices).on(None)

    def read(self, indices: NDArray[np.int64]) -> Descriptors:
        """Read some images into memory, in the order of `indices`."""
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.diff(self.offsets)[indices])])
        values = np.empty((int(offsets[-1]), self.n_features), np.float32)
        for i, start, stop in zip(indices.tolist(), offsets[:-1], offsets[1:], strict=True):
            self._read_into(i, values[start:stop])
        return Descriptors(values, offsets)

    def sample(self, n: int, random_state: Any = None) -> NDArray[np.float32]:
        """Draw descriptors uniformly without replacement. The sample and one image are in memory.

        Parameters
        ----------
        n : int
            Number of descriptors. All of them are returned if there are not more.
        random_state : int, RandomState or None, default=None
            Seed of the draw. None: a different sample at each call.

        Returns
        -------
        ndarray of float32, shape (min(n, N), D)
            In the order of the images.
        """
        return self.rows(draw_rows(int(self.offsets[-1]), n, random_state))

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read descriptors by their ascending numbers, from 0 to ``offsets[-1] - 1``.

        Returns
        -------
        ndarray of float32, shape (len(rows), D)
        """
        values = np.empty((len(rows), self.n_features), np.float32)
        begins = np.searchsorted(rows, self.offsets)
        for i in self._in_reading_order(np.flatnonzero(np.diff(begins))).tolist():
            part = slice(begins[i], begins[i + 1])
            self._read_rows(i, rows[part] - self.offsets[i], values[part])
        return values

    @memory_for("all descriptors", "leave them where they are; estimators read them block by block")
    def load(self) -> Descriptors:
        """Read all descriptors into memory."""
        values = np.empty((int(self.offsets[-1]), self.n_features), np.float32)
        for i in self._in_reading_order(np.arange(len(self))).tolist():
            self._read_into(i, values[self.offsets[i] : self.offsets[i + 1]])
        return Descriptors(values, self.offsets)

    def _read(self, i: int) -> NDArray[np.float32]:
        values = np.empty((int(self.offsets[i + 1] - self.offsets[i]), self.n_features), np.float32)
        self._read_into(i, values)
        return values

    @abstractmethod
    def _taken(self, index: NDArray[np.int64]) -> Self:
        """Return the images at `index` (numbers from 0). The caller sets the attributes."""

    @abstractmethod
    def _read_into(self, i: int, out: NDArray[np.float32]) -> None:
        """Read the descriptors (n_i, D) of image `i` into `out`."""

    def _read_rows(self, i: int, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Read some descriptors of image `i`, by ascending row, into `out`."""
        out[...] = self._read(i)[rows]

    def _in_reading_order(self, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return image numbers in the order in which they are read fastest."""
        return images
