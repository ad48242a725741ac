"""A few images of a section, to be read in another process.

A pickled :class:`medvlad.store.store.Section` reads the headers of all shards when it is unpickled: seconds
for a million images. A job reads some hundred images only, so it takes their places along.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.store.index import Index
from medvlad.store.store import Section

if TYPE_CHECKING:
    from medvlad.store.store import DescriptorStore

__all__ = ["SectionExcerpt"]


class SectionExcerpt(Section):
    """A section that knows the places of some images from the beginning.

    It looks at the folder only if a shard is gone, because `store gc` has moved its images to another one.

    Parameters
    ----------
    path, settings, store
        See :class:`medvlad.store.store.Section`.
    index : Index
        Places of the images. Their shards are numbers of `shards`.
    shards : list of Path
    """

    def __init__(
        self, path: Path, settings: dict[str, Any], store: DescriptorStore, index: Index, shards: list[Path]
    ) -> None:
        self._is_open = False
        super().__init__(path, settings, store)
        self._index, self._shards = index, shards
        self._is_open = True

    @classmethod
    def of(cls, section: Section, digests: NDArray[np.bytes_]) -> SectionExcerpt:
        """Return the part of `section` that holds the images with these digests."""
        digests = np.unique(digests)
        with section._lock:
            places = section.places(digests)
            known = places["shard"] >= 0
            digests, places = digests[known], places[known]
            numbers, renumbered = np.unique(places["shard"], return_inverse=True)
            shards = [section._shards[number].absolute() for number in numbers.tolist()]
        places["shard"] = renumbered
        path = section.path.absolute()
        return cls(path, section.settings, section._store, Index(digests, places), shards)

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.path, self.settings, self._store, self._index, self._shards)
        return SectionExcerpt, arguments

    def refresh(self, *gone: Path) -> None:
        """Read the headers of all shards, because one is gone.

        Raises
        ------
        InputError
            If this machine does not see the folder of the section.
        """
        if not self._is_open:
            return
        if not self.path.is_dir():
            raise InputError(
                f"there is no folder {self.path.parent} here: give every machine the same store under the "
                "same path"
            )
        super().refresh()
