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

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, check_positive_int
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.checks import check_width
from medvlad.store.excerpt import SectionExcerpt
from medvlad.store.shard import digests_of
from medvlad.store.store import Section

__all__ = ["StoredDescriptors"]


class StoredDescriptors(DescriptorBlocks):
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

    __slots__ = ("_digests", "_section")

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

    def _taken(self, index: NDArray[np.int64]) -> Self:
        taken = type(self).__new__(type(self))
        taken._section, taken._digests = self._section, self._digests[index]
        return taken

    def excerpt(self, indices: NDArray[np.int64]) -> Self:
        """Return images for a job in another process. It opens their shards, and reads no other header."""
        part = super().excerpt(indices)
        part._section = SectionExcerpt.of(self._section, part._digests)
        return part

    def _in_reading_order(self, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sort images by shard. Shards come in the order of the first image that needs them."""
        shards = self._section.places(self._digests[images])["shard"]
        # An image without descriptors stays behind the image before it.
        shards = shards[np.maximum.accumulate(np.where(shards >= 0, np.arange(len(shards)), 0))]
        first = np.full(shards.max(initial=-1) + 2, len(shards))
        np.minimum.at(first, shards, np.arange(len(shards)))
        return images[np.argsort(first[shards], kind="stable")]

    def _read_into(self, i: int, out: NDArray[np.float32]) -> None:
        out[...] = self._read(i)

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
