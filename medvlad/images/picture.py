"""An image that was decoded: its pixels, and squares for a network.

An image of 8 bits stays in Pillow's memory until it has the size of a square, because copying a large image
out of Pillow and into it again takes as long as resizing it.

JPEG holds blocks of 8 x 8 coefficients. With ``decode="fast"``, libjpeg makes 4 x 4, 2 x 2 or 1 x 1 pixels of
each block, which takes less time than all 64 and resizing them::

    width x height   1200 x 900   file
    s = 2             600 x 450   decoded: the largest s of 8, 4, 2, 1 so that both sides are at least twice
                                  those of the square
                      224 x 224   resized as usual

The last pixels of a row and column may stand for less than s pixels of the file. The box of a picture says
where the image ends, so the square covers exactly the image.

libjpeg could also make 5 x 5, 6 x 6 or 7 x 7 pixels, but takes longer for them than for 8 x 8, because only
the powers of two have fast code (libjpeg-turbo 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from medvlad._util.choices import Decode, words_of
from medvlad._util.validate import InputError
from medvlad.images.deep_colour import has_deep_colour, jpeg2000_bits, read_colour, widen_levels
from medvlad.images.grey_levels import stretch
from medvlad.images.resize import Box, resize_image, resize_square
from medvlad.images.to_rgb import (
    GREY_MODES,
    as_three_channels,
    check_header,
    exif_orientation,
    prepare,
    to_rgb,
    turn_upright,
)

__all__ = ["DECODE", "Decode", "Picture", "decode_with_pillow", "draft", "one_for_each"]

DECODE = words_of(Decode)
"""How JPEG files may be decoded."""

_ENOUGH = 2  # sides of the decoded image, relative to those of the square
_PLAIN_MODES = ("L", "RGB")


@dataclass(frozen=True)
class Picture:
    """An upright image that was decoded.

    Attributes
    ----------
    content : ndarray of shape (H, W, 3), uint8, or PIL.Image.Image
        RGB pixels, or a loaded image of mode L or RGB.
    box : (float, float, float, float) or None, default=None
        Left, upper, right and lower end of the image, in pixels. None: all of `content`.
    jpeg_size : (int, int) or None, default=None
        Width and height of the JPEG file. None: another format.
    divisor : int, default=1
        The file has this many pixels for one of `content`, in each direction.
    """

    content: NDArray[np.uint8] | Image.Image
    box: Box | None = None
    jpeg_size: tuple[int, int] | None = None
    divisor: int = 1

    def array(self) -> NDArray[np.uint8]:
        """Return the pixels, shape (H, W, 3)."""
        if isinstance(self.content, Image.Image):
            return as_three_channels(np.array(self.content))
        return self.content

    def square(self, side: int, method: str) -> NDArray[np.uint8]:
        """Return the image as a square, as :func:`medvlad.images.resize.resize_square` does."""
        if not isinstance(self.content, Image.Image):
            return resize_square(self.content, side, method, box=self.box)
        return as_three_channels(resize_image(self.content, side, method, box=self.box))

    def serves(self, side: int) -> bool:
        """Return whether a square of this side would be made of the same pixels."""
        return self.jpeg_size is None or _divisor(self.jpeg_size, side) == self.divisor


def one_for_each(sides: Sequence[int], decode: Callable[[int], Picture]) -> tuple[Picture, ...]:
    """Return a picture for each side of a square. Equal ones are decoded once.

    Parameters
    ----------
    sides : sequence of int
    decode : callable
        Function from a side to the picture.
    """
    pictures: list[Picture] = []
    for side in sides:
        known = next((one for one in pictures if one.serves(side)), None)
        pictures.append(known or decode(side))
    return tuple(pictures)


def _divisor(size: tuple[int, int], side: int) -> int:
    """Return how much smaller a JPEG file is decoded. 1 if `side` is 0."""
    if side == 0:
        return 1
    return next((one for one in (8, 4, 2) if min(size) // one >= _ENOUGH * side), 1)


def draft(image: Image.Image, side: int) -> Box | None:
    """Make Pillow decode a JPEG file at reduced size. Call this before it is loaded.

    Parameters
    ----------
    image : PIL.Image.Image
    side : int
        Side of the square that will be made of the image. 0: the image is decoded at full size.

    Returns
    -------
    tuple of float or None
        Ends of the image among the pixels that will be decoded, before they are turned upright. None: the
        image is decoded at full size, because it is small or no JPEG file.
    """
    width, height = image.size
    divisor = _divisor(image.size, side)
    if divisor == 1 or not isinstance(image, JpegImageFile):
        return None
    if image.draft(None, (width // divisor, height // divisor)) is None:
        return None
    return (0.0, 0.0, width / divisor, height / divisor)


def decode_with_pillow(image: Image.Image, file: BinaryIO, name: str, side: int) -> Picture:
    """Decode an image that Pillow has opened.

    Parameters
    ----------
    image : PIL.Image.Image
    file : binary file
        The file that it was opened from.
    name : str
        How errors name the image.
    side : int
        As for `draft`.

    Raises
    ------
    InputError
        If the image is too small or too large, its values cannot be scaled, or it has colour of more than 8
        bits and the extra medical is not installed.
    """
    check_header(image, name)
    prepare(image)
    if image.mode not in GREY_MODES and has_deep_colour(image, file):
        colour = read_colour(image, file, name)
        if colour is None:
            raise InputError(
                f"{name} is colour (or grey with transparency) of more than 8 bits a channel, and "
                "Pillow keeps only the high byte of it: pip install 'medvlad[medical]', or "
                "convert it to 8 bits or to grey"
            )
        return Picture(turn_upright(stretch(colour, name), exif_orientation(image)))
    size = image.size if isinstance(image, JpegImageFile) else None
    box = draft(image, side)
    divisor = 1 if box is None or size is None else _divisor(size, side)
    image.load()
    orientation = exif_orientation(image)
    if orientation == 1 and image.mode in _PLAIN_MODES and image.format != "JPEG2000":
        return Picture(image, box, size, divisor)
    pixels = to_rgb(image, name)
    if image.format == "JPEG2000":
        pixels = widen_levels(pixels, jpeg2000_bits(file))
    return Picture(turn_upright(pixels, orientation), _turned(box, image.size, orientation), size, divisor)


def _turned(box: Box | None, size: tuple[int, int], orientation: int) -> Box | None:
    """Return the box of an image of this size after `turn_upright`."""
    if box is None:
        return None
    (left, upper, right, lower), (width, height) = box, size
    if orientation >= 5:
        left, upper, right, lower, width, height = upper, left, lower, right, height, width
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        upper, lower = height - lower, height - upper
    return left, upper, right, lower
