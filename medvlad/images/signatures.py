"""Recognise the format of an image by the first bytes of its file."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

__all__ = ["SIGNATURE_BYTES", "image_kind", "unusual_jpeg"]

SIGNATURE_BYTES = 32
"""Number of bytes, from the beginning of a file, that `image_kind` looks at."""

_BEGINNINGS = (
    (b"\xff\xd8\xff\xf7", "JPEG-LS"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    # Pillow also accepts the version number in the wrong byte order.
    *((order + version, "TIFF") for order in (b"II", b"MM") for version in (b"*\0", b"\0*", b"+\0", b"\0+")),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"II\xbc", "JPEG XR"),
    (b"8BPS", "Photoshop"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"SIMPLE  =", "FITS"),
    (b"NRRD000", "NRRD"),
    (b"ObjectType", "MetaImage"),
    (b"%PDF-", "PDF"),
    (b"BM", "BMP"),
)
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers that describe the pixels
_JPEG_LOSSLESS = frozenset((0xC3, 0xC7, 0xCB, 0xCF))
_JPEG_LS_FRAME = 0xF7
_JPEG_SCAN = 0xDA
_PPM_KINDS = b"123456fF"


def image_kind(beginning: bytes) -> str | None:
    """Return the format of an image.

    Parameters
    ----------
    beginning : bytes
        The first `SIGNATURE_BYTES` bytes of a file, or the whole of a shorter file.

    Returns
    -------
    str or None
        Such as "JPEG", "TIFF" or "AVIF". None: the format is unknown, or is DICOM or NIfTI, which have no
        such signature.
    """
    if beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP":
        return "WEBP"
    if beginning[4:8] == b"ftyp":
        # The main brand, then compatible brands behind four bytes of version.
        brands = {beginning[8:12]} | {beginning[at : at + 4] for at in range(16, len(beginning), 4)}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIC" if brands & _HEIF_BRANDS else None
    if beginning[:1] == b"P" and beginning[1:2] in _PPM_KINDS and beginning[2:3].isspace():
        return "PPM"
    return next((kind for start, kind in _BEGINNINGS if beginning.startswith(start)), None)


def unusual_jpeg(file: BinaryIO) -> str | None:
    """Say what is unusual about a JPEG that Pillow does not recognise.

    Returns
    -------
    str or None
        Such as "a JPEG of 12 bits a channel". None: nothing; the file is damaged.
    """
    file.seek(2)
    while len(head := file.read(4)) == 4 and head[0] == 0xFF and head[1] != _JPEG_SCAN:
        marker, length = head[1], struct.unpack(">H", head[2:])[0]
        if marker == _JPEG_LS_FRAME:
            return "JPEG-LS"
        if marker in _JPEG_FRAMES:
            bits = file.read(1)[:1] or b"\x08"
            if bits != b"\x08":
                return f"a JPEG of {bits[0]} bits a channel"
            return "a lossless JPEG" if marker in _JPEG_LOSSLESS else None
        file.seek(length - 2, os.SEEK_CUR)
    return None
