"""Map numbers to grey levels from 0 to 255, and warn if a header turns an image into one colour.

Headers can be wrong. A window, a lookup table, a palette or a display range that belongs to other data turns
a picture into one colour. `keep_contrast` is the check for it. Every reader calls it after its last step.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError

__all__ = ["check_finite", "is_lost", "keep_contrast", "own_range", "rounded", "stretch", "undo_alpha"]

_log = logging.getLogger(__name__)

_ALIKE = 2  # grey levels that the eye cannot tell apart


def stretch(values: NDArray[Any], name: str, *, inverted: bool = False) -> NDArray[np.uint8]:
    """Map the range of `values` linearly to 0..255. A constant image becomes zeros.

    Parameters
    ----------
    values : ndarray of any shape, integer or floating point
    name : str
        How errors name the image.
    inverted : bool, default False
        Map the largest value to 0 and the smallest to 255. The result equals that of the negated values.

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
    span = high - low
    if not (math.isfinite(255.0 * span) and math.isfinite(255.0 / span)):
        raise InputError(
            f"{name} holds pixels from {low} to {high}, a range that is too large or too small: scale them"
        )
    levels = values.astype(np.float64)
    if inverted:
        np.subtract(high, levels, out=levels)
    else:
        levels -= low
    # Multiply first. For integers the product is exact, so a level halfway between two integers is rounded in
    # the same way in every encoding of a picture.
    levels *= 255.0
    levels /= span
    return np.rint(levels, out=levels).astype(np.uint8)


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


def keep_contrast(
    pixels: NDArray[np.uint8], stored: NDArray[Any], name: str, step: str, *, inverted: bool = False
) -> NDArray[np.uint8]:
    """Return `pixels`, or the range of `stored` if a step has turned a varying picture into one colour.

    The second is logged as a warning.

    Parameters
    ----------
    pixels : ndarray of shape (H, W) or (H, W, 3), uint8
        Result of the step.
    stored : ndarray of shape (H, W)
        Numbers before the step, without padding.
    name : str
        How the warning names the image.
    step : str
        What the warning blames, such as "the window". It must not hold text of the file.
    inverted : bool, default False
        Whether a large stored number is dark.

    Returns
    -------
    ndarray of shape (H, W) or (H, W, 3), uint8

    Raises
    ------
    InputError
        If the range of `stored` cannot be scaled.
    """
    return own_range(stored, name, step, inverted=inverted) if is_lost(pixels, stored) else pixels


def own_range(stored: NDArray[Any], name: str, step: str, *, inverted: bool = False) -> NDArray[np.uint8]:
    """Return the range of `stored` in place of the result of a step, with the warning of `keep_contrast`."""
    _log.warning(
        f"%s: {step} turns pixels that vary into one colour, or almost one, so it is ignored, and the "
        "minimum and maximum of the image become 0 and 255: correct the header",
        name,
    )
    return stretch(stored, name, inverted=inverted)


def is_lost(pixels: NDArray[np.uint8], stored: NDArray[Any]) -> bool:
    """Return whether `pixels` have one colour, or nearly one grey level, and show less than `stored`.

    Parameters
    ----------
    pixels : ndarray of shape (H, W) or (H, W, 3), uint8
    stored : ndarray of shape (H, W), or of (H, W, C) if `pixels` are colours
    """
    if pixels.ndim == 3:
        return bool((pixels == pixels[0, 0]).all() and (stored != stored[0, 0]).any())
    if pixels.max() - pixels.min() > _ALIKE:
        return False
    numbers = stored.ravel()
    for _ in range(np.count_nonzero(np.bincount(pixels.ravel()))):  # a level for each number is no loss
        numbers = numbers[numbers != numbers[0]]
        if not len(numbers):
            return False
    return True


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
