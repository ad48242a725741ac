"""Vectors of images that lie outside memory, and are read as blocks of rows, in the same order each time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.encoders.base import Encoder

__all__ = ["EncodedVectors", "MappedVectors", "RowBlocks", "equal_blocks"]

_BLOCK_BYTES = 128 << 20

Indices = NDArray[np.int64]
Rows = NDArray[np.floating[Any]]


@runtime_checkable
class RowBlocks(Protocol):
    """A matrix that is read block by block, any number of times.

    Attributes
    ----------
    shape : (int, int)
        Number of rows n and width p.
    dtype : dtype
        float32 or float64.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and width."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""

    def blocks(self) -> Iterator[tuple[Indices, Rows]]:
        """Yield indices (b,) and rows (b, p): each row once, in an order that depends on the data only."""


class MappedVectors:
    """The rows of a ``.npy`` file, or of an array.

    Parameters
    ----------
    source : path or ndarray of float32 or float64, shape (n, p)
        A path is opened as a memory map.

    Raises
    ------
    InputError
        If it is no such matrix.
    """

    def __init__(self, source: str | os.PathLike[str] | NDArray[Any]) -> None:
        if isinstance(source, np.ndarray):
            self._rows = source
        else:
            try:
                self._rows = np.load(Path(source), mmap_mode="r")
            except (OSError, ValueError) as error:
                raise InputError(f"{source} cannot be read as a .npy file of vectors ({error})") from error
        if self._rows.ndim != 2 or self._rows.dtype not in (np.float32, np.float64):
            raise InputError(
                f"vectors must be a matrix of float32 or float64, got shape {self._rows.shape} and "
                f"{self._rows.dtype}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and width."""
        return cast("tuple[int, int]", self._rows.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        return self._rows.dtype

    def blocks(self) -> Iterator[tuple[Indices, Rows]]:
        """Yield indices and rows, in order."""
        size = block_rows(self.shape[1])
        for start in range(0, len(self._rows), size):
            rows = self._rows[start : start + size]
            yield np.arange(start, start + len(rows)), rows


class EncodedVectors:
    """Images of a store or of feature files, which are encoded anew at each pass.

    Parameters
    ----------
    encoder : Encoder
        Fitted, such as VLAD.
    descriptors : DescriptorBlocks
        Such as StoredDescriptors.
    """

    def __init__(self, encoder: Encoder, descriptors: DescriptorBlocks) -> None:
        self._encoder, self._descriptors = encoder, descriptors

    @property
    def shape(self) -> tuple[int, int]:
        """Number of images, and width of their vectors."""
        return len(self._descriptors), len(self._encoder.get_feature_names_out())

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        return np.dtype(np.float32)

    def blocks(self) -> Iterator[tuple[Indices, Rows]]:
        """Yield indices and vectors, in the order in which the store is read fastest."""
        return self._encoder.transform_blocks(self._descriptors)


def block_rows(width: int) -> int:
    """Return the number of rows of a block: 128 MiB of float32."""
    return max(1, _BLOCK_BYTES // (4 * max(1, width)))


def equal_blocks(source: RowBlocks) -> Iterator[tuple[Indices, Rows]]:
    """Yield indices and rows of `source` in blocks of a fixed size, the last one excepted.

    Both arrays are used again for the next block. Sums over such blocks do not depend on how the source cuts
    its rows.
    """
    n, width = source.shape
    size = min(n, block_rows(width))
    memory, numbers, used = np.empty((size, width), source.dtype), np.empty(size, np.int64), 0
    for indices, rows in source.blocks():
        start = 0
        while start < len(rows):
            taken = min(size - used, len(rows) - start)
            memory[used : used + taken] = rows[start : start + taken]
            numbers[used : used + taken] = indices[start : start + taken]
            used, start = used + taken, start + taken
            if used == size:
                yield numbers, memory
                used = 0
    if used:
        yield numbers[:used], memory[:used]
