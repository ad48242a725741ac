"""Checks of scalars, indices and files, and the errors that users see.

Every room calls these functions, so the same mistake gets the same words everywhere. Checks of arrays are in
:mod:`medvlad.descriptors.checks`.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "InputError",
    "MissingExtraError",
    "check_choice",
    "check_indices",
    "check_interval",
    "check_n_threads",
    "check_non_negative_float",
    "check_output_file",
    "check_positive_float",
    "check_positive_int",
    "check_seed",
    "import_extra",
    "one_line",
]

#: More threads than any machine has processors are a mistake.
MAX_THREADS = 1024


class InputError(ValueError):
    """Bad input from the caller: one sentence that names the value or file and what to do."""


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency or say which extra brings it.

    Parameters
    ----------
    module : str
        Dotted module name.
    extra : str
        The extra of medvlad that installs it.
    purpose : str
        What needs it, the subject of the message.

    Raises
    ------
    MissingExtraError
        If the module cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        cause: BaseException | None = error
        while cause is not None:  # extension modules make an ImportError of Ctrl-C
            if isinstance(cause, KeyboardInterrupt):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        raise MissingExtraError(
            f"{purpose} needs the Python module {module!r} ({error}): pip install 'medvlad[{extra}]'"
        ) from error


def check_indices(indices: Any, n_images: int) -> NDArray[np.int64]:
    """Return the rows 0 to `n_images` - 1 that integers, from the end where negative, or a mask choose.

    Raises
    ------
    InputError
        If they are neither, or outside.
    """
    try:
        array = np.asarray(indices)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"images are chosen by a row of integers ({one_line(error)})") from error
    if array.shape == (n_images,) and array.dtype == np.bool_:
        return np.flatnonzero(array)
    if array.size == 0 and array.ndim == 1 and array.dtype != np.bool_:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"images are chosen by a row of integers, or by {n_images} of True and False, got shape "
            f"{array.shape} of {array.dtype}"
        )
    outside = (array >= n_images) | (array < -n_images)
    if outside.any():
        raise InputError(
            f"image {array[outside][0]} was chosen of {n_images}: they are counted from 0 to {n_images - 1}"
        )
    index = array.astype(np.int64)
    return np.where(index < 0, index + n_images, index)


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    return " ".join(str(error).split())


def check_positive_int(value: Any, name: str) -> int:
    """Return `value` as an int, at least 1, or raise InputError."""
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


def check_choice(value: Any, name: str, choices: Sequence[str]) -> str:
    """Return `value` if it is one of `choices`, or raise InputError listing them."""
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return str(value)


def check_n_threads(n_threads: Any) -> int:
    """Return the number of threads: `n_threads`, or the processors this process may use when None."""
    if n_threads is None:
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    checked = check_positive_int(n_threads, "n_threads")
    if checked > MAX_THREADS:
        raise InputError(f"n_threads must be at most {MAX_THREADS}, got {checked}")
    return checked


def check_output_file(path: str | os.PathLike[str], what: str) -> Path:
    """Return `path` if a file can be written there, so that long work is not lost for want of a folder."""
    target = Path(path)
    if target.is_dir():
        raise InputError(f"{target} is a folder: name a file for the {what}")
    if target.exists() and not target.is_file():
        raise InputError(f"{target} is a device or pipe, not a regular file: name another for the {what}")
    if not target.parent.is_dir():
        raise InputError(f"the folder {target.parent} for the {what} does not exist: make it first")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise InputError(f"the {what} {target} cannot be written: check permissions or choose another place")
    return target


def check_output_folder(path: str | os.PathLike[str], option: str, *images: str | os.PathLike[str]) -> Path:
    """Make the folder `path` that a command's `option` names; refuse one among the images that it reads.

    There it would be taken for a class, or for images, the next time.
    """
    target = Path(path)
    for root in images:
        if target.resolve().is_relative_to(Path(root).resolve()):
            raise InputError(
                f"{option} {target} lies in {root}, whose folders and images are read: name one elsewhere"
            )
    if target.exists() and not target.is_dir():
        raise InputError(f"{option} {target} is a file: name a folder")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{option} {target} cannot be made: {error.strerror}") from error
    return target


def check_positive_float(value: Any, name: str) -> float:
    """Return `value` as a float above 0 and below infinity, or raise InputError."""
    if not _is_number(value) or not value > 0 or not math.isfinite(_as_float(value)):
        raise InputError(f"{name} must be a finite number above 0, got {value!r}")
    return float(value)


def check_seed(value: Any, name: str = "seed") -> int:
    """Return `value` if NumPy takes it for a seed: an integer from 0 to 2^32 - 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 2**32:
        raise InputError(f"{name} must be an integer from 0 to 4294967295, got {value!r}")
    return int(value)
