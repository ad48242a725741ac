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

from medvlad._util.validate import InputError, one_line
from medvlad.images.formats import PILLOW_FORMATS
from medvlad.images.signatures import SIGNATURE_BYTES, image_kind
from medvlad.images.tiff_pages import find_tiff_image, with_first_page
from medvlad.images.to_rgb import exif_orientation, turn_upright

__all__ = ["COLOUR_PROFILES", "to_srgb"]

COLOUR_PROFILES = ("ignore", "srgb")
"""What may be done with an ICC profile."""

_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def to_srgb(file: BinaryIO, frame: int | None, pixels: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
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
            opened = with_first_page(file, find_tiff_image(file, frame, name).page)
        else:
            opened = file
        file.seek(0)
        with Image.open(opened, formats=PILLOW_FORMATS) as image:
            profile = image.info.get("icc_profile")
            if not profile or not _has_eight_bits(image):
                return pixels
            return _converted(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), pixels)
    except UnidentifiedImageError:  # DICOM, NIfTI, or a TIFF that Pillow does not read
        return pixels
    except (OSError, ValueError, ImageCms.PyCMSError) as error:
        raise InputError(
            f"{name} has a colour profile that cannot be used ({one_line(error)}): remove the profile, or "
            "read the image with colour_profile='ignore'"
        ) from error


def _converted(
    image: Image.Image, profile: ImageCms.ImageCmsProfile, pixels: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    space = _SPACES.get(profile.profile.xcolor_space)
    if space is None or (space == "CMYK") != (image.mode == "CMYK"):
        raise ValueError(f"it is for {profile.profile.xcolor_space.strip()}, the image is {image.mode}")
    if space == "CMYK":  # `pixels` were made from CMYK without the profile
        image.load()
        source = Image.fromarray(turn_upright(np.asarray(image), exif_orientation(image)), "CMYK")
    else:
        source = Image.fromarray(pixels).convert(space)
    done: Any = ImageCms.profileToProfile(source, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return np.array(done)


def _has_eight_bits(image: Image.Image) -> bool:
    if image.mode.startswith(("I", "F")):
        return False
    if image.format == "TIFF":
        bits: Any = image.tag_v2.get(258, 1)  # type: ignore[attr-defined]
        return int(max(bits)) <= 8 if isinstance(bits, tuple) else int(bits) <= 8
    return not any(";16" in str(part[3]) for part in getattr(image, "tile", ()))
