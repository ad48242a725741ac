"""Resize RGB pixels to the square that a network takes."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvlad._util.choices import ResizeFilter, words_of
from medvlad._util.validate import InputError, check_choice, check_positive_int

__all__ = ["RESIZE_FILTERS", "Box", "resize_square"]

Box: TypeAlias = tuple[float, float, float, float]

RESIZE_FILTERS = words_of(ResizeFilter)
"""Names of Pillow's resampling filters."""


def resize_square(
    pixels: NDArray[np.uint8], side: int, method: str = "bilinear", *, box: Box | None = None
) -> NDArray[np.uint8]:
    """Resize to a square with Pillow's antialiased filters. The aspect ratio is not kept.

    When an image shrinks, Pillow widens the filter to cover all pixels that it replaces. OpenCV and
    TensorFlow do so only on request, and give visibly different pixels. "nearest" never antialiases.

    Parameters
    ----------
    pixels : ndarray of shape (H, W, 3), uint8
        RGB pixels.
    side : int
        Width and height of the result in pixels.
    method : str, default "bilinear"
        One of `RESIZE_FILTERS`.
    box : (float, float, float, float) or None, default=None
        Left, upper, right and lower end of the part that is used, in pixels. None: the whole image.

    Returns
    -------
    ndarray of shape (side, side, 3), uint8
        `pixels` itself, not a copy, if it already has this size.

    Raises
    ------
    InputError
        If `pixels` is not (H, W, 3) uint8, `side` is not a positive integer, or `method` is unknown.
    """
    side = check_positive_int(side, "side")
    check_choice(method, "method", RESIZE_FILTERS)
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.ndim != 3
        or pixels.shape[2] != 3
        or pixels.size == 0
    ):
        got = (
            f"{pixels.dtype} of shape {pixels.shape}"
            if isinstance(pixels, np.ndarray)
            else type(pixels).__name__
        )
        raise InputError(
            f"pixels must be uint8 of shape (height, width, 3), got {got}: read them with load_image"
        )
    if pixels.shape[:2] == (side, side) and box is None:
        return pixels
    resized = Image.fromarray(pixels).resize((side, side), Image.Resampling[method.upper()], box=box)
    return np.array(resized)
