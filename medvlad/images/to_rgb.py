"""Turn an image that Pillow has opened into upright RGB pixels of 8 bits.

Three groups of functions: checks of the header before anything is decoded, the modes and number formats that
Pillow hides or gets wrong, and the EXIF orientation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvlad._util.validate import InputError
from medvlad.images.grey_levels import is_lost, keep_contrast, stretch, undo_alpha

__all__ = [
    "GREY_MODES",
    "as_three_channels",
    "check_header",
    "check_size",
    "exif_orientation",
    "prepare",
    "to_rgb",
    "too_many_pixels",
    "turn_upright",
]

GREY_MODES = ("F", "I", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's names for grey of more than 8 bits."""

_EXIF_ORIENTATION = 0x0112
_TIFF_PHOTOMETRIC, _TIFF_COLOUR_MAP, _TIFF_SAMPLE_FORMAT = 262, 320, 339
_TIFF_UNSIGNED = 1
_TIFF_MIN_IS_WHITE = 0
_PALETTE_MODES = ("P", "PA")
_CONVERTED_MODES = ("CMYK", "LAB", "YCbCr")


def check_header(image: Image.Image, name: str) -> None:
    """Refuse an image that is too large or too small, before its pixels are decoded.

    Raises
    ------
    InputError
    """
    # Pillow only warns between one and two times its limit, and only once. Checking here makes the outcome
    # independent of warning filters and of the order of calls.
    width, height = image.size
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise too_many_pixels(name)
    check_size(width, height, name)


def check_size(width: int, height: int, name: str) -> None:
    """Refuse an image of less than 2 x 2 pixels.

    Raises
    ------
    InputError
    """
    if width < 2 or height < 2:
        raise InputError(
            f"{name} has {width} x {height} pixels (width x height): an image needs at least 2 x 2, remove it"
        )


def too_many_pixels(name: str) -> InputError:
    """Return the error for an image of more pixels than PIL.Image.MAX_IMAGE_PIXELS."""
    return InputError(
        f"{name} has more pixels than are safe to decode (over {Image.MAX_IMAGE_PIXELS}): reduce it, or "
        "raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    )


def prepare(image: Image.Image) -> None:
    """Correct what Pillow gets wrong in a header, before the pixels are decoded.

    Pillow does not use a GIF's own palette if it is a ramp of grey, but then takes the palette of the file.
    """
    if image.format == "GIF" and image.mode == "L":
        image.palette = None


def _tiff_tag(image: Image.Image, tag: int, default: int) -> int:
    """Return the largest value of a TIFF tag."""
    tags: Any = getattr(image, "tag_v2", {})
    value = tags.get(tag, default)
    return int(max(value)) if isinstance(value, tuple) else int(value)


def to_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Return the pixels of a loaded image as RGB. Grey of more than 8 bits is stretched.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8
        Not turned by the EXIF orientation yet.

    Raises
    ------
    InputError
        If grey values are not finite or cannot be scaled.
    """
    if image.mode in GREY_MODES:
        values: NDArray[Any] = np.asarray(image)
        inverted = False
        if image.format == "TIFF":
            # Pillow reads unsigned 32-bit numbers as signed ones.
            unsigned = _tiff_tag(image, _TIFF_SAMPLE_FORMAT, _TIFF_UNSIGNED) == _TIFF_UNSIGNED
            if unsigned and values.dtype == np.int32:
                values = values.view(np.uint32)
            inverted = _tiff_tag(image, _TIFF_PHOTOMETRIC, 1) == _TIFF_MIN_IS_WHITE
        return as_three_channels(stretch(values, name, inverted=inverted))
    if image.mode == "La":  # grey that is multiplied by alpha; Pillow does not convert it to RGB
        values = np.asarray(image)
        return as_three_channels(undo_alpha(values[..., :1], values[..., 1:], name))
    # Transparency is dropped. Without this line, convert warns about a palette with several transparent
    # entries.
    image.info.pop("transparency", None)
    pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    if image.mode in _PALETTE_MODES:
        return _with_palette(image, pixels, name)
    if image.mode in _CONVERTED_MODES and is_lost(pixels, np.asarray(image)):
        raise InputError(
            f"{name} is of one colour as RGB, although its {image.mode} numbers vary: convert it to RGB with "
            "the program that made it"
        )
    return pixels


def _with_palette(image: Image.Image, pixels: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Return the colours of an image with a palette, of which Pillow has made `pixels`.

    The colour map of a TIFF has entries of 16 bits. Some programs store 8 bits in the low byte of them, and
    Pillow uses the high byte only.
    """
    indices = np.asarray(image)
    if indices.ndim == 3:  # the second channel is transparency
        indices = indices[..., 0]
    colour_map = np.asarray(getattr(image, "tag_v2", {}).get(_TIFF_COLOUR_MAP, ()))
    if image.format == "TIFF" and 0 < colour_map.max(initial=0) < 256:
        colours = colour_map.reshape(3, -1).T.astype(np.uint8)
        pixels = colours[np.minimum(indices, len(colours) - 1)]
    return as_three_channels(keep_contrast(pixels, indices, name, "the palette"))


def as_three_channels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Repeat the channel of grey pixels, (H, W) or (H, W, 1), three times. RGB pixels are returned."""
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image, 1 to 8.

    It is 1 (upright) if the tag is missing or cannot be read. Pillow turns a TIFF while it loads it and
    removes the tag, so it is 1 for a TIFF.
    """
    try:
        value: Any = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels, which have been decoded
        return 1
    return int(value) if value in range(1, 9) else 1


def turn_upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn stored pixels of an EXIF orientation, 1 to 8, upright."""
    if orientation >= 5:  # these are transposed before they are flipped
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
