"""Read datasets of an HDF5 file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import import_extra
from medvlad.bags.array_file import ArrayFile

__all__ = ["Hdf5Arrays"]


class Hdf5Arrays(ArrayFile):
    """Datasets at the top level of an HDF5 file. Links to other files are not followed."""

    def __init__(self, path: Path, opened: BinaryIO | None = None) -> None:
        self._h5py = import_extra("h5py", "bags", f"the feature file {path}")
        self._file = self._h5py.File(path if opened is None else opened, "r")

    def names(self) -> list[str]:
        """Return the names of the datasets."""
        own = (name for name in self._file if self._is_inside(name))
        return [str(name) for name in own if isinstance(self._file[name], self._h5py.Dataset)]

    def _is_inside(self, name: str) -> bool:
        return isinstance(self._file.get(name, getlink=True), self._h5py.HardLink)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a dataset."""
        return tuple(map(int, self._file[name].shape or ()))

    def rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Read some rows of a dataset."""
        dataset = self._file[name]
        whole: NDArray[Any] = dataset[0, start:stop] if _is_batch(dataset.shape) else dataset[start:stop]
        return whole

    def attributes(self, name: str) -> Mapping[str, Any]:
        """Return the attributes of the file and of a dataset that are numbers or text."""
        found = dict(self._file.attrs)
        if name in self.names():
            found |= dict(self._file[name].attrs)
        return {
            key: value.item() if np.size(value) == 1 and hasattr(value, "item") else value
            for key, value in found.items()
        }

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _is_batch(shape: tuple[int, ...]) -> bool:
    """Return whether an array is a batch of one: (1, n, D)."""
    return len(shape) == 3 and shape[0] == 1
