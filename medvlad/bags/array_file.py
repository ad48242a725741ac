"""Open a feature file and read its arrays part by part.

=================  ================================================================
Ending             Content
=================  ================================================================
.h5 .hdf5          HDF5: datasets at the top level (TRIDENT, CLAM, STAMP)
.npy               NumPy: one array
.npz               NumPy: several arrays, compressed or not
.pt .pth           torch: a tensor, or a dict of tensors. Code in the file is refused.
.safetensors       named tensors
=================  ================================================================

Only the requested rows are read. .pt files and arrays in Fortran order are read as a whole. In object storage
files of up to 64 MiB are fetched as a whole each time that they are opened, and of larger ones ranges.
"""

from __future__ import annotations

import importlib
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from numpy.typing import NDArray
from safetensors import SafetensorError

from medvlad._util.object_path import ObjectPath, check_reached, failure_of, location
from medvlad._util.validate import InputError, one_line

__all__ = ["READERS", "ArrayFile", "open_arrays"]

#: Ending -> module of this room and its class that reads such files.
READERS = {
    ".h5": ("hdf5_arrays", "Hdf5Arrays"),
    ".hdf5": ("hdf5_arrays", "Hdf5Arrays"),
    ".npy": ("numpy_arrays", "NpyArray"),
    ".npz": ("numpy_arrays", "NpzArrays"),
    ".pt": ("tensor_arrays", "TorchArrays"),
    ".pth": ("tensor_arrays", "TorchArrays"),
    ".safetensors": ("tensor_arrays", "SafetensorsArrays"),
}

#: Exceptions that damaged files cause in the libraries that read them.
_DAMAGED = (
    *(OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, SafetensorError),
)


class ArrayFile(ABC):
    """Named arrays of an open file. Close it with :meth:`close`.

    Parameters
    ----------
    path : Path
    opened : binary file or None
        The content, if it lies in object storage. None: `path` is opened.
    """

    @abstractmethod
    def __init__(self, path: Path, opened: BinaryIO | None = None) -> None: ...

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of the arrays. An array without a name has the name ""."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array."""

    @abstractmethod
    def rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Return some rows of an array of shape (n, ...) or (1, n, ...), as an array (stop - start, ...)."""

    def attributes(self, name: str) -> Mapping[str, Any]:
        """Return scalar attributes of the file and of an array."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


@contextmanager
def open_arrays(path: str | os.PathLike[str]) -> Iterator[ArrayFile]:
    """Open a feature file for the body of a ``with`` statement.

    Raises
    ------
    InputError
        If the file does not exist, cannot be read, has another ending or is damaged. Errors of the reading
        library in the body become an InputError too. The message names the file.
    MissingExtraError
        If the package that reads the format is not installed.
    """
    file = location(path, "the feature file")
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise InputError(
            f"{str(file)!r} is not a feature file: give a file that ends in {', '.join(sorted(READERS))}"
        )
    try:
        exists, is_file = file.exists(), file.is_file()
    except OSError as error:
        check_reached(file, error)
        raise InputError(f"{file} cannot be read ({error.strerror}): check the path") from error
    if not exists:
        raise InputError(f"there is no feature file {file}: check the path")
    if not is_file:
        raise InputError(f"{file} is not a file: give the path of a feature file")
    opened: BinaryIO | None = None
    try:
        if isinstance(file, ObjectPath):
            opened = cast(BinaryIO, file.open("rb"))
        made = getattr(importlib.import_module(f"medvlad.bags.{reader[0]}"), reader[1])
        arrays: ArrayFile = made(file, opened)
        try:
            yield arrays
        finally:
            arrays.close()
    except InputError:
        raise
    except PermissionError as error:
        check_reached(file, error)
        raise InputError(f"{file} cannot be read ({error.strerror}): check its permissions") from error
    except _DAMAGED as error:
        check_reached(file, None if opened is None else failure_of(opened))
        check_reached(file, error if opened is None else None)
        raise InputError(
            f"{file} is damaged or not what its ending says ({one_line(error) or type(error).__name__}): "
            "copy it again, or extract it again"
        ) from error
