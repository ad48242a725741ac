"""Find damage that decoders pass over: JPEG data that cannot be what an encoder wrote.

JPEG has no checksum. libjpeg, and Pillow with it, decodes damaged data to the end and returns whatever came
out: shifted, in wrong colours, or grey from some row on. libjpeg counts warnings, which Pillow drops, and
which miss half of the damage.

So the Huffman codes are read a second time, by ``csrc/jpeg``. They must obey the rules of ITU-T T.81, which
`jpeg_damage` names. Checked are JPEG files, and the JPEG data inside TIFF and DICOM. This takes 25 to 40 %
of the time of decoding. docs/reliability.md says how much of the damage it finds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from medvlad._util.choices import OnDamage, words_of
from medvlad._util.validate import import_extra
from medvlad.images.dicom import is_dicom_file
from medvlad.images.dicom_file import open_dicom
from medvlad.images.dicom_pixels import count_frames, encapsulated_frame
from medvlad.images.frames import max_frames
from medvlad.images.tiff_pages import find_tiff_image

try:
    from medvlad.images._jpeg import damage as jpeg_damage
except ImportError:  # as for the native backend: a checkout that was not built works without it

    def jpeg_damage(data: bytes) -> str:
        """Return an empty text: the check was not built."""
        return ""


__all__ = ["ON_DAMAGE", "damage_sentence", "find_damage", "jpeg_damage"]

_MOST_SHARED = 16 << 20  # bytes of a TIFF that are read more than once

ON_DAMAGE = words_of(OnDamage)
"""What may be done with a damaged image of a data set."""

_JPEG = b"\xff\xd8\xff"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_COMPRESSION, _TABLES = 259, 347  # tags of TIFF
_PARTS = ((273, 279), (324, 325))  # offsets and sizes of strips, and of tiles
_JPEG_IN_TIFF = 7


def find_damage(file: BinaryIO, path: Path, frame: int | None) -> str:
    """Return what is wrong with the JPEG data of an image that has been decoded.

    Parameters
    ----------
    file : binary file
        The open file.
    path : Path
        Its path.
    frame : int or None
        Number of the image in the file, from 0. None: the only image.

    Returns
    -------
    str
        Empty if nothing was found, or if the image is not JPEG data.

    Notes
    -----
    Call this after the image was decoded: limits of size have been checked then.
    """
    file.seek(0)
    start = file.read(4)
    file.seek(0)
    if start.startswith(_JPEG):
        return jpeg_damage(file.read())
    try:
        if start in _TIFF:
            streams = _in_tiff(file, frame)
        elif is_dicom_file(path, file):
            streams = _in_dicom(file, frame or 0)
        else:
            return ""
        return next(filter(None, map(jpeg_damage, streams)), "")
    except Exception:  # the image was decoded in spite of it, so this says nothing about its pixels
        return ""


def damage_sentence(name: str, reason: str) -> str:
    """Return the sentence about a damaged image.

    Parameters
    ----------
    name : str
        How messages name the image.
    reason : str
        Result of `find_damage`.
    """
    return (
        f"{name} has damaged JPEG data ({reason}), so parts of it are probably wrong: copy it again or "
        "remove it"
    )


def _in_tiff(file: BinaryIO, frame: int | None) -> Iterator[bytes]:
    """Yield the JPEG data of each strip or tile of an image, with the tables that all of them share."""
    page = find_tiff_image(file, frame, "").page
    if page.number(_COMPRESSION, 1) != _JPEG_IN_TIFF:
        return
    tables = page.text(_TABLES)[:-2]  # without the end marker
    sizes_of_parts = [size for _, sizes in _PARTS for size in page.numbers(sizes)]
    # Strips may share tables and overlap, so the work can exceed the size of the file by far.
    if len(tables) * len(sizes_of_parts) + sum(sizes_of_parts) > file.seek(0, os.SEEK_END) + _MOST_SHARED:
        return
    for offsets, sizes in _PARTS:
        for offset, size in zip(page.numbers(offsets), page.numbers(sizes), strict=True):
            file.seek(offset)
            part = file.read(size)
            yield tables + part[2:] if tables else part


def _in_dicom(file: BinaryIO, frame: int) -> Iterator[bytes]:
    """Yield the JPEG data of a frame of a DICOM file."""
    pydicom = import_extra("pydicom", "medical", "DICOM")
    opened = open_dicom(pydicom, file)
    if opened.pixels_at is None or opened.n_bytes is not None:  # not compressed
        return
    n_frames = count_frames(pydicom, opened, max_frames())
    data = encapsulated_frame(pydicom, opened, frame, n_frames)
    if data.startswith(_JPEG):
        yield data
