"""The descriptor store: descriptors on disk, so that no image goes through the same network twice.

::

    STORE/format.json                marks the folder as a store, and holds the version of its format
    STORE/SECTION/settings.json      settings of the section: network, layer, weights, scales, ...
    STORE/SECTION/CONTENT.shard      descriptors of a few hundred images; the name is the SHA-256 of the file
    STORE/SECTION/.*.part            a shard that a writer has not finished
    STORE/medvlad-*/                 encoded images, while a cluster fits an SVM on them

A section holds the descriptors that one choice of settings gives. Its name is the hash of the settings, so
descriptors of another layer, scale or filter never get into it. Each shard also holds that name. A shard that
was copied into another section is not used. If the settings have a "shape", every image of the section has
that shape (n, D).

The key of an image is the SHA-256 of its content. Names and folders of images do not matter, and two copies
of an image are stored once.

A writer writes a shard under a temporary name, flushes it to the disk and renames it. A writer that is killed
loses the shard that it has not finished, which is a minute of work at most. A shard never changes, so any
number of processes may read and write one store. Two processes may store the same image twice; `gc` removes
the second copy. Damaged entries are logged and extracted again.

While `gc` moves images to other shards, every image is in at least one of them. A reader that misses a shard
looks for its images in the new ones.

A store may lie in object storage, with the same files and the same bytes. :mod:`medvlad.store.folder` tells
what differs there.

See also :mod:`medvlad.store.shard` for the file format, :mod:`medvlad.store.index` for the index in memory,
and :mod:`medvlad.store.compaction` and :mod:`medvlad.store.object_gc` for `gc`.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.object_path import ObjectPath, location
from medvlad._util.read_ahead import read_ahead
from medvlad._util.validate import InputError, check_choice
from medvlad.store.compaction import collect_garbage, damage_in
from medvlad.store.folder import folder_at
from medvlad.store.index import Index, Place
from medvlad.store.layout import (
    FORMAT,
    changed_settings,
    check_marker,
    section_name,
    settings_files,
    write_once,
)
from medvlad.store.object_gc import collect_objects
from medvlad.store.shard import Damaged, Shard, digests_of, publish, section_of
from medvlad.store.writer import FLUSH_SECONDS, ShardWriter

__all__ = ["DescriptorStore", "Section"]

logger = logging.getLogger(__name__)

_RECENT_IMAGES = 1 << 14  # sorted into the index together, because that copies the whole index


class DescriptorStore:
    """A folder that keeps descriptors on disk or in object storage.

    Parameters
    ----------
    path : path or URL
        Folder of the store. The first write makes it. A URL such as ``s3://bucket/store`` is a folder in
        object storage.

    Raises
    ------
    InputError
        If the path is a file, a folder that is not a store, a store of another version, or a URL that cannot
        be read.
    MissingExtraError
        If the path is a URL whose library is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = location(path, "the store")
        check_marker(self.path)

    def section(self, settings: Mapping[str, Any]) -> Section:
        """Return the section for these settings.

        Parameters
        ----------
        settings : mapping of str to JSON value

        Returns
        -------
        Section
            Empty if the store has no such section.
        """
        return Section(self.path / section_name(settings), dict(settings), self)

    def sections(self) -> list[Section]:
        """Return all sections.

        Raises
        ------
        InputError
            If a file of settings is damaged.
        """
        found = []
        for file in settings_files(self.path):
            try:
                settings = dict(json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError) as error:
                raise InputError(
                    f"{file} is damaged ({error}): remove it; a run with the same settings writes it again"
                ) from error
            found.append(Section(file.parent, settings, self))
        return found

    def prepare(self) -> None:
        """Make the folder and mark it as a store."""
        write_once(self.path, "format.json", json.dumps(FORMAT) + "\n")


