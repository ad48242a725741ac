"""What becomes of damaged images in a run with a descriptor store.

The store never holds descriptors of a damaged image under the image's key. They have a key of their own::

    sound      3f9a...            damaged    3f9a...!damaged

Therefore a later run cannot take them for those of a sound image. It finds the marked key and knows that the
image is damaged, without decoding it. See :mod:`medvlad.images.damage` for what damage is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from medvlad._util.object_path import location
from medvlad._util.validate import InputError
from medvlad.images.damage import damage_sentence
from medvlad.store.store import Section

__all__ = ["DamagedImages", "damaged_key"]


_MARK = "!damaged"


def damaged_key(key: str) -> str:
    """Return the key under which the store holds the descriptors of a damaged image."""
    return key + _MARK


class DamagedImages:
    """The damaged images of one run.

    Parameters
    ----------
    keys : list of str or None
        Key of each image; None if it is skipped. The keys of damaged images are changed in place.
    on_damage : {"warn", "raise", "skip"}
        What to do with a damaged image.

    Attributes
    ----------
    used : dict of int to str
        Damaged images that are used, and the reason, by index. Their keys are marked.
    skipped : dict of int to str
        Damaged images that are skipped. Their keys are None.
    """

    def __init__(self, keys: list[str | None], on_damage: str) -> None:
        self._keys = keys
        self._on_damage = on_damage
        self.used: dict[int, str] = {}
        self.skipped: dict[int, str] = {}

    def look_up(self, images: Any, section: Section) -> None:
        """Find the images that an earlier run has found to be damaged.

        Raises
        ------
        InputError
            If there is one and ``on_damage="raise"``.
        """
        found: dict[str, str] = {}
        for image, key in zip(images, self._keys, strict=True):
            if key is not None and key not in found and damaged_key(key) in section:
                is_path = isinstance(image, str | os.PathLike)
                name = f"image {str(location(image, 'the image'))!r}" if is_path else "an image"
                found[key] = damage_sentence(name, "found by an earlier run")
        self.add(found)

    def add(self, found: Mapping[str, str]) -> None:
        """Mark damaged images and all their copies.

        Parameters
        ----------
        found : dict of str to str
            Reason of each damaged image, by its key. Keys that are marked already are left alone.

        Raises
        ------
        InputError
            If there is one and ``on_damage="raise"``.
        """
        found = {key: reason for key, reason in found.items() if not key.endswith(_MARK)}
        if not found:
            return
        if self._on_damage == "raise":
            raise InputError(next(iter(found.values())))
        for index, key in enumerate(self._keys):
            if key is None or key not in found:
                continue
            if self._on_damage == "skip":
                self.skipped[index], self._keys[index] = found[key], None
            else:
                self.used[index], self._keys[index] = found[key], damaged_key(key)
