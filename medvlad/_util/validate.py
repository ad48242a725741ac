"""Check scalars, indices and output files, and define the errors that users see.

Every room calls these functions, so the same mistake gives the same message everywhere. Checks of arrays are
in :mod:`medvlad.descriptors.checks`.
"""

from __future__ import annotations

import importlib
import math
import os
import re
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.processors import usable_processors
from medvlad._util.urls import is_url, without_secrets

__all__ = [
    "InputError",
    "MissingExtraError",
    "check_choice",
    "check_indices",
    "check_interval",
    "check_local",
    "check_n_threads",
    "check_non_negative_float",
    "check_one_each",
    "check_output_file",
    "check_outside",
    "check_positive_float",
    "check_positive_int",
    "check_seed",
    "closest",
    "further_seed",
    "import_extra",
    "make_output_folder",
    "one_line",
]

#: Upper limit of n_threads. No machine has more processors, so a larger value is a mistake.
MAX_THREADS = 1024
#: What the dynamic loader and the kernel say if a library does not fit into memory.
_NO_MEMORY = re.compile("failed to map segment|[Cc]annot allocate memory")


class InputError(ValueError):
    """Bad input from the caller. The message says what is wrong, what was expected and what to do."""


class MissingExtraError(ImportError):
    """An optional package is not installed, or it is installed and its import fails.

    The message names the extra that installs the package, or the reason of the failure.
    """


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency.

    Parameters
    ----------
    module : str
        Dotted module name.
    extra : str
        Extra of medvlad that installs the module.
    purpose : str
        What needs the module. It is the subject of the error message.

    Returns
    -------
    module

    Raises
    ------
    MissingExtraError
        If the module cannot be imported. The message names the extra if the module is not installed.
        Otherwise it gives the reason: a package may fail to import because the home folder is read-only or
        the memory is too small.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:  # Ctrl-C in an extension module becomes an ImportError
            if isinstance(cause, KeyboardInterrupt):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, ModuleNotFoundError):
            raise MissingExtraError(
                f"{purpose} needs the Python module {module!r} ({error}): pip install 'medvlad[{extra}]'"
            ) from error
        reason = f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")
        advice = (
            "allow the process more memory, see 'ulimit -v'"
            if isinstance(error, MemoryError) or _NO_MEMORY.search(reason)
            else f"""repair what the reason names; python -c "import {module}" shows more"""
        )
        raise MissingExtraError(
            f"{purpose} needs the Python module {module!r}, whose import fails ({reason}): {advice}"
        ) from error


def check_indices(indices: Any, n_images: int) -> NDArray[np.int64]:
    """Return the row numbers that `indices` selects among `n_images` images.

    Parameters
    ----------
    indices : array-like of int, or of bool with shape (n_images,)
        Image numbers, counted from the end if negative, or a mask.
    n_images : int
        Number of images.

    Returns
    -------
    ndarray of int64
        Row numbers from 0 to ``n_images - 1``.

    Raises
    ------
    InputError
        If `indices` is neither, or a number is out of range.
    """
    try:
        array = np.asarray(indices)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"indices must be a one-dimensional list of integers ({one_line(error)})") from error
    if array.shape == (n_images,) and array.dtype == np.bool_:
        return np.flatnonzero(array)
    if array.size == 0 and array.ndim == 1 and array.dtype != np.bool_:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"indices must be a one-dimensional list of integers, or a mask of {n_images} True and False, "
            f"got shape {array.shape} of {array.dtype}"
        )
    outside = (array >= n_images) | (array < -n_images)
    if outside.any():
        raise InputError(
            f"image index {array[outside][0]} is out of range for {n_images} images: "
            f"use 0 to {n_images - 1}, or -{n_images} to -1"
            if n_images
            else f"image index {array[outside][0]} is out of range: there are no images"
        )
    index = array.astype(np.int64)
    return np.where(index < 0, index + n_images, index)


def check_one_each(values: Any, name: str, n_images: int) -> None:
    """Raise InputError unless `values` is None or holds one value for each image."""
    if values is not None and len(values) != n_images:
        raise InputError(f"{name} has {len(values)} values for {n_images} images: give one for each image")


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split())


