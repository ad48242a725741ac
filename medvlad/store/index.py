"""The index of a section: the shard and position of each image, in memory.

An image has a digest of its key (16 bytes) and a place (16 bytes). Both arrays are sorted by digest, so an
image is found by binary search.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medvlad.store.shard import DIGEST, digests_of

__all__ = ["Index", "Place"]

_SEARCHED_AT_ONCE = 1 << 14

#: Place of an image: number of its shard, its position in the shard, and its shape (n, D).
_PLACE = np.dtype([("shard", np.int32), ("number", np.int32), ("rows", np.int32), ("width", np.int32)])

Place = tuple[int, int, int, int]


@dataclass(frozen=True)
class Index:
    """Places of images, sorted by the digests of their keys.

    Parameters
    ----------
    digests : ndarray of 16 bytes, shape (B,)
    places : structured ndarray, shape (B,)
        Fields shard, number, rows and width, each int32.
    """

    digests: NDArray[np.bytes_] = field(default_factory=lambda: np.empty(0, DIGEST))
    places: NDArray[np.void] = field(default_factory=lambda: np.empty(0, _PLACE))

    @classmethod
    def of_shard(cls, shard: int, keys: Collection[str], shapes: Sequence[tuple[int, int]]) -> Index:
        """Return the images of one shard. They are not sorted: use the result with :meth:`joined` only."""
        rows = [(shard, number, *shape) for number, shape in enumerate(shapes)]
        return cls(digests_of(keys), np.array(rows, _PLACE))

    @classmethod
    def of_places(cls, places: Mapping[bytes, Place]) -> Index:
        """Return images by digest. They are not sorted: use the result with :meth:`joined` only."""
        digests = np.fromiter(places, DIGEST, len(places))
        return cls(digests, np.array(list(places.values()), _PLACE))

    def joined(self, others: list[Index]) -> Index:
        """Return an index of the images of this and other indexes.

        If an image has several places, the first one counts. The list is emptied, which frees its memory
        before the images are sorted.
        """
        others.insert(0, self)
        digests = np.concatenate([index.digests for index in others])
        places = np.concatenate([index.places for index in others])
        others.clear()
        order = np.argsort(digests, kind="stable")
        digests = digests[order]
        doubles = np.flatnonzero(digests[1:] == digests[:-1]) + 1
        if len(doubles):
            order, digests = np.delete(order, doubles), np.delete(digests, doubles)
        return Index(digests, places[order])

    def without(self, digest: bytes) -> Index:
        """Return an index without an image."""
        kept = self.digests != digest
        return Index(self.digests[kept], self.places[kept])

    def find(self, digests: NDArray[np.bytes_]) -> NDArray[np.void]:
        """Return the places of images, shape (B,). The shard of an unknown image is -1."""
        places = np.full(len(digests), np.array((-1, -1, 0, 0), _PLACE))
        for start in range(0, len(digests) if len(self.digests) else 0, _SEARCHED_AT_ONCE):
            part = digests[start : start + _SEARCHED_AT_ONCE]
            found = np.minimum(np.searchsorted(self.digests, part), len(self.digests) - 1)
            known = self.digests[found] == part
            places[start : start + _SEARCHED_AT_ONCE][known] = self.places[found[known]]
        return places

    def place(self, digest: bytes) -> Place | None:
        """Return the place of one image, faster than :meth:`find`. None: the image is unknown."""
        at = int(np.searchsorted(self.digests, digest))
        if at == len(self.digests) or self.digests[at] != digest:
            return None
        place: Place = self.places[at].item()
        return place
