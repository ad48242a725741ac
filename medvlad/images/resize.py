"""Resize pixels to the square that a network takes.

Pillow's filters decide the numbers. Its bilinear filter, the default, takes as long as decoding, because
Pillow uses no vector instructions for it. ``csrc/resize`` computes the same numbers in a third of the time.
It is used if

- the processor has AVX2,
- the image shrinks in both directions, and height + side <= 2 * width. Pillow 13 resizes the columns of
  taller images before their rows. Earlier versions do not. The numbers differ, because both passes round,
- the pixels lie in one piece. Pillow splits images of more than 16 MB.

Otherwise Pillow resizes.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvlad._util.choices import ResizeFilter, words_of
from medvlad._util.validate import InputError, check_choice, check_positive_int

try:
    from medvlad.images import _resize
except ImportError:  # a checkout that was not built, or another processor or compiler
    _resize = None  # type: ignore[assignment]

__all__ = ["RESIZE_FILTERS", "Box", "resize_image", "resize_square"]

Box: TypeAlias = tuple[float, float, float, float]

RESIZE_FILTERS = words_of(ResizeFilter)
"""Names of Pillow's resampling filters."""

_MARGIN = 2  # pixels, for boxes that end inside a pixel


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
    height, width = pixels.shape[:2]
    ends = box or (0.0, 0.0, float(width), float(height))
    if _is_quick((width, height), ends, side, method):
        square = _resize.of_array(pixels, ends, side)
        if square is not None:
            return square
    return np.array(Image.fromarray(pixels).resize((side, side), Image.Resampling[method.upper()], box=box))


def resize_image(image: Image.Image, side: int, method: str, *, box: Box | None = None) -> NDArray[np.uint8]:
    """Resize an image of Pillow, without a copy of it, as `resize_square` does.

    Parameters
    ----------
    image : PIL.Image.Image
        Loaded image of mode L or RGB.
    side, method, box
        As in `resize_square`.

    Returns
    -------
    ndarray of shape (side, side) or (side, side, 3), uint8
    """
    if image.size == (side, side) and box is None:
        return np.asarray(image)
    ends = box or (0.0, 0.0, float(image.width), float(image.height))
    if _is_quick(image.size, ends, side, method):
        lent = _lent_memory(image)
        square = None if lent is None else _resize.of_arrow(lent, image.width, image.height, ends, side)
        if square is not None:
            return square
    return np.asarray(image.resize((side, side), Image.Resampling[method.upper()], box=box))


def _is_quick(size: tuple[int, int], box: Box, side: int, method: str) -> bool:
    """Return whether the built code gives Pillow's numbers."""
    width, height = box[2] - box[0], box[3] - box[1]
    return (
        _resize is not None
        and method == "bilinear"
        and side <= min(width, height)
        and size[1] + side <= 2 * width - _MARGIN
    )


def _lent_memory(image: Image.Image) -> Any:
    """Return the memory of an image in Arrow's C data interface. None: it is not in one piece."""
    # The environment variable PILLOW_ALIGNMENT makes gaps between the rows.
    if Image.core.get_alignment() != 1:  # type: ignore[attr-defined]
        return None
    try:
        return image.__arrow_c_array__()[1]
    except (AttributeError, ValueError):  # Pillow before 11.2.1; an image of more than 16 MB
        return None