def check_positive_int(value: Any, name: str) -> int:
    """Return `value` as an int. Raise InputError unless it is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def check_interval(value: Any, name: str, low: float, high: float) -> float:
    """Return `value` as a finite float in the half-open interval (low, high], or raise InputError."""
    if not _is_number(value):
        raise InputError(f"{name} must be a number in ({low:g}, {high:g}], got {value!r}")
    if not low < value <= high or not math.isfinite(_as_float(value)):
        raise InputError(f"{name} must lie in ({low:g}, {high:g}], got {value!r}")
    return float(value)


def check_non_negative_float(value: Any, name: str) -> float:
    """Return `value` as a finite float that is 0 or more, or raise InputError."""
    if not _is_number(value):
        raise InputError(f"{name} must be a number of 0 or more, got {value!r}")
    if not value >= 0:
        raise InputError(f"{name} must be 0 or more, got {value!r}")
    if not math.isfinite(_as_float(value)):
        raise InputError(f"{name} must be finite, got {value!r}")
    return float(value)


def _is_number(value: Any) -> bool:
    """Return whether `value` is a real number of Python or NumPy; True and False are not."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _as_float(value: Any) -> float:
    """Return a number as a float; infinity for an integer that is too large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def closest(name: str, choices: Collection[str]) -> list[str]:
    """Return the one of the choices that was probably meant, in any case, or an empty list."""
    by_lower = {one.casefold(): one for one in choices}
    return [by_lower[one] for one in get_close_matches(name.casefold(), by_lower, n=1)]


def check_choice(value: Any, name: str, choices: Sequence[str]) -> str:
    """Return `value`. Raise InputError with the list of `choices` unless it is one of them."""
    if value not in choices:
        hint = "".join(f"; did you mean {one!r}?" for one in closest(str(value), choices))
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}")
    return str(value)


def check_n_threads(n_threads: Any) -> int:
    """Return `n_threads`. None: the number of processors that this process may use.

    See :func:`medvlad._util.processors.usable_processors`.

    Raises
    ------
    InputError
        Unless it is an integer from 1 to MAX_THREADS.
    """
    if n_threads is None:
        return usable_processors().number
    checked = check_positive_int(n_threads, "n_threads")
    if checked > MAX_THREADS:
        raise InputError(f"n_threads must be at most {MAX_THREADS}, got {checked}")
    return checked


def check_local(path: str | os.PathLike[str], name: str) -> Path:
    """Return `path`. Raise InputError if it is a URL, such as s3://bucket/images.

    ``Path("s3://bucket/x")`` is a folder named ``s3:`` here, so a URL would be written to a wrong place. All
    paths that a user gives pass this check, or :func:`medvlad._util.object_path.location` if a URL may be
    given.

    Parameters
    ----------
    path : path-like
        File or folder.
    name : str
        What the message calls it, such as "the store".
    """
    if is_url(path):
        raise InputError(
            f"{name} {without_secrets(os.fspath(path))!r} is a URL, and must be a file or folder of this "
            "machine: copy the data to a folder, or mount it, and give the path of the folder"
        )
    return Path(path)


def check_output_file(
    path: str | os.PathLike[str], what: str, *, may_replace: Callable[[Path], bool] | None = None
) -> Path:
    """Return `path` if a file can be written there.

    Call it before long work, so that a wrong path is found before the result is lost.

    Parameters
    ----------
    path : path-like
        File to be written. It may exist.
    what : str
        Kind of file, such as "model". Error messages use it.
    may_replace : callable or None, default=None
        Whether an existing file is of this kind, so that it may be replaced. None: any file may be.

    Raises
    ------
    InputError
        If `path` is a URL, a folder, a device or a pipe, its folder does not exist, writing is not permitted,
        or it is a file of another kind.
    """
    target = check_local(path, f"the {what}")
    if target.is_dir():
        raise InputError(f"the {what} {target} is a folder: give the path of a file")
    if target.exists() and not target.is_file():
        raise InputError(f"the {what} {target} is a device or pipe: give the path of a regular file")
    if not target.parent.is_dir():
        raise InputError(f"the folder {target.parent} for the {what} does not exist: create it first")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise InputError(f"the {what} {target} cannot be written: check permissions or choose another place")
    if may_replace is not None and target.exists() and target.stat().st_size and not may_replace(target):
        raise InputError(
            f"{target} exists and is no {what}, so it is not replaced: choose another name, or remove it"
        )
    return target


def check_outside(path: str | os.PathLike[str], name: str, *images: str | os.PathLike[str]) -> Path:
    """Return `path`. Raise InputError if it is a URL, or lies in one of the folders `images`.

    The next run would read it as a class or as images. `name` is what the message calls it.
    """
    target = check_local(path, name)
    for root in images:
        if target.resolve().is_relative_to(Path(root).resolve()):
            raise InputError(
                f"{name} {target} lies in the image folder {root}, so the next run would read it as images: "
                "choose a folder outside"
            )
    return target


def make_output_folder(
    path: str | os.PathLike[str],
    name: str,
    *images: str | os.PathLike[str],
    results: Sequence[str] = (),
    overwrite: bool = True,
) -> Path:
    """Create an output folder and its parents, and return its path.

    A folder inside an image folder is refused: the next run would read it as a class or as images.

    Parameters
    ----------
    path : path-like
        Folder to create. It may exist.
    name : str
        What error messages call it, such as "out".
    *images : path-like
        Image folders that the same work reads.
    results : sequence of str, default=()
        Files that the work writes into the folder.
    overwrite : bool, default=True
        Whether `results` of an earlier run may be replaced.

    Raises
    ------
    InputError
        If `path` lies in one of `images`, is a file, cannot be created, or holds results of an earlier run.
    """
    target = check_outside(path, name, *images)
    if target.exists() and not target.is_dir():
        raise InputError(f"{name} {target} is a file: give the path of a folder")
    earlier = [] if overwrite else [one for one in results if (target / one).is_file()]
    if earlier:
        raise InputError(
            f"{name} {target} holds {earlier[0]} of an earlier run: give another folder, or overwrite=True "
            "to replace its results"
        )
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{name} {target} cannot be created: {error.strerror or error}; choose another place"
        ) from error
    return target


def check_positive_float(value: Any, name: str) -> float:
    """Return `value` as a float. Raise InputError unless it is a finite number above 0."""
    if not _is_number(value) or not value > 0 or not math.isfinite(_as_float(value)):
        raise InputError(f"{name} must be a finite number above 0, got {value!r}")
    return float(value)


def check_seed(value: Any, name: str = "seed") -> int:
    """Return `value` as an int. Raise InputError unless NumPy accepts it as a seed (0 to 2^32 - 1)."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 2**32:
        raise InputError(f"{name} must be an integer from 0 to 4294967295, got {value!r}")
    return int(value)


def further_seed(seed: int, i: int) -> int:
    """Return the seed of repetition `i`: `seed + i`, and 0 after 2^32 - 1, the largest seed of NumPy."""
    return (seed + i) % 2**32
