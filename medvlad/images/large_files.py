"""Limit how many large image files are decoded at a time.

A decoded image is in memory as a whole, a radiograph even in floating point. So threads that read images
decode only two large files at a time.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from threading import BoundedSemaphore
from typing import Any

from medvlad._util.object_path import ObjectPath
from medvlad.images.frames import split_frame

__all__ = ["LargeFiles"]

_LARGE_FILE = 4 * 1024 * 1024  # bytes
_AT_A_TIME = 2


class LargeFiles:
    """Let two threads at a time decode a large file. Threads that share this object wait for each other.

    A pickled copy has a limit of its own.
    """

    def __init__(self) -> None:
        self._few = BoundedSemaphore(_AT_A_TIME)

    def turn(self, image: Any) -> AbstractContextManager[Any]:
        """Return a context in which `image` may be decoded. Entering it waits if the file is large."""
        return self._few if _is_large(image) else nullcontext()

    def __reduce__(self) -> tuple[type[LargeFiles], tuple[()]]:
        return LargeFiles, ()


def _is_large(image: Any) -> bool:
    if not isinstance(image, str | os.PathLike):
        return False
    if isinstance(image, ObjectPath) and image.listed_size is not None:  # one request less
        return image.listed_size > _LARGE_FILE
    try:
        return split_frame(image)[0].stat().st_size > _LARGE_FILE
    except (OSError, ValueError):  # reading it reports the error
        return False
