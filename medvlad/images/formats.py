"""File formats of images, and the file name endings that belong to them."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from PIL import features

from medvlad.images.dicom import DICOM_SUFFIXES
from medvlad.images.nifti import NIFTI_SUFFIXES

__all__ = [
    "FORMATS_IN_WORDS",
    "IMAGE_SUFFIXES",
    "NO_ENDING",
    "PILLOW_FORMATS",
    "UNREAD_SUFFIXES",
    "ending_of",
    "is_image_name",
    "is_picture_name",
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


def is_picture_name(name: str) -> bool:
    """Return whether a name ends as that of a picture that is one image. A TIFF may hold several."""
    return name.lower().endswith(tuple(IMAGE_SUFFIXES - {".tif", ".tiff"}))


NO_ENDING = "no ending"
"""What :func:`ending_of` returns for "IM_0001" and "1.2.840.17"."""

_UNREAD = {
    "photographs and drawings": """
        .heic .heif .jxl .jpc .jpf .jph .jls .jxr .wdp .apng .pbm .pnm .pam .pfm
        .tga .pcx .ico .dds .exr .psd .xcf .svg .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf
    """,
    "volumes": """
        .img .ima .mha .mhd .mgz .mgh .nrrd .nhdr .mnc .rec .fits .fit .fts .img.gz .dcm.gz .nii.bz2 .nii.xz
        .nii.zst
    """,
    "microscopes and slides": """
        .svs .ndpi .scn .mrxs .vms .vmu .bif .svslide .czi .lif .lsm .nd2 .oib .oif .vsi .stk .ims
    """,
    "videos": ".mp4 .avi .mov .mkv .mpg .mpeg .wmv .webm",
}

UNREAD_SUFFIXES = frozenset(chain.from_iterable(endings.split() for endings in _UNREAD.values()))
"""Endings, in lower case, of images that are not read. A file with DICOM content is read anyway."""

_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")


def ending_of(name: str) -> str:
    """Return the ending of a file name in lower case: ".png", ".nii.gz", or `NO_ENDING`."""
    path = Path(name.lower())
    ending = path.suffix
    if ending in _COMPRESSIONS:
        ending = Path(path.stem).suffix + ending
    return ending if ending.strip(".0123456789") else NO_ENDING
