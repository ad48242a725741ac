"""Merging of a section's shards: what is damaged or double goes, small ones become large ones.

A new shard is written before the old ones are removed, so an image is there twice for a moment and never not
at all. A whole shard of another section is good data in the wrong folder: it is moved to its own.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medvlad._util.os_files import try_lock
from medvlad._util.validate import InputError
from medvlad.store import shard as shard_file
from medvlad.store.shard import Damaged, Foreign, Shard, digests_of, is_its_name, write_shard

__all__ = ["Merger", "only_one"]

logger = logging.getLogger(__name__)

_SECTION = re.compile("[0-9a-f]{16}")  # the name of a section's folder


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Hold a lock that the system takes back from whoever is killed."""
    with lock.open("wb") as file:
        try:
            try_lock(file)
        except BlockingIOError as error:
            raise InputError(f"another gc is at work in {lock.parent}: wait until it is done") from error
        yield


class Merger:
    """Writes the good images of shards that cannot stay as they are anew, and then removes those shards."""

    def __init__(self, folder: Path, check: Callable[[Shard], object]) -> None:
        self.freed = 0
        self._folder = folder
        self._check = check  # raises Damaged if a shard does not fit the section
        self._images: dict[str, NDArray[Any]] = {}
        self._old: list[tuple[Path, int]] = []
        self._as_it_is = False
        self._written = set[Path]()

    def look_at(self, file: Path, held: set[bytes]) -> None:
        """Leave a shard that is large, whole and has images of its own; `held` are the images seen so far."""
        if file in self._written:  # the same content was there before, from a gc that was killed
            return
        try:
            inode = file.stat().st_ino
            shard = Shard(file)
            self._check(shard)
        except FileNotFoundError:
            return
        except Foreign as found:
            self._send_home(file, inode, found)
            return
        except Damaged:
            self.remove(file, inode)
            return
        good = []
        for i, digest in enumerate(digests_of(shard.keys).tolist()):
            try:
                shard.parts(i)
            except Damaged:
                continue
            if digest not in held:
                held.add(digest)
                good.append(i)
        if not good:
            self.remove(file, inode)
            return
        whole = len(good) == len(shard.keys) and shard.is_its_name()
        size = sum(shard.shapes[i][0] * shard.shapes[i][1] for i in good) * shard.dtype.itemsize
        if whole and (2 * len(good) >= shard_file.SHARD_IMAGES or 2 * size >= shard_file.SHARD_BYTES):
            return
        collected = list(self._images.values())
        fits = len(collected) + len(good) <= shard_file.SHARD_IMAGES
        fits &= sum(values.nbytes for values in collected) + size <= shard_file.SHARD_BYTES
        if collected and not (fits and collected[0].dtype == shard.dtype):
            self.flush()
        self._as_it_is = whole and not self._old
        self._images |= {shard.keys[i]: shard.read(i).astype(shard.dtype) for i in good}
        self._old.append((file, inode))

    def _send_home(self, file: Path, inode: int, found: Foreign) -> None:
        """Move a whole shard of another section to the folder of that section; remove a damaged one."""
        if not (_SECTION.fullmatch(found.section) and is_its_name(file)):
            self.remove(file, inode)
            return
        home = self._folder.with_name(found.section)
        home.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # a gc of that section has done it
            file.replace(home / file.name)
            logger.warning("%s: moved to %s", found, home)

    def flush(self) -> None:
        """Write what has been collected, unless that is one shard as it is, and remove where it came from."""
        if self._old and not self._as_it_is:
            written = write_shard(self._folder, self._images)
            self._written.add(written)
            self.freed -= written.stat().st_size
            for file, inode in self._old:
                if file != written:
                    self.remove(file, inode)
        self._images, self._old = {}, []

    def remove(self, file: Path, inode: int) -> None:
        """Remove a file, unless a writer has put another in its place since it was looked at."""
        try:
            status = file.stat()
            if status.st_ino == inode:
                file.unlink()
                self.freed += status.st_size
        except FileNotFoundError:
            pass
