"""Operations on files that the standard library lacks: locks, reading at an offset, flushing a folder.

They hide the differences between POSIX and Windows.
"""

from __future__ import annotations

import errno
import os
import sys
from io import BufferedRandom, BufferedWriter
from pathlib import Path

__all__ = ["entry_is_folder", "flush_folder", "open_for_reading", "read_at", "try_lock"]

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


def try_lock(file: BufferedWriter | BufferedRandom) -> None:
    """Lock an open file without waiting. The operating system releases the lock when the process ends.

    Raises
    ------
    BlockingIOError
        If another process holds the lock.
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
    """Open a binary file for reading and return its file descriptor."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))


def read_at(path: Path, descriptor: int, length: int, begin: int) -> bytes:
    """Read at most `length` bytes at the offset `begin`. Several threads may read at the same time.

    Parameters
    ----------
    path : Path
        The file. Only Windows uses it.
    descriptor : int
        File descriptor from :func:`open_for_reading`.
    length : int
        Maximum number of bytes.
    begin : int
        Offset of the first byte.

    Returns
    -------
    bytes
        Shorter than `length` at the end of the file.
    """
    if sys.platform == "win32":  # no pread: a shared file position would be moved by other threads
        with path.open("rb") as file:
            file.seek(begin)
            return file.read(length)
    return os.pread(descriptor, length, begin)


def entry_is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one.

    For a link to itself `os.DirEntry.is_dir` raises OSError. It is a broken link, and so not a folder.
    """
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def flush_folder(path: Path) -> None:
    """Write the names in a folder to the disk, if the file system supports that."""
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
