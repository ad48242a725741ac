"""Write encoded images to a ``.npy`` file, block by block and atomically.

The file is written with plain writes, not with a memory map. Written pages of a map count as memory of this
process, and a full disk would end the process with a signal. See :mod:`medvlad._util.atomic_file`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from medvlad._util.atomic_file import new_file

__all__ = ["new_vector_file"]

_Write = Callable[[NDArray[np.int64], NDArray[np.float32]], None]


@contextmanager
def new_vector_file(path: str | os.PathLike[str], n_rows: int, width: int) -> Iterator[_Write]:
    """Open a float32 matrix (n_rows, width) for writing. The file appears when the context ends.

    Parameters
    ----------
    path : path
        File to write. An existing file is replaced.
    n_rows, width : int
        Shape of the matrix.

    Yields
    ------
    callable
        Function of row numbers (n,), int64, and rows (n, width), float32, that writes these rows.

    Raises
    ------
    InputError
        If the file cannot be written, or the disk does not have enough space for all of it.
    """
    with new_file(path, "file of encoded images") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n_rows, width)}
        np.lib.format.write_array_header_1_0(file, header)
        begin, row = file.tell(), 4 * width
        file.flush()
        if n_rows and hasattr(os, "posix_fallocate"):  # reserve the space now, not after hours of work
            os.posix_fallocate(file.fileno(), 0, begin + n_rows * row)

        def write(rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
            starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
            for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
                file.seek(begin + int(rows[start]) * row)
                file.write(np.ascontiguousarray(vectors[start:stop], "<f4").data)

        yield write
