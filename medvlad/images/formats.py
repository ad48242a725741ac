"""File formats of images, and the file name endings that belong to them."""

from __future__ import annotations

from itertools import chain

from PIL import features

from medvlad.images.dicom import DICOM_SUFFIXES
from medvlad.images.nifti import NIFTI_SUFFIXES

__all__ = [
    "FORMATS_IN_WORDS",
    "IMAGE_SUFFIXES",
    "PILLOW_FORMATS",
    "is_image_name",
    "unsupported",
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
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpx"),
    "AVIF": (".avif",),
}

PILLOW_FORMATS = tuple(_ENDINGS)
"""Formats that Pillow reads for this package, by Pillow's names."""

FORMATS_IN_WORDS = "JPEG, PNG, TIFF, BMP, GIF, WebP or PGM/PPM"

# Formats that not every build of Pillow reads: Pillow's name of the feature.
_FEATURES = {"JPEG 2000": "jpg_2000", "AVIF": "avif", "WEBP": "webp"}
# Formats that are recognised and not read, with what helps.
_ADVICE = {
    "HEIC": "convert it to JPEG or PNG, for example with heif-convert",
    "JPEG XL": "convert it to PNG, for example with djxl",
    "JPEG XR": "convert it to PNG or TIFF",
    "JPEG-LS": "convert it to PNG, or wrap it in DICOM",
    "Photoshop": "save it as PNG or TIFF",
    "OpenEXR": "convert it to a TIFF of floating-point numbers",
    "FITS": "convert it to a TIFF of floating-point numbers",
    "NRRD": "convert it to NIfTI",
    "MetaImage": "convert it to NIfTI",
    "PDF": "save its pictures as PNG",
}

IMAGE_SUFFIXES = frozenset(chain.from_iterable(_ENDINGS.values()))
"""File name endings, in lower case, of images that need no extra."""


def unsupported(kind: str | None) -> str | None:
    """Say why a format of :func:`medvlad.images.signatures.image_kind` is not read here, and what helps.

    None: it is read, or is not known.
    """
    if kind in _ADVICE:
        return f"is {kind}, which medvlad does not read: {_ADVICE[kind]}"
    if kind in _FEATURES and not features.check(_FEATURES[kind]):
        return (
            f"is {kind}, which this build of Pillow does not read: install a wheel of Pillow from PyPI "
            "(pip install --force-reinstall pillow), or convert it to PNG"
        )
    return None


def is_image_name(name: str) -> bool:
    """Return whether a folder's file of this name is read as an image."""
    endings = (*IMAGE_SUFFIXES, *DICOM_SUFFIXES, *NIFTI_SUFFIXES)
    return name.lower().endswith(endings)
