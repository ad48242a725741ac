"""Atomic file writes: readers see the old file or the complete new one.

A file is written under a temporary name in the same folder, flushed to the disk and then renamed. If the
writing process is killed or the disk is full, the old file stays. A killed process leaves a file named
``.NAME.*.part``. A writer holds a lock on it that the operating system releases on exit, so stale files are
detected without trusting clocks.
"""

from __future__ import annotations

import glob
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path

from medvlad._util.os_files import flush_folder, try_lock
from medvlad._util.validate import InputError, check_output_file

__all__ = ["STALE_SECONDS", "atomic_file", "is_abandoned", "new_file", "remove_parts", "write_file"]

#: A temporary file is stale only after this time, because some network file systems have no locks.
STALE_SECONDS = 24 * 3600
#: Number of characters of the name that the temporary name repeats. File systems limit the length of names.
_NAME_IN_PART = 50


@contextmanager
def atomic_file(target: Path) -> Iterator[BufferedWriter]:
    """Open a file that replaces `target` when the context ends without an error.

    After an error the temporary file is removed and `target` is unchanged.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    part = target.with_name(f"{_beginning(target)}{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            with suppress(OSError):
                try_lock(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name == "nt":  # Windows cannot rename an open file
                file.close()
            part.replace(target)
            flush_folder(target.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_file(path: str | os.PathLike[str], what: str) -> Iterator[BufferedWriter]:
    """Open a file for writing at a path that the user gave, as `atomic_file` does.

    If `path` is a symbolic link, the file that it points to is replaced, not the link.

    Parameters
    ----------
    path : path-like
        File to write. An existing file is replaced.
    what : str
        Kind of file, such as "model". Error messages use it.

    Raises
    ------
    InputError
        If the file cannot be written, or `path` is a folder, a device or a pipe.
    """
    target = check_output_file(path, what).resolve()
    try:
        with atomic_file(target) as file:
            yield file
    except OSError as error:
        raise InputError(
            f"the {what} {target} cannot be written: {error.strerror or error}; check the disk and the "
            "permissions, or choose another place"
        ) from error


def write_file(path: str | os.PathLike[str], content: bytes, what: str) -> None:
    """Write `content` to a file with :func:`new_file`."""
    with new_file(path, what) as file:
        file.write(content)


def _beginning(target: Path) -> str:
    return f".{target.name[:_NAME_IN_PART]}."


def remove_parts(target: Path) -> None:
    """Remove temporary files of `target` that killed processes have left.

    For a target that one process at a time writes, on one machine: if its file system has locks, a temporary
    file without a lock is abandoned, however young it is.
    """
    for part in target.parent.glob(f"{glob.escape(_beginning(target))}{'?' * 32}.part"):
        with suppress(OSError):
            with part.open("r+b") as file:
                try_lock(file)
            part.unlink()  # closed, because Windows cannot remove an open file


def is_abandoned(part: Path) -> bool:
    """Return whether a temporary file is older than a day and no process writes it."""
    if abs(time.time() - part.stat().st_mtime) <= STALE_SECONDS:
        return False
    try:
        with part.open("r+b") as file:
            try_lock(file)
    except (BlockingIOError, PermissionError):  # a process writes it, or it belongs to another user
        return False
    except OSError:  # this file system has no locks
        pass
    return True
