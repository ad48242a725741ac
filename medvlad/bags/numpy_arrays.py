"""Read arrays of .npy and .npz files, some rows at a time."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from medvlad.bags.array_file import ArrayFile

__all__ = ["NpyArray", "NpzArrays"]


class NpyArray(ArrayFile):
    """The array of a .npy file."""

    def __init__(self, path: Path, opened: BinaryIO | None = None) -> None:
        self._opened = opened
        if opened is not None:
            self._shape, is_transposed, self._dtype = _header(opened, "")
            self._offset = opened.tell()
            self._whole = _transposed(opened, self._shape, self._dtype) if is_transposed else None
            return
        # The map gives shape, dtype and place, and checks the size of the file. Its memory is not read: if
        # the file became shorter, the process would end.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.memmap):
            raise ValueError("it is not a NumPy array")
        self._shape, self._dtype, self._offset = mapped.shape, mapped.dtype, int(mapped.offset)
        self._whole = None if mapped.flags.c_contiguous else np.load(path, allow_pickle=False)
        self._path = path

    def names(self) -> list[str]:
        """Return the only name, ""."""
        return [""]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the array."""
        return tuple(self._shape)

    def rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Read some rows of the array."""
        if self._whole is not None:
            return _part(self._whole, start, stop)
        inner = row_shape(self._shape)
        step = math.prod(inner)
        offset = self._offset + start * step * self._dtype.itemsize
        if self._opened is None:
            values = np.fromfile(self._path, self._dtype, (stop - start) * step, offset=offset)
        else:
            self._opened.seek(offset)
            content = self._opened.read((stop - start) * step * self._dtype.itemsize)
            values = np.frombuffer(content, self._dtype)
        return values.reshape(stop - start, *inner)

    def close(self) -> None:
        """Do nothing: the file is open only while it is read."""


class NpzArrays(ArrayFile):
    """The arrays of a .npz file. Rows are read as they are decompressed."""

    def __init__(self, path: Path, opened: BinaryIO | None = None) -> None:
        self._archive = zipfile.ZipFile(path if opened is None else opened)
        self._members: dict[str, tuple[IO[bytes], tuple[int, ...], np.dtype[Any], int]] = {}
        self._whole: dict[str, NDArray[Any]] = {}
        for member in self._archive.namelist():
            if member.endswith(".npy"):
                self._open(member)

    def _open(self, member: str) -> None:
        """Read the header of a member and keep its stream open."""
        name, stream = member.removesuffix(".npy"), self._archive.open(member)
        shape, is_transposed, dtype = _header(stream, name)
        self._members[name] = stream, shape, dtype, stream.tell()
        if is_transposed:
            self._whole[name] = _transposed(stream, shape, dtype)

    def names(self) -> list[str]:
        """Return the names of the arrays."""
        return list(self._members)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array."""
        return self._members[name][1]

    def rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Read some rows of an array."""
        if name in self._whole:
            return _part(self._whole[name], start, stop)
        stream, shape, dtype, begin = self._members[name]
        inner = row_shape(shape)
        size = math.prod(inner) * dtype.itemsize
        # A compressed stream can only be read forward. Seeking to where it is already costs nothing.
        if stream.tell() != begin + start * size:
            stream.seek(begin + start * size)
        return np.frombuffer(stream.read((stop - start) * size), dtype).reshape(stop - start, *inner)

    def close(self) -> None:
        """Close the archive."""
        for stream, *_ in self._members.values():
            stream.close()
        self._archive.close()


def row_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a row of an array (n, ...) or (1, n, ...)."""
    return shape[2:] if len(shape) == 3 and shape[0] == 1 else shape[1:]


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an array: its shape, whether it lies in Fortran order, and its type."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"the array {name!r} has version {version} of the format")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError(f"the array {name!r} holds objects")
    return shape, fortran_order and len(shape) > 1, dtype


def _transposed(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read the rest of a stream, an array in Fortran order."""
    return np.frombuffer(stream.read(), dtype).reshape(shape[::-1]).transpose()


def _part(whole: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
    return whole[0, start:stop] if whole.ndim == 3 and len(whole) == 1 else whole[start:stop]
