"""The writer of a section: it collects images and writes a shard when it has enough, or after some time.

Without the time limit, a slow run that is killed again and again would never fill a shard, and never advance.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from medvlad._util.counters import count, stage
from medvlad._util.validate import InputError
from medvlad.descriptors.checks import check_finite
from medvlad.store import shard as shard_file
from medvlad.store.shard import write_shard

__all__ = ["FLUSH_SECONDS", "ShardWriter"]

#: A kill loses the descriptors of at most this time.
FLUSH_SECONDS = 60.0


class _Target(Protocol):
    """What a writer needs of :class:`medvlad.store.store.Section`."""

    path: Path

    @property
    def shape(self) -> tuple[int, int] | None: ...
    def __contains__(self, key: object) -> bool: ...
    def add(self, file: Path, images: Mapping[str, NDArray[Any]]) -> None: ...


class ShardWriter:
    """Add images to a section. Leaving the context writes the last shard.

    Parameters
    ----------
    section : Section
        Section that gets the images.
    dtype : {"float32", "float16"}
        Number format on disk.
    seconds : float, default=60
        An image that is added this long after the last shard is written at once, with those before it.
    """

    def __init__(self, section: _Target, dtype: str, seconds: float = FLUSH_SECONDS) -> None:
        self._section, self._dtype = section, np.dtype(dtype)
        self._images: dict[str, NDArray[np.float32]] = {}
        self._bytes = 0
        self._seconds, self._flushed = seconds, time.monotonic()

    def add(self, key: str, values: NDArray[np.float32]) -> None:
        """Add the descriptors (n, D) of an image, unless the section has them.

        Raises
        ------
        InputError
            If a number is NaN or infinite or too large for the dtype, or the section wants another shape.
        """
        if self._section.shape not in (None, np.shape(values)):
            raise InputError(
                f"descriptors of the image {key} have shape {np.shape(values)}, and the section "
                f"{self._section.path} needs {self._section.shape}"
            )
        if key in self._images or key in self._section:
            return
        with np.errstate(over="ignore"):
            kept = np.array(values, self._dtype)
        check_finite(kept, name=f"descriptors of the image {key} as {self._dtype}")
        self._images[key] = kept
        self._bytes += self._images[key].nbytes
        if (
            len(self._images) >= shard_file.SHARD_IMAGES
            or self._bytes >= shard_file.SHARD_BYTES
            or time.monotonic() - self._flushed >= self._seconds
        ):
            self.flush()

    def flush(self) -> None:
        """Write the collected images as a shard."""
        if not self._images:
            return
        with stage("store"):
            shard = write_shard(self._section.path, self._images)
        self._section.add(shard, self._images)
        count("bytes_stored", self._bytes)
        self._images, self._bytes, self._flushed = {}, 0, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
