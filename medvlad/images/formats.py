"""File formats of images, and the file name endings that belong to them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from medvlad.images.dicom import DICOM_SUFFIXES
from medvlad.images.nifti import NIFTI_SUFFIXES

__all__ = [
    "FORMATS_IN_WORDS",
    "IMAGE_SUFFIXES",
    "NO_ENDING",
    "PILLOW_FORMATS",
    "TIFF_SUFFIXES",
    "UNREAD_SUFFIXES",
    "PictureFormat",
    "ending_of",
    "is_image_name",
    "picture_format",
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


NO_ENDING = "no ending"
"""What :func:`ending_of` returns for "IM_0001" and "1.2.840.17"."""

_UNREAD = {
    "photographs and drawings": """
        .heic .heif .avif .jxl .jp2 .j2k .j2c .jpc .jpx .jpf .jph .jls .jxr .wdp .apng .pbm .pnm .pam .pfm
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


@dataclass(frozen=True)
class PictureFormat:
    """A format that the first bytes of a file tell.

    Attributes
    ----------
    name : str
    is_read : bool
        Whether this package reads it.
    """

    name: str
    is_read: bool


_MAGIC = (
    (b"\xff\xd8\xff", PictureFormat("JPEG", True)),
    (b"\x89PNG\r\n\x1a\n", PictureFormat("PNG", True)),
    (b"GIF87a", PictureFormat("GIF", True)),
    (b"GIF89a", PictureFormat("GIF", True)),
    *((mark, PictureFormat("TIFF", True)) for mark in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (b"\0\0\0\x0cjP  \r\n\x87\n", PictureFormat("JPEG 2000", False)),
    (b"\xff\x4f\xff\x51", PictureFormat("JPEG 2000", False)),
    (b"\0\0\0\x0cJXL ", PictureFormat("JPEG XL", False)),
)
_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"avif": "AVIF", b"avis": "AVIF"}


def picture_format(head: bytes) -> PictureFormat | None:
    """Return the format of a file that begins with `head`, at least 16 bytes. None: it is not known."""
    for mark, found in _MAGIC:
        if head.startswith(mark) and head[128:132] != b"DICM":  # a DICOM file may begin like a TIFF
            return found
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return PictureFormat("WebP", True)
    if head[4:8] == b"ftyp" and head[8:12] in _BRANDS:
        return PictureFormat(_BRANDS[head[8:12]], False)
    return None


def ending_of(name: str) -> str:
    """Return the ending of a file name in lower case: ".png", ".nii.gz", or `NO_ENDING`."""
    path = Path(name.lower())
    ending = path.suffix
    if ending in _COMPRESSIONS:
        ending = Path(path.stem).suffix + ending
    return ending if ending.strip(".0123456789") else NO_ENDING