class Section:
    """Descriptors that one choice of settings gives: a mapping from image key to an array (n, D).

    A section needs 32 bytes of memory for each image. Any number of threads may use it at the same time.

    Parameters
    ----------
    path : Path
        Folder of the section.
    settings : dict
        Settings of the section.
    store : DescriptorStore
        Store of the section.
    """

    def __init__(self, path: Path, settings: dict[str, Any], store: DescriptorStore) -> None:
        self.path = path
        self.settings = settings
        self._store = store
        self._lock = threading.RLock()
        self._index = Index()
        self._recent: dict[bytes, Place] = {}  # added, and not yet sorted into the index
        self._shards: list[Path] = []
        self._open: tuple[Path, Shard] | None = None
        self._folder = folder_at(path)
        self.refresh()

    def __reduce__(self) -> tuple[Any, ...]:
        return Section, (self.path, self.settings, self._store)

    def refresh(self, *gone: Path) -> None:
        """Look for shards that other processes have written or replaced. `gone`: removed, as is known."""
        with self._lock:
            self._settle()
            removed = set(gone)
            while not self._refreshed(removed):
                pass

    def _refreshed(self, gone: set[Path]) -> bool:
        """Read the headers of new shards. False if one of them vanished meanwhile; it is added to `gone`.

        A listing of object storage may name for a while what was removed, so `gone` is left out of it.
        """
        files = self._folder.shards(self._shards) - gone
        if not files.issuperset(self._shards):  # another shard may hold the images of the missing one
            self._index, self._shards, self._open = Index(), [], None
        shards, found = list(self._shards), list[Index]()
        with closing(
            _opened(sorted(files.difference(shards)), self._checked, self._folder.n_readers)
        ) as opened:
            for file, shard in opened:
                if isinstance(shard, FileNotFoundError):
                    if self._folder.waits:
                        gone.add(file)
                    return False
                if isinstance(shard, Damaged):
                    logger.warning("%s: its images will be extracted again", shard)
                else:
                    found.append(Index.of_shard(len(shards), shard.keys, shard.shapes))
                shards.append(file)
        if found:
            self._index = self._index.joined(found)
        self._shards = shards
        return True

    @property
    def shape(self) -> tuple[int, int] | None:
        """Shape (n, D) of each image. None: the settings have no shape."""
        shape = self.settings.get("shape")
        return None if shape is None else (int(shape[0]), int(shape[1]))

    def _checked(self, shard: Shard) -> Shard:
        """Return the shard. Raise Damaged if one of its images does not have the section's shape."""
        return shard if self.shape is None else _of_shape(shard, self.shape)

    def __len__(self) -> int:
        return len(self._settle().digests)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._place(digests_of([key])[0]) is not None

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            index, shards = self._settle(), self._shards
        for number, file in enumerate(shards):
            try:
                keys = self._checked(Shard(file)).keys
            except (Damaged, FileNotFoundError):
                continue
            places = index.find(digests_of(keys))
            here = (places["shard"] == number) & (places["number"] == np.arange(len(keys)))
            yield from (keys[i] for i in np.flatnonzero(here))

    def get(self, key: str) -> NDArray[np.float32] | None:
        """Return the descriptors (n, D) of an image. None: the section lacks them, or they are damaged."""
        return self.read(digests_of([key])[0])

    def read(self, digest: bytes) -> NDArray[np.float32] | None:
        """Return the descriptors of the image whose key has this digest. See :meth:`get`."""
        values: NDArray[np.float32] | None = self._look(digest, Shard.read)
        return values

    def places(self, digests: NDArray[np.bytes_]) -> NDArray[np.void]:
        """Return the places of images. See :meth:`medvlad.store.index.Index.find`."""
        return self._settle().find(digests)

    def forget_damaged(self, keys: Collection[str | None]) -> None:
        """Read some images, so that damaged ones count as missing. No other image is read.

        Parameters
        ----------
        keys : collection of str or None
            Keys of the images. None is left out.
        """
        digests = np.unique(digests_of([key for key in keys if key is not None]))
        places = self._settle().find(digests)
        for position in np.argsort(places, order=("shard", "number")):  # each shard is opened once
            self._look(digests[position], Shard.parts)

    def prepare(self) -> None:
        """Make the folder and write its settings."""
        self._store.prepare()
        write_once(self.path, "settings.json", json.dumps(self.settings, indent=1, sort_keys=True) + "\n")

    def writer(self, dtype: str = "float32", seconds: float = FLUSH_SECONDS) -> ShardWriter:
        """Return a context manager that adds images to this section.

        Parameters
        ----------
        dtype : {"float32", "float16"}, default="float32"
            Number format on disk.
        seconds : float, default=60
            Longest time between two shards while images are added. A killed process loses no more.
        """
        self.prepare()
        return ShardWriter(self, check_choice(dtype, "dtype", ("float32", "float16")), seconds)

    def sibling(self, settings: Mapping[str, Any]) -> Section:
        """Return the section of the same store with other settings."""
        return self._store.section(settings)

    def n_bytes(self) -> int:
        """Return the size on disk in bytes."""
        return self._folder.n_bytes()

    def verify(self) -> list[str]:
        """Read all images.

        Returns
        -------
        list of str
            One sentence for each damaged shard or image, and for settings that were changed.
        """
        return changed_settings(self.path, self.settings) + damage_in(self.path, self._checked)

    def gc(self) -> int:
        """Remove damaged entries, second copies and files of processes that have ended; join small shards.

        Undamaged images of a shard are written to another one before the shard is removed, so a killed `gc`
        loses no image. An undamaged shard of another section is moved to the folder of its section. Other
        processes may read and write at the same time. In object storage several `gc` may run at once.

        Returns
        -------
        int
            Number of bytes that were freed.

        Raises
        ------
        InputError
            If another `gc` works in this section, or the folder cannot be read or written.
        """
        if not self.path.is_dir():
            return 0
        is_object = isinstance(self.path, ObjectPath)
        freed = (collect_objects if is_object else collect_garbage)(self.path, self._checked)
        self.refresh()
        return freed

    def adopt(self, content: bytes) -> None:
        """Write a shard that another process has made. `content` is its file.

        Raises
        ------
        InputError
            If it is not a shard of this section, or the store cannot be written.
        """
        _check_made_for(self.path.name, content)
        self.prepare()
        file = publish(self.path, content)
        with self._lock:
            self._settle()
            if file in self._shards:  # it has replaced a damaged one
                self._index, self._shards, self._open = Index(), [], None
        self.refresh()

    def add(self, file: Path, images: Mapping[str, NDArray[Any]]) -> None:
        """Add the images of a shard that was written to the index."""
        with self._lock:
            for i, (digest, values) in enumerate(zip(digests_of(images), images.values(), strict=True)):
                self._recent[digest] = (len(self._shards), i, len(values), values.shape[1])
            self._shards.append(file)
            self._open = None  # the new file may have replaced a damaged one
            if len(self._recent) >= _RECENT_IMAGES:
                self._settle()

    def _settle(self) -> Index:
        """Sort the images that were added into the index, and return the index."""
        with self._lock:
            if self._recent:
                recent = Index.of_places(self._recent)
                self._index, self._recent = self._index.joined([recent]), {}
            return self._index

    def _place(self, digest: bytes) -> Place | None:
        with self._lock:
            return self._recent.get(digest) or self._index.place(digest)

    def _look(self, digest: bytes, read: Callable[[Shard, int], Any]) -> Any:
        """Return ``read(shard, number)`` for an image. None: the section lacks it, or it is damaged."""
        waits, missed = iter(self._folder.waits), False
        while True:
            try:
                with self._lock:
                    place = self._place(digest)
                    if place is not None:
                        file = self._shards[place[0]]
                        if self._open is None or self._open[0] != file:
                            self._open = file, self._checked(Shard(file))
                        shard = self._open[1]
                if place is not None:
                    return read(shard, place[1])
            except FileNotFoundError:  # a gc has moved its images to another shard
                missed = True
                with self._lock:
                    self._open = None
                self.refresh(*([file] if self._folder.waits else []))  # it may stay listed for long
                continue
            except Damaged as damage:
                return self._forget(digest, damage)
            if not missed or (wait := next(waits, None)) is None:
                return None
            time.sleep(wait)  # a listing of object storage may be late
            self.refresh()

    def _forget(self, digest: bytes, damage: Damaged) -> None:
        """Log a damaged image and remove it from the index."""
        logger.warning("%s: it will be extracted again", damage)
        with self._lock:
            self._index = self._settle().without(digest)


def _opened(
    files: list[Path], checked: Callable[[Shard], Shard], n_readers: int
) -> Generator[tuple[Path, Shard | Damaged | FileNotFoundError]]:
    """Yield each shard, or why it cannot be used. In object storage several are opened at once."""

    def look(file: Path) -> Shard | Damaged | FileNotFoundError:
        try:
            return checked(Shard(file))
        except (Damaged, FileNotFoundError) as error:
            return error

    if n_readers == 1:
        yield from ((file, look(file)) for file in files)
        return
    yield from read_ahead(look, files, n_threads=n_readers, n_ahead=2 * n_readers, name="medvlad-store")


def _check_made_for(section: str, content: bytes) -> None:
    """Raise InputError if the content is not a shard of this section."""
    made_for = section_of(content)
    if made_for != section:
        raise InputError(
            f"a shard that another process made belongs to the section {made_for}, not to {section}, and was "
            "not stored: install the same medvlad on all machines"
        )


def _of_shape(shard: Shard, wanted: tuple[int, int]) -> Shard:
    """Return the shard. Raise Damaged if one of its images has another shape."""
    for shape in set(shard.shapes) - {wanted}:
        raise Damaged(f"{shard.file} has an image of shape {shape}, and this section needs {wanted}")
    return shard
