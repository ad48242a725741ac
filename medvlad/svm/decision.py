"""The shape of decision values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["decision_columns"]


def decision_columns(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return decision values with one column for each class.

    Parameters
    ----------
    values : ndarray of float, shape (n,) or (n, n_classes)
        Output of `decision_function`. With two classes it is one value for each image, the value of
        ``classes_[1]``.

    Returns
    -------
    ndarray of float, shape (n, n_classes)
        The largest value of a row is the predicted class. With two classes, the first column is the negated
        second one.

    Examples
    --------
    >>> decision_columns(np.array([1.5, -0.5])).tolist()
    [[-1.5, 1.5], [0.5, -0.5]]
    """
    return np.column_stack([-values, values]) if values.ndim == 1 else values
