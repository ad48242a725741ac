"""Fill a section of the descriptor store with the descriptors of images, and read them back.

::

    images --hash--> keys --> missing in the store? --no--> nothing to do
                                   |
                                  yes --> all scales in the store one by one? --yes--> join them
                                               |
                                              no --> network --> store

The key of an image is the hash of its content. An image that cannot be read has no key and is skipped. The
key of a damaged image is marked, see :mod:`medvlad.extraction.damaged_images`. A damaged entry of the store
counts as missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medvlad._util.counters import count, stage
from medvlad._util.object_storage import StorageFailure
from medvlad._util.progress import Progress, progress_bar
from medvlad._util.read_ahead import read_ahead
from medvlad._util.validate import InputError
from medvlad.descriptors.ragged import Descriptors
from medvlad.extraction.batches import Batch
from medvlad.extraction.damaged_images import DamagedImages, damaged_key
from medvlad.extraction.networks.frozen import FrozenNetwork
from medvlad.extraction.scales import input_sides
from medvlad.images.hashed_file import image_key
from medvlad.images.prefetch import n_readers
from medvlad.store.store import Section
from medvlad.store.writer import ShardWriter

__all__ = ["Filled", "fill_and_read", "fill_section", "section_settings"]

_PREPROCESSING = 2  # increased if the same image and settings would give other descriptors
_HASHED_AT_ONCE = 32  # images that a thread hashes before it returns their keys
_MAX_HASHERS = 16
_HASHED_WITHOUT_BAR = 4096  # images

Extract = Callable[[Sequence[int]], Iterator[Batch]]


@dataclass(frozen=True)
class Filled:
    """Result of filling a section.

    Parameters
    ----------
    keys : list of str or None
        Key of each image in the store. None: the image was skipped.
    skipped : list of (int, str)
        Index and reason of each skipped image, in the order of the images.
    n_extracted : int
        Number of images that went through the network.
    damaged : list of (int, str)
        Index and reason of each damaged image that is used.
    """

    keys: list[str | None]
    skipped: list[tuple[int, str]]
    n_extracted: int
    damaged: list[tuple[int, str]]

    @property
    def n_stored(self) -> int:
        """Number of different images in the store. Copies count once."""
        return len(set(self.keys) - {None})


def section_settings(
    network: FrozenNetwork,
    scales: Sequence[int],
    *,
    side: int | None = None,
    mirror: bool,
    resize: str,
    dtype: str,
    ranges: dict[str, float] | None,
    colour_profile: str = "ignore",
    decode: str = "full",
) -> dict[str, Any]:
    """Return the settings that decide the numbers in a section of the store.

    Parameters
    ----------
    network : FrozenNetwork
    scales : sequence of int
    side, mirror, resize, dtype
        Parameters of :class:`medvlad.extraction.cnn_descriptors.CNNDescriptors`.
    ranges : dict of str to float, or None
        Ranges of activations for ``dtype="int8"``. None for the other dtypes.
    colour_profile, decode : str
        As `mirror`.

    Returns
    -------
    dict
        Settings for :meth:`medvlad.store.store.DescriptorStore.section`.
    """
    settings: dict[str, Any] = {
        "model": network.store_name,
        "layer": network.layer,
        "weights": network.fingerprint,
        "scales": list(scales),
        "resize": resize,
        "preprocessing": _PREPROCESSING,
        "dtype": dtype,
    }
    if ranges is not None:
        settings["ranges"] = ranges
    if mirror:
        settings["mirror"] = True
    if colour_profile != "ignore":
        settings["colour_profile"] = colour_profile
    if decode != "full":
        settings["decode"] = decode
    sides = input_sides(network, tuple(scales), side)
    if network.kind != "keras":
        settings |= network.input_settings() | {"sides": list(sides)}
    n = sum(math.prod(network.grid(one)) for one in sides) * (2 if mirror else 1)
    settings["shape"] = [n, network.n_features]
    return settings


def fill_section(
    images: Any,
    section: Section,
    extract: Extract,
    *,
    single_scales: Sequence[dict[str, Any]],
    on_error: str,
    on_damage: str,
    check: bool,
    n_threads: int = 1,
    progress: bool | None = False,
) -> Filled:
    """Extract the images that a section lacks, and write their descriptors to it.

    An image may change after it was hashed, because hours may pass before it is decoded. Its descriptors then
    get the key of the content that was decoded.

    Parameters
    ----------
    images : sequence of paths and arrays
    section : Section
        Section of the store that is filled.
    extract : callable
        Function from indices of images to batches with keys. It is called only if an image is missing.
    single_scales : sequence of dict
        Settings of the sections that hold one of the scales each. Empty if there is one scale.
    on_error : {"raise", "skip"}
        What to do with an image that cannot be read.
    on_damage : {"warn", "raise", "skip"}
        What to do with a damaged image. `extract` does the same.
    check : bool
        Whether to read the entries of `images`, so that damaged ones count as missing.

    n_threads : int, default=1
        Number of threads that hash the images. At most 16 are used.
    progress : bool or None, default=False
        Whether to show the progress of hashing. None: if there are more than 4,096 images.

    Returns
    -------
    Filled

    Raises
    ------
    InputError
        If an image cannot be read and ``on_error="raise"``, if one is damaged and ``on_damage="raise"``, or
        if the store cannot be written.
    """
    skipped: dict[int, str] = {}
    if progress is None and len(images) <= _HASHED_WITHOUT_BAR:
        progress = False
    with stage("hash"), progress_bar(len(images), "hashes", progress) as bar:
        keys = _keys_of(images, skipped, on_error, min(n_readers(images, n_threads), _MAX_HASHERS), bar)
    damaged = DamagedImages(keys, on_damage)
    damaged.look_up(images, section)
    if check:
        section.forget_damaged(keys)
    section.prepare()
    n_extracted = n_failed = 0
    done: set[int] = set()
    # Once, and again for the copies of a file that changed after it was hashed.
    while missing := _first_of_each(keys, section, done):
        found: dict[str, str] = {}
        with section.writer() as writer:
            absent = _join_scales(writer, section, keys, missing, single_scales)
            for batch in extract(absent) if absent else ():
                n_extracted += len(batch.indices)
                n_failed += len(batch.skipped)
                skipped.update(batch.skipped)
                for i, key, values in zip(batch.indices, batch.keys, batch.descriptors, strict=True):
                    name = damaged_key(key) if i in batch.damaged else key
                    if name != keys[i]:  # not checked before
                        section.forget_damaged([name])
                    keys[i] = key
                    writer.add(name, values)
                    if i in batch.damaged:
                        found[key] = batch.damaged[i]
        damaged.add(found)
        done.update(missing)
        _leave_out_skipped(keys, skipped)
    _leave_out_skipped(keys, skipped)
    skipped.update(damaged.skipped)
    count("failures", len(skipped) - n_failed)
    count("images_from_store", len(images) - len(skipped) - n_extracted)
    return Filled(keys, sorted(skipped.items()), n_extracted, sorted(damaged.used.items()))


def fill_and_read(fill: Callable[[], Filled], section: Section) -> tuple[Descriptors, Filled]:
    """Fill a section and read the descriptors of the images into memory.

    A damaged entry is found while it is read. The section is then filled and read once more.

    Parameters
    ----------
    fill : callable
        Function that fills `section`, such as a partial :func:`fill_section`.
    section : Section
        Section whose settings have a shape.

    Returns
    -------
    descriptors : Descriptors
        Descriptors of each image. A skipped image has none.
    filled : Filled
        Result of the last filling.

    Raises
    ------
    InputError
        As `fill`, or if an entry is damaged again after it was written anew.
    """
    for _ in range(2):
        filled = fill()
        descriptors = _read(section, filled.keys)
        if descriptors is not None:
            return descriptors, filled
    raise InputError(
        f"the store {section.path.parent} returns other numbers than were written to it: check its disk"
    )


def _read(section: Section, keys: Sequence[str | None]) -> Descriptors | None:
    """Read images from a section. None if an entry is damaged."""
    assert section.shape is not None
    n, width = section.shape
    lengths = np.array([0 if key is None else n for key in keys], np.int64)
    values = np.empty((int(lengths.sum()), width), np.float32)
    used, is_damaged = 0, False
    for key in keys:
        if key is None:
            continue
        stored = section.get(key)
        if stored is None:
            is_damaged = True  # read on, so that the section finds all damaged entries
            continue
        values[used : used + n] = stored
        used += n
    return None if is_damaged else Descriptors(values, np.concatenate([[0], np.cumsum(lengths)]))


def _keys_of(
    images: Any, skipped: dict[int, str], on_error: str, n_threads: int, bar: Progress
) -> list[str | None]:
    """Return the key of each image. An image that cannot be read gets None and is added to `skipped`.

    Reading and hashing release the interpreter lock. A thread takes many images at a time, because a small
    file takes no longer than handing it to a thread.
    """
    digests: dict[Path, str] = {}

    def keys_from(start: int) -> list[str | InputError]:
        keys: list[str | InputError] = []
        for i in range(start, min(start + _HASHED_AT_ONCE, len(images))):
            try:
                keys.append(image_key(images[i], digests))
            except StorageFailure:
                raise
            except InputError as error:
                keys.append(error)
        return keys

    keys: list[str | None] = []
    starts = range(0, len(images), _HASHED_AT_ONCE)
    hashed = read_ahead(keys_from, starts, n_threads=n_threads, n_ahead=2 * n_threads, name="medvlad-hash")
    with closing(hashed):
        for _, found in hashed:
            bar.update(len(found))
            for key in found:
                if isinstance(key, str):
                    keys.append(key)
                    continue
                if on_error == "raise":
                    raise key
                skipped[len(keys)] = str(key)
                keys.append(None)
    return keys


def _first_of_each(keys: Sequence[str | None], section: Section, done: Set[int]) -> list[int]:
    """Return the first image of each key that the section lacks, without the images in `done`."""
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        if key is not None and i not in done and key not in section:
            first.setdefault(key, i)
    return list(first.values())


def _join_scales(
    writer: ShardWriter,
    section: Section,
    keys: Sequence[str | None],
    missing: Sequence[int],
    single_scales: Sequence[dict[str, Any]],
) -> Sequence[int]:
    """Write the images of which the store has every scale in a section of its own. Return the others."""
    if not single_scales:
        return missing
    sections = [section.sibling(settings) for settings in single_scales]
    absent = []
    for i in missing:
        key = str(keys[i])
        parts = [part for each in sections if (part := each.get(key)) is not None]
        if len(parts) == len(sections):
            writer.add(key, np.concatenate(parts))
        else:
            absent.append(i)
    return absent


def _leave_out_skipped(keys: list[str | None], skipped: dict[int, str]) -> None:
    """Set the keys of skipped images and of their copies to None, and add the copies to `skipped`."""
    reasons = {keys[i]: reason for i, reason in skipped.items() if keys[i] is not None}
    for i, key in enumerate(keys):
        if key in reasons:
            skipped.setdefault(i, reasons[key])
            keys[i] = None
