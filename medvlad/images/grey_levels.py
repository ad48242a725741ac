"""Map numbers of more than 8 bits to grey levels from 0 to 255."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError

__all__ = ["check_finite", "rounded", "stretch", "undo_alpha"]


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
    check_finite(values, name)
    low, high = float(values.min()), float(values.max())
    if low == high:
        return np.zeros(values.shape, np.uint8)
    scale = 255.0 / (high - low)
    if not 0 < scale < math.inf:
        raise InputError(
            f"{name} holds pixels from {low} to {high}, a range that is too large or too small: scale them"
        )
    return np.rint((values.astype(np.float64) - low) * scale).astype(np.uint8)


def check_finite(values: NDArray[Any], name: str) -> None:
    """Refuse floating-point pixels that are NaN or infinite.

    Raises
    ------
    InputError
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{name} holds NaN or infinite pixels: repair them or convert it to 16-bit integers")


def rounded(levels: NDArray[Any]) -> NDArray[np.uint8]:
    """Round levels to uint8 after clipping them to 0..255."""
    grey: NDArray[np.uint8] = np.rint(levels.clip(0, 255)).astype(np.uint8)
    return grey


def undo_alpha(colours: NDArray[Any], alpha: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Divide colours by the alpha that they were multiplied with. Transparent pixels become black.

    Parameters
    ----------
    colours : ndarray of shape (H, W, C), unsigned integer or floating point
    alpha : ndarray of shape (H, W, 1)
    name : str
        How errors name the image.

    Returns
    -------
    ndarray of shape (H, W, C), uint8
        ``255 * colour / alpha``. The scale of the numbers is known, so they are not stretched.

    Raises
    ------
    InputError
        If a value is not finite.
    """
    check_finite(colours, name)
    check_finite(alpha, name)
    opacity = alpha.astype(np.float64)
    with np.errstate(over="ignore"):  # infinity becomes 255
        shares = np.divide(colours, opacity, out=np.zeros(colours.shape), where=opacity > 0)
        return rounded(255 * shares)
