"""Bags of descriptors in feature files, read block by block.

::

    bags       a.h5          (b.h5, c.h5)        d.pt
    files      | a |         | b | c |           | d |
    offsets    0             n_a                 n_a + n_b + n_c     ...

A bag of several files contains their descriptors one after the other. Opening reads only headers. Descriptors
are read when an encoder needs them, so one block, or one larger bag, is in memory at a time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.bags.feature_file import find_features
from medvlad.datasets.feature_files import feature_ending
from medvlad.descriptors.blocks import DescriptorBlocks

__all__ = ["BagFiles", "is_bag_file", "open_bags"]

Bag = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class BagFiles(DescriptorBlocks):
    """Bags of descriptors in feature files. Estimators accept it in place of Descriptors.

    Parameters
    ----------
    bags : sequence of path, or of sequences of paths
        Feature files (.h5, .npy, .npz, .pt, .safetensors). Each path is a bag, and so is each sequence of
        paths: the descriptors of its files, one after the other. Other dtypes become float32.

    Attributes
    ----------
    offsets : ndarray of int64, shape (B + 1,)
        Bag `i` has the descriptors ``offsets[i]`` to ``offsets[i + 1] - 1``.
    n_features : int
        Width D of a descriptor.

    Raises
    ------
    InputError
        If there is no bag, a file cannot be read or has no descriptors, or widths differ. NaN is found when
        descriptors are read. Messages name the file.
    MissingExtraError
        If the package that reads the format is not installed.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import medvlad as mv
    >>> from medvlad.bags import BagFiles
    >>> folder = tempfile.mkdtemp()
    >>> np.save(f"{folder}/a.npy", np.ones((5, 2), np.float16))
    >>> np.save(f"{folder}/b.npy", np.ones((3, 2)))
    >>> bags = BagFiles([f"{folder}/a.npy", f"{folder}/b.npy"])
    >>> len(bags), bags.n_features, mv.GlobalPool().fit(bags).transform(bags).shape
    (2, 2, (2, 2))
    """

    __slots__ = ("_bags",)

    def __init__(self, bags: Sequence[Bag]) -> None:
        listed = [(bag,) if isinstance(bag, str | os.PathLike) else tuple(bag) for bag in bags]
        if not listed:
            raise InputError("there is no feature file: give at least one")
        if not all(listed):
            raise InputError(f"bag {[not bag for bag in listed].index(True)} names no feature file: name one")
        self._bags = [tuple(map(find_features, bag)) for bag in listed]
        first = self._bags[0][0]
        for file in (file for bag in self._bags for file in bag):
            if file.n_features != first.n_features:
                raise InputError(
                    f"{file.path} has {file.n_features} features in a row, {first.path} has "
                    f"{first.n_features}: all feature files must come from the same network"
                )
        self.n_features = first.n_features
        lengths = [sum(file.n_rows for file in bag) for bag in self._bags]
        self.offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    def check_width(self, expected: int, other: str) -> None:
        """Raise InputError, with a file, unless descriptors have `expected` features as those of `other`."""
        if self.n_features != expected:
            raise InputError(
                f"{self._bags[0][0].path} has {self.n_features} features in a row, and {other} have "
                f"{expected}: give feature files of the same network, or train on files such as this one"
            )

    def files(self, i: int) -> list[Path]:
        """Return the files of bag `i`."""
        return [file.path for file in self._bags[i]]

    def lengths(self, i: int) -> list[int]:
        """Return the number of descriptors in each file of bag `i`."""
        return [file.n_rows for file in self._bags[i]]

    def _taken(self, index: NDArray[np.int64]) -> Self:
        taken = type(self).__new__(type(self))
        taken._bags = [self._bags[i] for i in index.tolist()]
        return taken

    def excerpt(self, indices: NDArray[np.int64]) -> Self:
        """Return bags for a job in another process, which may have another working folder."""
        part = super().excerpt(indices)
        part._bags = [tuple(replace(file, path=file.path.absolute()) for file in bag) for bag in part._bags]
        return part

    def _read_into(self, i: int, out: NDArray[np.float32]) -> None:
        start = 0
        for file in self._bags[i]:
            file.read(out[start : start + file.n_rows])
            start += file.n_rows

    def _read_rows(self, i: int, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        start = 0
        for file in self._bags[i]:
            first, last = np.searchsorted(rows, [start, start + file.n_rows])
            if last > first:
                file.read_rows(rows[first:last] - start, out[first:last])
            start += file.n_rows

    def __repr__(self) -> str:
        return f"BagFiles({len(self)} bags, {self.offsets[-1]} descriptors of {self.n_features})"


def is_bag_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a name has the ending of a feature file. The file is not opened."""
    return feature_ending(path) is not None


def open_bags(bags: Sequence[Bag]) -> BagFiles:
    """Open feature files. See :class:`BagFiles`, which this returns."""
    return BagFiles(bags)
