"""Map numbers of more than 8 bits to grey levels from 0 to 255."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError

__all__ = ["rounded", "stretch"]


def stretch(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Map the range of `values` linearly to 0..255. A constant image becomes zeros.

    Parameters
    ----------
    values : ndarray of any shape, integer or floating point
    name : str
        How errors name the image.

    Returns
    -------
    ndarray of the same shape, uint8

    Raises
    ------
    InputError
        If a value is not finite, or if the range is too large or too small to be scaled.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{name} holds NaN or infinite pixels: repair them or convert it to 16-bit integers")
    low, high = float(values.min()), float(values.max())
    if low == high:
        return np.zeros(values.shape, np.uint8)
    scale = 255.0 / (high - low)
    if not 0 < scale < math.inf:
        raise InputError(
            f"{name} holds pixels from {low} to {high}, a range that is too large or too small: scale them"
        )
    return np.rint((values.astype(np.float64) - low) * scale).astype(np.uint8)


def rounded(levels: NDArray[Any]) -> NDArray[np.uint8]:
    """Round levels to uint8 after clipping them to 0..255."""
    grey: NDArray[np.uint8] = np.rint(levels.clip(0, 255)).astype(np.uint8)
    return grey
