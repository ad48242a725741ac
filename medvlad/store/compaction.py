"""Tidy the shards of a section: find damage, remove second copies, join small shards.

A new shard is written before the old ones are removed. So an image is in two shards for a moment, and always
in at least one. An undamaged shard of another section is moved to the folder of that section.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medvlad._util.atomic_file import is_abandoned
from medvlad._util.os_files import try_lock
from medvlad._util.validate import InputError
from medvlad.store import shard as shard_file
from medvlad.store.folder import folder_at
from medvlad.store.shard import Damaged, Foreign, Shard, digests_of, is_its_name, write_shard

__all__ = ["Merger", "collect_garbage", "damage_in", "only_one"]

logger = logging.getLogger(__name__)

_SECTION = re.compile("[0-9a-f]{16}")  # name of a section's folder

Check = Callable[[Shard], object]


def damage_in(folder: Path, check: Check) -> list[str]:
    """Read all shards of a section.

    Parameters
    ----------
    folder : Path
        Folder of the section.
    check : callable
        Function that raises Damaged if a shard does not fit the section.

    Returns
    -------
    list of str
        One sentence for each damaged shard or image.
    """
    found = []
    for file in sorted(folder_at(folder).shards()):
        try:
            shard = Shard(file, whole=True)
            check(shard)
        except FileNotFoundError:  # removed by the gc of another process
            continue
        except Damaged as damage:
            found.append(str(damage))
            continue
        before = len(found)
        for index in range(len(shard.keys)):
            try:
                shard.parts(index)
            except Damaged as damage:
                found.append(str(damage))
        if len(found) == before and not shard.is_its_name():
            found.append(f"{file} is damaged (its name is not the SHA-256 of its content)")
    return found


def collect_garbage(folder: Path, check: Check) -> int:
    """Remove damaged shards and second copies, join small shards. See :meth:`medvlad.store.store.Section.gc`.

    Parameters
    ----------
    folder : Path
        Folder of the section.
    check : callable
        Function that raises Damaged if a shard does not fit the section.

    Returns
    -------
    int
        Number of bytes that were freed.

    Raises
    ------
    InputError
        If another `gc` works in this folder, or the folder cannot be read or written.
    """
    merger, held = Merger(folder, check), set[bytes]()
    try:
        with only_one(folder / "gc.lock"):
            for file in sorted(folder.glob("*.shard")):
                merger.look_at(file, held)
            merger.flush()
            for file in folder.glob("*.part"):
                with suppress(FileNotFoundError):  # its writer has renamed it
                    inode = file.stat().st_ino
                    if is_abandoned(file):
                        merger.remove(file, inode)
    except OSError as error:
        raise InputError(
            f"the store {folder} cannot be tidied: {error.strerror or error}; no image in it is lost"
        ) from error
    return merger.freed


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Hold a lock that the operating system releases when the process ends.

    Raises
    ------
    InputError
        If another process holds it.
    """
    with lock.open("wb") as file:
        try:
            try_lock(file)
        except BlockingIOError as error:
            raise InputError(f"another gc is running in {lock.parent}: wait until it has ended") from error
        yield


class Merger:
    """Copy undamaged images of small or damaged shards to new shards, and then remove the old ones.

    Parameters
    ----------
    folder : Path
        Folder of the section.
    check : callable
        Function that raises Damaged if a shard does not fit the section.

    Attributes
    ----------
    freed : int
        Number of bytes that were freed.
    """

    def __init__(self, folder: Path, check: Check) -> None:
        self.freed = 0
        self._folder = folder
        self._check = check
        self._images: dict[str, NDArray[Any]] = {}
        self._old: list[tuple[Path, int]] = []
        self._as_it_is = False
        self._written = set[Path]()

    def look_at(self, file: Path, held: set[bytes]) -> None:
        """Keep, collect or remove a shard.

        A large undamaged shard without second copies stays. The images of others are collected for a new one.

        Parameters
        ----------
        file : Path
            File of the shard.
        held : set of bytes
            Digests of the images seen so far. The images of this shard are added.
        """
        if file in self._written:  # a killed gc had written the same content before
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
        good = _good_images(shard, held)
        if not good:
            self.remove(file, inode)
            return
        is_complete = len(good) == len(shard.keys) and shard.is_its_name()
        size = sum(shard.shapes[i][0] * shard.shapes[i][1] for i in good) * shard.dtype.itemsize
        is_large = 2 * len(good) >= shard_file.SHARD_IMAGES or 2 * size >= shard_file.SHARD_BYTES
        if is_complete and is_large:
            return
        if not self._has_room_for(len(good), size, shard.dtype):
            self.flush()
        self._as_it_is = is_complete and not self._old
        self._images |= {shard.keys[i]: shard.read(i).astype(shard.dtype) for i in good}
        self._old.append((file, inode))

    def _has_room_for(self, n_images: int, size: int, dtype: Any) -> bool:
        """Return whether images go into the same new shard as the collected ones."""
        collected = list(self._images.values())
        return not collected or (
            len(collected) + n_images <= shard_file.SHARD_IMAGES
            and sum(values.nbytes for values in collected) + size <= shard_file.SHARD_BYTES
            and collected[0].dtype == dtype
        )

    def _send_home(self, file: Path, inode: int, found: Foreign) -> None:
        """Move an undamaged shard to the folder of its section. Remove a damaged one."""
        if not (_SECTION.fullmatch(found.section) and is_its_name(file)):
            self.remove(file, inode)
            return
        home = self._folder.with_name(found.section)
        home.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # another process has moved it
            file.replace(home / file.name)
            logger.warning("%s: moved to %s", found, home)

    def flush(self) -> None:
        """Write the collected images to a new shard and remove their old shards.

        Nothing is done if the images are all those of one shard.
        """
        if self._old and not self._as_it_is:
            written = write_shard(self._folder, self._images)
            self._written.add(written)
            self.freed -= written.stat().st_size
            for file, inode in self._old:
                if file != written:
                    self.remove(file, inode)
        self._images, self._old = {}, []

    def remove(self, file: Path, inode: int) -> None:
        """Remove a file, unless a writer has replaced it since it was examined."""
        try:
            status = file.stat()
            if status.st_ino == inode:
                file.unlink()
                self.freed += status.st_size
        except FileNotFoundError:
            pass


def _good_images(shard: Shard, held: set[bytes]) -> list[int]:
    """Return the positions of undamaged images that are not in `held`, and add them to it."""
    good = []
    for i, digest in enumerate(digests_of(shard.keys).tolist()):
        try:
            shard.parts(i)
        except Damaged:
            continue
        if digest not in held:
            held.add(digest)
            good.append(i)
    return good
