"""One feature file: find its descriptors, and read rows of them as float32."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvlad._util.object_path import location
from medvlad._util.validate import InputError
from medvlad.bags.array_file import ArrayFile, open_arrays
from medvlad.descriptors.checks import as_matrix

__all__ = ["FEATURES", "FeatureFile", "find_features"]

#: Names of the array of descriptors, the usual one first.
FEATURES = ("features", "feats", "descriptors")

_BLOCK_BYTES = 4 << 20  # of descriptors that are read and converted at a time


@dataclass(frozen=True)
class FeatureFile:
    """Where the descriptors of a file lie.

    Attributes
    ----------
    path : Path
    name : str
        Name of the array of descriptors in the file. "": the only array, without a name.
    n_rows, n_features : int
        Shape (n, D) of the descriptors.
    """

    path: Path
    name: str
    n_rows: int
    n_features: int

    def read(self, out: NDArray[np.float32]) -> None:
        """Read all descriptors into `out` (n, D), block by block.

        Raises
        ------
        InputError
            If the file is damaged or has changed, or a number is not finite or beyond float32.
        """
        for start, values in self._blocks(range(0, self.n_rows, self._block_rows)):
            out[start : start + len(values)] = values

    def read_rows(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Read the descriptors at `rows`, ascending, into `out`. Blocks without such a row are not read.

        Raises
        ------
        InputError
            As :meth:`read`.
        """
        step = self._block_rows
        starts = (np.unique(rows // step) * step).tolist()
        for start, values in self._blocks(starts):
            first, last = np.searchsorted(rows, [start, start + len(values)])
            out[first:last] = values[rows[first:last] - start]

    @property
    def _block_rows(self) -> int:
        return max(1, _BLOCK_BYTES // (4 * self.n_features))

    def _blocks(self, starts: Iterable[int]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the first row and the rows of each block that begins at one of `starts`."""
        with _opened(self.path) as (arrays, name, shape):
            if (name, *shape) != (self.name, self.n_rows, self.n_features):
                raise InputError(f"{self.path} has changed since it was opened: open it again")
            for start in starts:
                block = arrays.rows(name, start, min(start + self._block_rows, self.n_rows))
                values = as_matrix(block, f"features of {self.path} from row {start} on")
                _check_finite(values, start, self.path)
                yield start, values


def find_features(path: str | os.PathLike[str]) -> FeatureFile:
    """Find the descriptors of a file. Their numbers are not read, except from .pt files.

    Raises
    ------
    InputError
        If the file cannot be read, or holds no descriptors (n, D) or (1, n, D) with at least one row.
    MissingExtraError
        If the package that reads the format is not installed.
    """
    with _opened(path) as (_, name, (n_rows, n_features)):
        return FeatureFile(location(path, "the feature file"), name, n_rows, n_features)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[ArrayFile, str, tuple[int, int]]]:
    """Open a file. Give its arrays, and the name and the shape (n, D) of the descriptors."""
    with open_arrays(path) as arrays:
        name = _name_of_features(arrays, path)
        shape = arrays.shape(name)
        inner = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
        what = repr(name) if name else "the array"
        if len(inner) != 2 or inner[1] == 0:
            raise InputError(
                f"{what} in {path} has shape {shape}, but features need one row for each descriptor, (n, D) "
                "or (1, n, D): extract the file again"
            )
        if inner[0] == 0:
            raise InputError(
                f"{what} in {path} has no rows (shape {shape}): leave the file out, or extract it again"
            )
        yield arrays, name, (inner[0], inner[1])


def _name_of_features(arrays: ArrayFile, path: str | os.PathLike[str]) -> str:
    """Return the name of the array of descriptors: a usual name, or that of the only array."""
    names = arrays.names()
    for name in FEATURES:
        if name in names:
            return name
    if len(names) == 1 and names[0] in ("", "arr_0"):
        return names[0]
    held = ", ".join(map(repr, names[:10])) or "no arrays"
    raise InputError(
        f"{path} has no 'features', it holds {held}: name the descriptors (n, D) in it 'features'"
    )


def _check_finite(values: NDArray[np.float32], first_row: int, path: Path) -> None:
    """Raise InputError with file and row if a number is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum()):
            return
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        row = int(bad.argmax())
        value = values[row][~np.isfinite(values[row])][0]
        raise InputError(
            f"{path} holds {'NaN' if np.isnan(value) else value} in row {first_row + row}: NaN and inf are "
            "not allowed, so extract the file again or leave it out"
        )
