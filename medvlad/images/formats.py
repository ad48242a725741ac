"""File formats of images, and the file name endings that belong to them."""

from __future__ import annotations

from itertools import chain

from medvlad.images.dicom import DICOM_SUFFIXES
from medvlad.images.nifti import NIFTI_SUFFIXES

__all__ = [
    "FORMATS_IN_WORDS",
    "IMAGE_SUFFIXES",
    "PILLOW_FORMATS",
    "TIFF_SUFFIXES",
    "is_image_name",
]

# Only formats that are tested. Pillow would pass an EPS to Ghostscript
# and read the first slice of a FITS cube.
_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "PPM": (".pgm", ".ppm"),
}

PILLOW_FORMATS = tuple(_ENDINGS)
"""Formats that Pillow reads for this package, by Pillow's names."""

FORMATS_IN_WORDS = "JPEG, PNG, TIFF, BMP, GIF, WebP or PGM/PPM"

TIFF_SUFFIXES = _ENDINGS["TIFF"]

IMAGE_SUFFIXES = frozenset(chain.from_iterable(_ENDINGS.values()))
"""File name endings, in lower case, of images that need no extra."""


def is_image_name(name: str) -> bool:
    """Return whether a folder's file of this name is read as an image."""
    endings = (*IMAGE_SUFFIXES, *DICOM_SUFFIXES, *NIFTI_SUFFIXES)
    return name.lower().endswith(endings)
