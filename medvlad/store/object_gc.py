"""Tidy the shards of a section in object storage. No lock is needed, and no image of a healthy shard is lost.

A shard is *healthy* if its content has the SHA-256 of its name. Healthy shards are ordered by their number of
images, then by name. Two rules hold for every `gc`:

1. A healthy shard is removed only if each of its images is in a healthy shard that is later in this order.
2. A damaged shard is removed only if each image that can be read from it is in a healthy shard.

So several `gc` may run at once, and each may see an old listing. Suppose that an image is in a healthy shard
at some time. The shard S that held it and was last in the order is never removed: rule 1 would need a later
one. A healthy shard never changes, so a proof never becomes wrong. One gap is left: if a client writes a
damaged shard anew between the last check and its removal, the new one is removed, and its images are
extracted again.

Small shards are joined to a new one, which holds all images of each, so it is later in the order than they
are. They are removed after the new shard was read back and is listed. A reader that misses a shard lists
again, and finds the new one.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util import object_storage
from medvlad._util.atomic_file import STALE_SECONDS
from medvlad._util.object_path import ObjectPath
from medvlad._util.read_ahead import read_ahead
from medvlad._util.validate import InputError
from medvlad.store import shard as shard_file
from medvlad.store.folder import ObjectFolder
from medvlad.store.shard import Damaged, Foreign, Shard, digests_of, is_its_name, write_shard

__all__ = ["collect_objects"]

logger = logging.getLogger(__name__)

_SECTION = re.compile("[0-9a-f]{16}")  # name of a section's folder
_AT_ONCE = 4  # shards that are fetched at the same time

Check = Callable[[Shard], object]


@dataclass(frozen=True)
class _Examined:
    """What was found in a shard.

    Attributes
    ----------
    file : ObjectPath
    stamp : str
        Changes if the object is written again.
    size : int
        Number of bytes.
    is_healthy : bool
        Whether the content has the name of the object.
    digests : list of bytes
        Digests of the keys of all images if it is healthy, otherwise of those that can be read.
    n_bytes : int
        Size of these images in memory.
    dtype : dtype or None
        None: it is no shard.
    home : str
        Section that it belongs to, if that is another one.
    """

    file: ObjectPath
    stamp: str
    size: int
    is_healthy: bool = False
    digests: tuple[bytes, ...] = ()
    n_bytes: int = 0
    dtype: np.dtype[Any] | None = None
    home: str = ""

    @property
    def rank(self) -> tuple[int, str]:
        """Place in the order of healthy shards."""
        return len(self.digests), self.file.name


def collect_objects(path: Path, check: Check) -> int:
    """Do in object storage what `collect_garbage` of :mod:`medvlad.store.compaction` does in a folder.

    Parameters and result are the same. Several calls may run at once.

    Raises
    ------
    InputError
        If the storage cannot be read or written.
    """
    assert isinstance(path, ObjectPath)
    folder = ObjectFolder(path)
    try:
        return _collect(folder, check)
    except OSError as error:
        raise InputError(
            f"the store {path} cannot be tidied: {error.strerror or error}; no image in it is lost"
        ) from error


def _collect(folder: ObjectFolder, check: Check) -> int:
    files = sorted(folder.shards())
    freed, found = 0, list[_Examined]()
    examined = read_ahead(
        lambda file: _examine(file, check), files, n_threads=_AT_ONCE, n_ahead=_AT_ONCE, name="medvlad-gc"
    )
    with closing(examined):
        for _, one in examined:
            if one is not None and one.home:
                freed += _send_home(folder, one)
            elif one is not None:
                found.append(one)
    held, superfluous, small = set[bytes](), list[_Examined](), list[_Examined]()
    for one in sorted((one for one in found if one.is_healthy), key=lambda one: one.rank, reverse=True):
        if held.issuperset(one.digests):
            superfluous.append(one)
            continue
        held.update(one.digests)
        if 2 * len(one.digests) < shard_file.SHARD_IMAGES and 2 * one.n_bytes < shard_file.SHARD_BYTES:
            small.append(one)
    for one in found:
        if not one.is_healthy:
            (superfluous if held.issuperset(one.digests) else small).append(one)
    for group in _groups(small):
        if len(group) > 1 or not group[0].is_healthy:
            freed += _join(folder, group, held, check)
    for entry in folder.path.children():
        if entry.name.endswith(".part") and time.time() - entry.written > STALE_SECONDS:
            object_storage.remove((folder.path / entry.name).url)  # of a cluster's client that was killed
            freed += entry.size
    return freed + sum(_remove(one) for one in superfluous)


def _examine(file: Path, check: Check) -> _Examined | None:
    """Read a shard. None: it does not exist any more."""
    assert isinstance(file, ObjectPath)
    try:
        entry = file.entry()
        nothing = _Examined(file, entry.stamp, entry.size)
        try:
            shard = Shard(file, whole=True)
            check(shard)
        except Foreign as foreign:
            is_whole = _SECTION.fullmatch(foreign.section) and is_its_name(file)
            return _Examined(file, entry.stamp, entry.size, home=foreign.section) if is_whole else nothing
        except Damaged:
            return nothing
        good = [i for i in range(len(shard.keys)) if _is_good(shard, i)]
        is_healthy = len(good) == len(shard.keys) and shard.is_its_name()
        digests = digests_of([shard.keys[i] for i in good]).tolist()
        n_bytes = sum(shard.shapes[i][0] * shard.shapes[i][1] for i in good) * shard.dtype.itemsize
        return _Examined(file, entry.stamp, entry.size, is_healthy, tuple(digests), n_bytes, shard.dtype)
    except FileNotFoundError:  # the gc of another process has removed it
        return None


def _is_good(shard: Shard, index: int) -> bool:
    try:
        shard.parts(index)
    except Damaged:
        return False
    return True


def _groups(small: list[_Examined]) -> list[list[_Examined]]:
    """Divide shards into groups that fit into a new shard each."""
    groups: list[list[_Examined]] = []
    for one in sorted(small, key=lambda one: one.file.name):
        last = groups[-1] if groups else []
        if (
            last
            and last[0].dtype == one.dtype
            and sum(len(other.digests) for other in last) + len(one.digests) <= shard_file.SHARD_IMAGES
            and sum(other.n_bytes for other in last) + one.n_bytes <= shard_file.SHARD_BYTES
        ):
            last.append(one)
        else:
            groups.append([one])
    return groups


def _join(folder: ObjectFolder, group: list[_Examined], held: set[bytes], check: Check) -> int:
    """Write the images of a group to a new shard, and remove the shards of the group.

    Returns
    -------
    int
        Number of bytes that were freed.
    """
    images: dict[str, NDArray[Any]] = {}
    for one in group:
        try:
            shard = Shard(one.file, whole=True)
            check(shard)
            for i, digest in enumerate(digests_of(shard.keys).tolist()):
                if digest in one.digests and (one.is_healthy or digest not in held):
                    images[shard.keys[i]] = shard.read(i).astype(shard.dtype)
        except (FileNotFoundError, Damaged):  # another process has removed or replaced it
            return 0
    written = write_shard(folder.path, images)
    assert isinstance(written, ObjectPath)
    content = written.read_bytes()
    if hashlib.sha256(content).hexdigest() != written.stem or not _is_listed(folder, written):
        logger.warning("%s is not readable or listed yet: the next gc removes what it replaces", written)
        return -len(content)
    # Rule 1 is checked once more, with what was written.
    new = _Examined(written, "", len(content), True, tuple(digests_of(images).tolist()))
    freed = -len(content)
    for one in group:
        is_proved = (held | {*new.digests}).issuperset(one.digests)
        if one.is_healthy:
            is_proved = one.rank < new.rank and {*new.digests}.issuperset(one.digests)
        if is_proved and one.file != written:
            freed += _remove(one)
    return freed


def _is_listed(folder: ObjectFolder, file: ObjectPath) -> bool:
    """Wait until the storage lists a new shard, so that readers find it. False: it takes too long."""
    for wait in (*folder.waits, 0.0):
        if file in folder.shards():
            return True
        time.sleep(wait)
    return False


def _send_home(folder: ObjectFolder, one: _Examined) -> int:
    """Copy an undamaged shard of another section to the folder of that section, and remove it here."""
    home = ObjectFolder(folder.path.with_name(one.home))
    copy = home.publish(one.file.name, one.file.read_bytes())
    if not is_its_name(copy):
        return 0
    logger.warning("%s belongs to another section: moved to %s", one.file, home.path)
    _remove(one)
    return 0


def _remove(one: _Examined) -> int:
    """Remove a shard, unless it was written again since it was examined. Return the number of bytes."""
    try:
        if one.file.entry().stamp != one.stamp:
            return 0
    except FileNotFoundError:
        return 0
    object_storage.remove(one.file.url)
    return one.size
