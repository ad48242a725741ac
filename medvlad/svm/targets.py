"""Checks of the labels or numbers (n_samples, n_targets) that are to be predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError

__all__ = ["names_of_targets", "number_matrix", "target_matrix"]


def number_matrix(y: Any, name: str) -> NDArray[np.float64]:
    """Return numbers as float64, one column for each target. NaN and None: not known.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_targets)
    name : str
        What error messages call it.

    Raises
    ------
    InputError
        If it holds no numbers, or has another number of dimensions, or a number is infinite.
    """
    if y is None or (isinstance(y, np.ndarray) and y.shape == () and y.item() is None):
        raise InputError(f"this estimator requires {name} to be passed, but the target {name} is None")
    try:
        numbers = np.asarray(y, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must hold numbers, NaN where they are not known: {error}") from error
    numbers = numbers[:, np.newaxis] if numbers.ndim == 1 else numbers
    if numbers.ndim != 2 or 0 in numbers.shape:
        raise InputError(
            f"{name} has shape {np.shape(y)}: give a row for each image and a column for each target"
        )
    if np.isinf(numbers).any():
        row, column = np.argwhere(np.isinf(numbers))[0]
        raise InputError(
            f"{name} is infinite in row {row}, column {column}: use NaN for a value that is not known"
        )
    return numbers


def target_matrix(y: Any, name: str) -> NDArray[np.float64]:
    """Return labels as float64 of 0, 1 and NaN. See :func:`number_matrix`.

    Raises
    ------
    InputError
        If it holds another value.
    """
    labels = number_matrix(y, name)
    wrong = ~(np.isnan(labels) | (labels == 0) | (labels == 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise InputError(
            f"{name} must hold 1, 0 or NaN (not known), got {labels[row, column]:g} in row {row}, column "
            f"{column}: use one column for each label"
        )
    return labels


def names_of_targets(given: Sequence[str] | None, y: Any, n_targets: int, parameter: str) -> NDArray[np.str_]:
    """Return the names of the columns of `y`.

    Parameters
    ----------
    given : sequence of str or None
        None: the columns of `y` if it is a DataFrame, otherwise "0", "1", and so on.
    y : array-like
    n_targets : int
    parameter : str
        Name of the parameter `given`, for messages.

    Raises
    ------
    InputError
        If `given` has another number of names, or a name occurs twice.
    """
    if given is None:
        given = getattr(y, "columns", None)
    names = [str(i) for i in range(n_targets)] if given is None else [str(name) for name in given]
    if len(names) != n_targets or len(set(names)) != n_targets:
        raise InputError(
            f"{parameter} has {len(set(names))} different names, but y has {n_targets} columns: give one "
            "name for each column"
        )
    return np.array(names, np.str_)
