"""The folder for files that medvlad can make or fetch again.

::

$XDG_CACHE_HOME/medvlad        default of XDG_CACHE_HOME: ~/.cache
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Return the folder, which may not exist. RuntimeError: the user has no home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if Path(given).is_absolute() else Path.home() / ".cache") / "medvlad"
