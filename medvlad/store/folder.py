"""What the store needs of a folder, on a disk and in object storage.

================  ======================================  ================================================
The store needs   on a disk                               in object storage
================  ======================================  ================================================
list the shards   read the folder                         list, and ask for shards that were there before
read bytes        plain reads of an open file             requests for ranges, with read-ahead
publish a shard   temporary file, then rename             put if absent; compared if there is one
small files       written once, atomically                put if absent
remove            if the inode is the one examined        if the stamp is the one examined
================  ======================================  ================================================

The name of a shard is the SHA-256 of its content, so in object storage nothing is ever renamed, and two
writers of one name write the same bytes. No lock is needed. A listing may be older than the last write:
shards that this process knows stay known until the storage says that they are gone.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from medvlad._util import object_storage
from medvlad._util.atomic_file import atomic_file
from medvlad._util.object_path import ObjectPath, RangeReader
from medvlad._util.os_files import open_for_reading, read_at
from medvlad._util.validate import InputError

__all__ = ["Content", "Folder", "ObjectFolder", "folder_at"]

_SHARD = ".shard"


class Content(Protocol):
    """An open shard. Several threads may read it at the same time."""

    def size(self) -> int:
        """Return the number of bytes."""

    def read(self, length: int, begin: int) -> bytes:
        """Return bytes; fewer than `length` at the end. Raise OSError."""

    def digest(self) -> str:
        """Return the SHA-256 of all bytes. Raise OSError."""


class Folder(Protocol):
    """A folder of a store."""

    #: Number of shards whose headers are read at the same time.
    n_readers: int
    #: Seconds to wait, again and again, for a shard that a listing does not show yet.
    waits: tuple[float, ...]

    def shards(self, known: Collection[Path] = ()) -> set[Path]:
        """Return the shards in the folder. `known`: those that were there before."""

    def open(self, file: Path, *, whole: bool = False) -> Content:
        """Open a shard. `whole`: all of it will be read. Raise OSError."""

    def publish(self, name: str, content: bytes) -> Path:
        """Write a file that is named by its content. Raise OSError."""

    def write_once(self, name: str, text: str) -> None:
        """Write a small file, unless it exists. Raise OSError."""

    def n_bytes(self) -> int:
        """Return the size of all shards."""


def folder_at(path: Path) -> Folder:
    """Return the folder at a path of this machine or of object storage."""
    return ObjectFolder(path) if isinstance(path, ObjectPath) else _LocalFolder(path)


class _LocalContent:
    """A file that is open for reading. It can be read after it was removed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor = open_for_reading(file)
        weakref.finalize(self, os.close, self._descriptor)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read(self, length: int, begin: int) -> bytes:
        return read_at(self._file, self._descriptor, length, begin)

    def digest(self) -> str:
        with self._file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()


class _LocalFolder:
    """A folder on a disk."""

    n_readers = 1
    waits: tuple[float, ...] = ()

    def __init__(self, path: Path) -> None:
        self._path = path

    def shards(self, known: Collection[Path] = ()) -> set[Path]:
        return set(self._path.glob(f"*{_SHARD}"))

    def open(self, file: Path, *, whole: bool = False) -> Content:
        return _LocalContent(file)

    def publish(self, name: str, content: bytes) -> Path:
        target = self._path / name
        with atomic_file(target) as file:
            file.write(content)
        return target

    def write_once(self, name: str, text: str) -> None:
        target = self._path / name
        self._path.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            with atomic_file(target) as content:
                content.write(text.encode())

    def n_bytes(self) -> int:
        total = 0
        for file in self.shards():
            with suppress(FileNotFoundError):  # removed by the gc of another process
                total += file.stat().st_size
        return total


class _ObjectContent:
    """An object that is read by ranges, or that was fetched as a whole."""

    def __init__(self, file: ObjectPath, size: int, *, whole: bool) -> None:
        self._file = file
        self._size = size
        self._whole = object_storage.read(file.url, 0, size) if whole else None
        self._ranges = RangeReader(file.url, size)

    def size(self) -> int:
        return self._size

    def read(self, length: int, begin: int) -> bytes:
        if self._whole is not None:
            return self._whole[begin : begin + length]
        return self._ranges.read(begin, length)

    def digest(self) -> str:
        content = object_storage.read_whole(self._file.url) if self._whole is None else self._whole
        return hashlib.sha256(content).hexdigest()


class ObjectFolder:
    """A folder in object storage.

    Parameters
    ----------
    path : ObjectPath
    """

    n_readers = 16
    waits: tuple[float, ...] = object_storage.WAITS

    def __init__(self, path: ObjectPath) -> None:
        self.path = path

    def shards(self, known: Collection[Path] = ()) -> set[Path]:
        """Return the shards: those in the listing, and those in `known` that exist."""
        listed = {self.path / one.name for one in self._listed()}
        return set[Path](listed) | {file for file in set(known) - listed if file.exists()}

    def _listed(self) -> list[object_storage.Entry]:
        try:
            return [one for one in self.path.children() if one.name.endswith(_SHARD)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(
                f"the store {self.path} cannot be listed ({error.strerror}): check its address and the "
                "network; what is in it stays"
            ) from None

    def open(self, file: Path, *, whole: bool = False) -> Content:
        """Open a shard. See :class:`Folder`."""
        assert isinstance(file, ObjectPath)
        return _ObjectContent(file, file.entry().size, whole=whole)

    def publish(self, name: str, content: bytes) -> Path:
        """Write a shard. If there is one of this name, it is compared, and replaced if it is damaged."""
        target = self.path / name
        if not object_storage.put_if_absent(target.url, content):
            try:
                same = target.read_bytes() == content
            except FileNotFoundError:  # the gc of another process has removed it
                same = False
            if not same:
                object_storage.put(target.url, content)
        return target

    def write_once(self, name: str, text: str) -> None:
        """Write a small JSON file, unless it exists. One that was cut is replaced."""
        target = self.path / name
        content = text.encode()
        if object_storage.put_if_absent(target.url, content):
            return
        try:
            json.loads(target.read_bytes())
        except (FileNotFoundError, ValueError):
            object_storage.put(target.url, content)

    def n_bytes(self) -> int:
        """Return the size of all listed shards."""
        return sum(one.size for one in self._listed())
