"""Descriptors that stay in the store and are read block by block.

::

    listed images        a b c d e f ...
    shards of the store  | c a b | f d | e ...
    blocks()             images (0, 1, 2) with the descriptors of a, b, c; then images (3, 5) with d, f; ...

An image needs 24 bytes of memory, 16 more bytes while blocks are read, and 32 bytes in the index of the
section. Its descriptors, some kilobytes, stay on the disk. Each shard is read once, from its beginning to its
end. Shards come in the order of the first image that needs them, so images that are listed in the order of
their extraction come in that order.

Samples are drawn by row number, because the headers of the shards hold the number of descriptors of each
image. Only the images with a drawn row are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from medvlad._util.memory import memory_for
from medvlad._util.validate import InputError, check_indices, check_positive_int
from medvlad.descriptors.checks import check_width
from medvlad.descriptors.ragged import Descriptors, draw_rows
from medvlad.store.shard import digests_of
from medvlad.store.store import Section

__all__ = ["StoredDescriptors"]

_BLOCK_BYTES = 16 << 20


class StoredDescriptors(Sequence[NDArray[np.float32]]):
    """A ragged batch of local descriptors in a store. Estimators accept it in place of Descriptors.

    Parameters
    ----------
    section : Section
        Section of a :class:`medvlad.store.store.DescriptorStore`.
    keys : sequence of str or None
        Key of each image. See :func:`medvlad.images.hashed_file.image_key`. None: the image has no
        descriptors.
    n_features : int or None, default=None
        Width D of a descriptor. Needed only if no image has descriptors.

    Attributes
    ----------
    offsets : ndarray of int64, shape (B + 1,)
        Image `i` has the descriptors ``offsets[i]`` to ``offsets[i + 1] - 1``.
    n_features : int
        Width D of a descriptor.

    Raises
    ------
    InputError
        If the section lacks an image, images have different widths, or the width is unknown.
    """

    __slots__ = ("_digests", "_section", "n_features", "offsets")

    def __init__(
        self, section: Section, keys: Sequence[str | None], *, n_features: int | None = None
    ) -> None:
        digests = digests_of(keys)
        no_image = digests == b""
        places = section.places(digests)
        absent = (places["shard"] < 0) & ~no_image
        if absent.any():
            image = int(absent.argmax())
            raise InputError(
                f"the store {section.path.parent} has no descriptors of image {image} ({keys[image]}): "
                "extract it first ('medvlad extract', or CNNDescriptors.extract)"
            )
        widths = np.unique(places["width"][~no_image])
        if len(widths) == 0:
            if n_features is None:
                raise InputError("no image has descriptors, so their width is unknown: give n_features")
            widths = np.array([check_positive_int(n_features, "n_features")])
        for width in widths:
            check_width(int(width), int(widths[0]), "descriptors of some images", "those of others")
        self._section = section
        self._digests = digests
        self.n_features = int(widths[0])
        self.offsets = np.concatenate([[0], np.cumsum(places["rows"], dtype=np.int64)])

    @property
    def nbytes(self) -> int:
        """Size in bytes that all descriptors would have in memory."""
        return 4 * self.n_features * int(self.offsets[-1])

    def __len__(self) -> int:
        return len(self._digests)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.float32]: ...
    @overload
    def __getitem__(self, index: slice) -> StoredDescriptors: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.float32] | StoredDescriptors:
        """Read the descriptors (n_i, D) of one image, or return a range of images without reading them."""
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        return self._read(range(len(self))[index])

    def take(self, indices: Sequence[int] | NDArray[np.integer | np.bool_]) -> StoredDescriptors:
        """Return the images at `indices`, in that order, without reading them.

        Parameters
        ----------
        indices : sequence of int, or of bool with shape (n_images,)

        Returns
        -------
        StoredDescriptors

        Raises
        ------
        InputError
            If `indices` are neither, or out of range.
        """
        index = check_indices(indices, len(self))
        taken = StoredDescriptors.__new__(StoredDescriptors)
        taken._section = self._section
        taken._digests = self._digests[index]
        taken.n_features = self.n_features
        taken.offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.diff(self.offsets)[index])])
        return taken

    def blocks(self, max_bytes: int = _BLOCK_BYTES) -> Iterator[tuple[NDArray[np.int64], Descriptors]]:
        """Read all images, shard by shard.

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
            If the entry of an image is damaged.
        """
        limit = check_positive_int(max_bytes, "max_bytes") // (4 * self.n_features)
        order = self._in_order_of_shards(np.arange(len(self)))
        ends = np.cumsum(np.diff(self.offsets)[order])
        first, begin = 0, 0
        while first < len(order):
            last = max(first + 1, int(np.searchsorted(ends, begin + limit, side="right")))
            indices = order[first:last]
            offsets = np.concatenate([[begin], ends[first:last]]) - begin
            values = np.empty((int(offsets[-1]), self.n_features), np.float32)
            for i, start, stop in zip(indices, offsets[:-1], offsets[1:], strict=True):
                values[start:stop] = self._read(i)
            yield indices, Descriptors(values, offsets)
            first, begin = last, int(ends[last - 1])

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
        rows = draw_rows(int(self.offsets[-1]), n, random_state)
        values = np.empty((len(rows), self.n_features), np.float32)
        begins = np.searchsorted(rows, self.offsets)
        for i in self._in_order_of_shards(np.flatnonzero(np.diff(begins))):
            part = slice(begins[i], begins[i + 1])
            values[part] = self._read(i)[rows[part] - self.offsets[i]]
        return values

    @memory_for("all descriptors", "leave them in the store; estimators read them block by block")
    def load(self) -> Descriptors:
        """Read all descriptors into memory."""
        values = np.empty((int(self.offsets[-1]), self.n_features), np.float32)
        for i in self._in_order_of_shards(np.arange(len(self))):
            values[self.offsets[i] : self.offsets[i + 1]] = self._read(i)
        return Descriptors(values, self.offsets)

    def _in_order_of_shards(self, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sort images by shard. Shards come in the order of the first image that needs them."""
        shards = self._section.places(self._digests[images])["shard"]
        # An image without descriptors stays behind the image before it.
        shards = shards[np.maximum.accumulate(np.where(shards >= 0, np.arange(len(shards)), 0))]
        first = np.full(shards.max(initial=-1) + 2, len(shards))
        np.minimum.at(first, shards, np.arange(len(shards)))
        return images[np.argsort(first[shards], kind="stable")]

    def _read(self, i: int) -> NDArray[np.float32]:
        shape = (int(self.offsets[i + 1] - self.offsets[i]), self.n_features)
        if not self._digests[i]:
            return np.empty((0, self.n_features), np.float32)
        values = self._section.read(self._digests[i])
        if values is None or values.shape != shape:
            store = self._section.path.parent
            raise InputError(
                f"the descriptors of image {i} are damaged or gone: run 'medvlad store gc {store}', then "
                "extract again ('medvlad extract', or CNNDescriptors.extract)"
            )
        return values

    def __repr__(self) -> str:
        return (
            f"StoredDescriptors({len(self)} images, {self.offsets[-1]} descriptors of {self.n_features}, "
            f"in {self._section.path})"
        )
