"""What the header of a compressed picture inside DICOM says about itself: JPEG, JPEG-LS, JPEG 2000 and RLE.

The elements of a DICOM file describe the compressed picture a second time, and may contradict it. The
compressed picture is right then (DICOM PS3.5, 8.2): nothing can be decoded by another description.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

__all__ = ["Stream", "describe"]

Kind = Literal["JPEG", "JPEG Lossless", "JPEG-LS", "JPEG 2000", "RLE"]

_SOI, _SOC = b"\xff\xd8", b"\xff\x4f"
_JP2 = b"\0\0\0\x0cjP  "
_RGB_IDS = ((82, 71, 66), (114, 103, 98))  # the letters RGB and rgb, as IDs of components


@dataclass(frozen=True)
class Stream:
    """A compressed picture.

    Attributes
    ----------
    kind : {"JPEG", "JPEG Lossless", "JPEG-LS", "JPEG 2000", "RLE"}
    rows, columns, components : int
        0: RLE, which does not say.
    precision : int
        Bits of a number. 0: RLE.
    signed : bool
    colour : {"RGB", "YBR", ""}
        Colour that a decoder without conversion of colours gives. Empty: the picture does not say.
    assumed : {"RGB", "YBR"}
        Colour that libjpeg takes the components for.
    high_throughput : bool
        JPEG 2000 of part 15.
    segments : int
        Number of RLE's segments: one for each byte of a pixel.
    """

    kind: Kind
    rows: int = 0
    columns: int = 0
    components: int = 0
    precision: int = 0
    signed: bool = False
    colour: str = ""
    assumed: str = "YBR"
    high_throughput: bool = False
    segments: int = 0


def describe(frame: bytes) -> Stream | None:
    """Return what a compressed frame says about itself. None: it is of no known kind, or damaged.

    Parameters
    ----------
    frame : bytes
        The frame, or its first bytes up to the picture's data.
    """
    try:
        if frame[:2] == _SOI:
            return _jpeg(frame)
        if frame[: len(_JP2)] == _JP2:
            start = _codestream(frame)
            return _jpeg_2000(frame[start:])
        if frame[:2] == _SOC:
            return _jpeg_2000(frame)
    except (struct.error, IndexError):
        return None
    if len(frame) > 64:
        n_segments, first = struct.unpack_from("<II", frame)
        if 1 <= n_segments <= 15 and first == 64:
            return Stream("RLE", segments=n_segments)
    return None


def _jpeg(frame: bytes) -> Stream | None:
    at, is_jfif, adobe = 2, False, None
    while True:
        while frame[at + 1] == 0xFF:  # markers may be filled up with FF
            at += 1
        if frame[at] != 0xFF:
            return None
        marker, length = frame[at + 1], struct.unpack_from(">H", frame, at + 2)[0]
        content = frame[at + 4 : at + 2 + length]
        if marker == 0xE0 and content[:4] == b"JFIF":
            is_jfif = True
        elif marker == 0xEE and content[:5] == b"Adobe" and len(content) >= 12:
            adobe = content[11]
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            break
        at += 2 + length
    precision, rows, columns, n = struct.unpack_from(">BHHB", content)
    ids = tuple(content[6 : 6 + 3 * n : 3])
    sampling = tuple(content[7 : 6 + 3 * n : 3])
    kind: Kind = "JPEG-LS" if marker == 0xF7 else "JPEG Lossless" if marker in (0xC3, 0xCB) else "JPEG"
    # libjpeg takes JFIF for the strongest sign, then Adobe's marker, then the IDs in capital letters.
    assumed = "RGB" if not is_jfif and (adobe == 0 or (adobe is None and ids == _RGB_IDS[0])) else "YBR"
    colour = ""
    if ids in _RGB_IDS:
        colour = "RGB"
    elif is_jfif:
        colour = "YBR"
    elif adobe is not None:
        colour = "RGB" if adobe == 0 else "YBR"
    elif len(set(sampling)) > 1:  # only colour differences are stored at a lower resolution
        colour = "YBR"
    return Stream(kind, rows, columns, n, precision, colour=colour if n == 3 else "", assumed=assumed)


def _codestream(frame: bytes) -> int:
    """Return where the code stream begins in a JP2 file, as some writers put into DICOM."""
    at = 12
    while True:
        length, box = struct.unpack_from(">I4s", frame, at)
        if box == b"jp2c":
            return at + (16 if length == 1 else 8)
        at += max(length, 8)


def _jpeg_2000(frame: bytes) -> Stream | None:
    marker, length, _, x1, y1, x0, y0 = struct.unpack_from(">HHHIIII", frame, 2)
    n_components, depth = struct.unpack_from(">HB", frame, 40)
    if marker != 0xFF51:
        return None
    transformed, high_throughput, at = False, False, 4 + length
    while frame[at] == 0xFF and frame[at + 1] != 0x90:  # up to the first tile
        if frame[at + 1] == 0x52:
            transformed = frame[at + 8] == 1
        high_throughput |= frame[at + 1] == 0x50
        at += 2 + struct.unpack_from(">H", frame, at + 2)[0]
    return Stream(
        "JPEG 2000",
        y1 - y0,
        x1 - x0,
        n_components,
        (depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
        colour="RGB" if transformed and n_components == 3 else "",
        high_throughput=high_throughput,
    )
