"""A temporary folder that several objects share."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from typing import Any

__all__ = ["SharedFolder"]


class SharedFolder:
    """Temporary folder that is made on first use, and removed with the last object that uses it."""

    def __init__(self) -> None:
        self._name: str | None = None

    def folder(self) -> str:
        """Return the path of the folder."""
        if self._name is None:
            self._name = tempfile.mkdtemp(prefix="medvlad-")
            weakref.finalize(self, shutil.rmtree, self._name, ignore_errors=True)
        return self._name

    def __getstate__(self) -> dict[str, Any]:
        """Return the path. A copy in another process uses the folder, and leaves its removal to this one."""
        return {"_name": self.folder()}
