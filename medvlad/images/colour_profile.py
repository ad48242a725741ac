"""Convert the colours of an image from its own ICC profile to sRGB.

A file may hold an ICC profile, which says which colours its numbers stand for. The networks were trained on
sRGB, mostly without looking at profiles. The same numbers mean stronger colours in Display P3 or Adobe RGB:
conversion changes a channel by up to 105 and 135 levels. Scanners and endoscopes write profiles of their own.

The profile is ignored by default, as in the paper. Colour of more than 8 bits a channel is stretched, so a
profile says nothing about the result and is not used; nor are profiles in DICOM.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from medvlad._util.choices import ColourProfile, words_of
from medvlad._util.validate import InputError, one_line
from medvlad.images.deep_colour import has_deep_colour
from medvlad.images.formats import PILLOW_FORMATS
from medvlad.images.signatures import SIGNATURE_BYTES, image_kind
from medvlad.images.tiff_pages import find_tiff_image, with_first_page
from medvlad.images.to_rgb import exif_orientation, turn_upright

__all__ = ["COLOUR_PROFILES", "to_srgb"]

COLOUR_PROFILES = words_of(ColourProfile)
"""What may be done with an ICC profile."""

_PROFILE, _BITS, _INTERPRETATION = 34675, 258, 262  # tags of TIFF
_PHOTOMETRIC = {0: "L", 1: "L", 2: "RGB", 3: "RGB", 5: "CMYK", 6: "RGB"}
_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def to_srgb(
    file: BinaryIO, frame: int | None, pixels: NDArray[np.uint8], name: str, *, divisor: int = 1
) -> NDArray[np.uint8]:
    """Return the pixels of a file in sRGB.

    Parameters
    ----------
    file : binary file
        The open file.
    frame : int or None
        Number of the image in the file, from 0. None: the only image.
    pixels : ndarray of shape (H, W, 3), uint8
        The upright image as it was read.
    name : str
        How errors name the image.
    divisor : int, default=1
        The file has this many pixels for one of `pixels`, in each direction.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8
        `pixels` itself if the file has no profile, or more than 8 bits a channel.

    Raises
    ------
    InputError
        If the profile is damaged or is not one for this kind of image.
    """
    file.seek(0)
    try:
        if image_kind(file.read(SIGNATURE_BYTES)) == "TIFF":
            page = find_tiff_image(file, frame, name).page
            profile, shown = page.text(_PROFILE), with_first_page(file, page)
            eight_bits = max(page.numbers(_BITS), default=1) <= 8
            kind = _PHOTOMETRIC.get(page.number(_INTERPRETATION, 1))
            return _converted(shown, kind, profile, pixels) if eight_bits and profile else pixels
        file.seek(0)
        with Image.open(file, formats=PILLOW_FORMATS) as image:
            kind = None if image.mode.startswith(("I", "F")) or has_deep_colour(image, file) else image.mode
            profile = image.info.get("icc_profile", b"")
        return _converted(file, kind, profile, pixels, divisor) if profile else pixels
    except UnidentifiedImageError:  # DICOM or NIfTI
        return pixels
    except (OSError, ValueError, ImageCms.PyCMSError) as error:
        raise InputError(
            f"{name} has a colour profile that cannot be used ({one_line(error)}): remove the profile, or "
            "read the image with colour_profile='ignore'"
        ) from error


def _converted(
    file: BinaryIO, mode: str | None, content: bytes, pixels: NDArray[np.uint8], divisor: int = 1
) -> NDArray[np.uint8]:
    """Convert pixels by the profile `content`. None: the profile says nothing about these pixels."""
    if mode in (None, "LAB"):  # Lab was converted to sRGB when it was read
        return pixels
    profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
    space = _SPACES.get(profile.profile.xcolor_space)
    if space is None or (space == "CMYK") != (mode == "CMYK"):
        raise ValueError(f"it is for {profile.profile.xcolor_space.strip()}, the image is {mode}")
    if space == "CMYK":  # `pixels` were made from CMYK without the profile
        file.seek(0)
        with Image.open(file, formats=PILLOW_FORMATS) as image:
            image.draft(None, (image.width // divisor, image.height // divisor))
            image.load()
            numbers = turn_upright(np.asarray(image), exif_orientation(image))
        source = Image.fromarray(numbers, "CMYK")
    else:
        source = Image.fromarray(pixels).convert(space)
    done: Any = ImageCms.profileToProfile(source, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return np.array(done)
