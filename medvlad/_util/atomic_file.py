"""Files that are whole under their name, or not there: written beside, flushed to the disk, then renamed.

Whoever is killed meanwhile, or finds the disk full, leaves what was there before. A kill alone leaves a file
``.NAME.*.part`` beside; who writes one holds a lock on it, which the system takes back, so clocks need not be
right for it to be known that nobody does any more.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path

from medvlad._util.os_files import flush_folder, try_lock
from medvlad._util.validate import InputError, check_output_file

__all__ = ["STALE_SECONDS", "is_abandoned", "new_file", "whole_file", "write_file"]

STALE_SECONDS = 24 * 3600  # some network file systems have no locks: there a file's age alone counts
_NAME_IN_PART = 50  # characters of it, so that no name becomes too long


@contextmanager
def whole_file(target: Path) -> Iterator[BufferedWriter]:
    """Open a file for writing; it gets its name at the context's end, and is gone after an error.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    part = target.with_name(f".{target.name[:_NAME_IN_PART]}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            with suppress(OSError):
                try_lock(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name == "nt":  # which renames no open file
                file.close()
            part.replace(target)
            flush_folder(target.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_file(path: str | os.PathLike[str], what: str) -> Iterator[BufferedWriter]:
    """As `whole_file`, where a user says; a link is followed, not replaced, a device never becomes a file.

    Raises
    ------
    InputError
        If the file, which `what` describes, cannot be written.
    """
    target = check_output_file(path, what).resolve()
    try:
        with whole_file(target) as file:
            yield file
    except OSError as error:
        raise InputError(f"the {what} {target} cannot be written: {error.strerror or error}") from error


def write_file(path: str | os.PathLike[str], content: bytes, what: str) -> None:
    """Write a file in one step, as `new_file`."""
    with new_file(path, what) as file:
        file.write(content)


def is_abandoned(part: Path) -> bool:
    """Whether an unfinished file is old, by whatever clock, and nobody writes it."""
    if abs(time.time() - part.stat().st_mtime) <= STALE_SECONDS:
        return False
    try:
        with part.open("r+b") as file:
            try_lock(file)
    except (BlockingIOError, PermissionError):  # somebody is writing it, or it is somebody else's
        return False
    except OSError:  # no locks here
        pass
    return True
