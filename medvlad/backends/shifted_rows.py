"""Rows minus an offset and a multiple of one direction."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["ShiftedRows"]


class ShiftedRows(NamedTuple):
    """Rows ``z_i = x_i - shift - along_i * direction``, which are computed where they are used.

    Attributes
    ----------
    x : ndarray of float32 or float64, shape (n, d)
        Any strides.
    shift : ndarray of float64, shape (d,)
    along : ndarray of float64, shape (n,)
    direction : ndarray of float64, shape (d,)
    """

    x: NDArray[Any]
    shift: NDArray[np.float64]
    along: NDArray[np.float64]
    direction: NDArray[np.float64]
