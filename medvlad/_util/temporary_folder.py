"""Temporary folders for large files. The next run removes those of processes that were killed.

A folder holds a file ``lock``, on which its process has a lock. The operating system releases the lock when
the process ends, however it ends.
"""

from __future__ import annotations

import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from medvlad._util.os_files import try_lock

__all__ = ["temporary_folder"]

_LOCK = "lock"
_YOUNG = 60.0  # seconds for which a folder may not be locked yet


def temporary_folder(parent: Path | None = None) -> tuple[Path, Callable[[], None]]:
    """Make a folder, and remove abandoned ones beside it.

    Parameters
    ----------
    parent : Path or None, default=None
        Where the folder is made. None: the folder for temporary files (TMPDIR).

    Returns
    -------
    folder : Path
    remove : callable
        Removes the folder. It does not raise.
    """
    # With the name of the machine, because locks need not reach other machines that share the parent.
    prefix = f"medvlad-{re.sub('[^A-Za-z0-9]+', '', platform.node())[:32]}-"
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    _remove_abandoned(parent, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    lock = (folder / _LOCK).open("xb")
    with suppress(OSError):
        try_lock(lock)

    def remove() -> None:
        lock.close()
        shutil.rmtree(folder, ignore_errors=True)

    return folder, remove


def _remove_abandoned(root: Path, prefix: str) -> None:
    for folder in root.glob(f"{prefix}*"):
        with suppress(OSError):  # a process holds the lock, or the folder belongs to another user
            lock = folder / _LOCK
            if time.time() - lock.stat().st_mtime > _YOUNG:
                with lock.open("r+b") as file:
                    try_lock(file)
                shutil.rmtree(folder, ignore_errors=True)
