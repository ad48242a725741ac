"""What of files differs between POSIX and Windows: locks, reading at a place, flushing a folder."""

from __future__ import annotations

import errno
import os
import sys
from io import BufferedRandom, BufferedWriter
from pathlib import Path

__all__ = ["flush_folder", "open_for_reading", "read_at", "try_lock"]

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


def try_lock(file: BufferedWriter | BufferedRandom) -> None:
    """Take the lock of an open file, which the system takes back from whoever is killed.

    Raises
    ------
    BlockingIOError
        If somebody else holds it.
    OSError
        If the file system has no locks.
    """
    if sys.platform == "win32":
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(str(error)) from error
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def open_for_reading(path: Path) -> int:
    """Return a descriptor of a file of bytes."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))


def read_at(path: Path, descriptor: int, length: int, begin: int) -> bytes:
    """Read at most `length` bytes from `begin` on; any number of threads may."""
    if sys.platform == "win32":  # without pread, each reading has a place of its own
        with path.open("rb") as file:
            file.seek(begin)
            return file.read(length)
    return os.pread(descriptor, length, begin)


def flush_folder(path: Path) -> None:
    """Have the disk know the names in a folder, where the file system lets a folder be flushed."""
    if sys.platform == "win32":
        return
    try:
        folder = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(folder)
