"""Rows of a matrix that are read chunk by chunk: from a file, or from an array in memory.

Pages of a memory map count as memory of the process after they were read. So the rows of a map are read from
its file with plain reads, into one buffer for each thread.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError

__all__ = ["ArrayRows", "FileRows", "Reader", "Rows", "fingerprint", "is_map_of_rows", "rows_of"]

_SAMPLED = 64


class Reader(Protocol):
    """Function that returns the rows from `start` to `stop`. They are valid until its next call."""

    def __call__(self, start: int, stop: int, /) -> NDArray[Any]:
        """Return float32 or float64, shape (stop - start, n_features)."""
        ...


class Rows(Protocol):
    """A matrix of float32 or float64 that can be pickled, and read in several threads."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of features."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers: float32 or float64."""
        ...

    def part(self, start: int, stop: int) -> Rows:
        """Return what a job in another process needs to read these rows, under the same row numbers."""
        ...

    def reader(self) -> Any:
        """Return a context with a :class:`Reader` for one thread."""
        ...


@dataclass(frozen=True)
class ArrayRows:
    """Rows of an array in memory.

    Parameters
    ----------
    x : ndarray of float32 or float64, shape (n_samples, n_features)
    first : int, default=0
        Number of the first row.
    """

    x: NDArray[Any]
    first: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """See :class:`Rows`."""
        return self.x.shape[0], self.x.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """See :class:`Rows`."""
        return self.x.dtype

    def part(self, start: int, stop: int) -> ArrayRows:
        """See :class:`Rows`. Nothing is copied until it is pickled."""
        return ArrayRows(self.x[start - self.first : stop - self.first], start)

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """See :class:`Rows`."""
        x, first = self.x, self.first
        yield lambda start, stop: np.ascontiguousarray(x[start - first : stop - first])


@dataclass(frozen=True)
class FileRows:
    """Rows of a file that holds a matrix in C order.

    Parameters
    ----------
    path : Path
    offset : int
        Position of the first row, in bytes.
    shape : tuple of int
        Number of rows and of features.
    dtype : numpy.dtype
        Type of the numbers in the file: float32 or float64.
    """

    path: Path
    offset: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    def part(self, start: int, stop: int) -> FileRows:
        """See :class:`Rows`."""
        return self

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """See :class:`Rows`."""
        n_features = self.shape[1]
        buffer = np.empty((0, n_features), self.dtype)
        try:
            with self.path.open("rb", buffering=0) as file:

                def read(start: int, stop: int, /) -> NDArray[Any]:
                    nonlocal buffer
                    if len(buffer) < stop - start:
                        buffer = np.empty((stop - start, n_features), self.dtype)
                    rows = buffer[: stop - start]
                    wanted, done = rows.reshape(-1).view(np.uint8).data, 0
                    file.seek(self.offset + start * n_features * self.dtype.itemsize)
                    while done < len(wanted):
                        got = file.readinto(wanted[done:])
                        if not got:
                            raise InputError(
                                f"the file {self.path} ends before row {stop}: it was cut or replaced while "
                                "it was read; write it again"
                            )
                        done += got
                    return rows

                yield read
        except OSError as error:
            raise InputError(
                f"the file {self.path} cannot be read: {error.strerror or error}; check the disk, and give "
                "every worker the file under this path"
            ) from error


def is_map_of_rows(x: NDArray[Any]) -> bool:
    """Return whether an array is a matrix of float32 or float64 in a memory map."""
    return _map_behind(x) is not None and x.dtype in (np.float32, np.float64) and x.ndim == 2 and x.size > 0


def _map_behind(x: Any) -> np.memmap[Any, Any] | None:
    """Return the memory map whose memory an array shows. None: there is none."""
    found = None
    while isinstance(x, np.ndarray):
        if isinstance(x, np.memmap):
            found = x
        x = x.base
    return found


def rows_of(x: NDArray[Any]) -> Rows:
    """Return the rows of an array.

    They come from its file if the array is a memory map, or a part of one that is in one piece.

    Parameters
    ----------
    x : ndarray of float32 or float64, shape (n_samples, n_features)
    """
    base, in_memory = _map_behind(x), ArrayRows(x)
    if base is None or not x.flags.c_contiguous or x.size == 0 or getattr(base, "mode", "c") == "c":
        return in_memory
    name, mapped = getattr(base, "filename", None), getattr(base, "_mmap", None)
    if name is None or mapped is None:
        return in_memory
    first = np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
    begin = base.offset - base.offset % mmap.ALLOCATIONGRANULARITY  # file position of the map
    found = FileRows(
        Path(name), begin + x.__array_interface__["data"][0] - first, (x.shape[0], x.shape[1]), x.dtype
    )
    try:  # the file may have been replaced since it was mapped
        same = _digest(found, (0, len(x) - 1)) == _digest(in_memory, (0, len(x) - 1))
    except InputError:
        same = False
    return found if same else in_memory


def fingerprint(rows: Rows) -> str:
    """Return a digest of the shape, the type and 64 evenly spaced rows."""
    n = rows.shape[0]
    return _digest(rows, np.unique(np.linspace(0, n - 1, min(n, _SAMPLED)).astype(np.int64)))


def _digest(rows: Rows, numbers: Iterable[int]) -> str:
    digest = hashlib.blake2b(f"{rows.shape} {rows.dtype.str}".encode(), digest_size=16)
    with rows.reader() as read:
        for row in numbers:
            digest.update(read(int(row), int(row) + 1).tobytes())
    return digest.hexdigest()
