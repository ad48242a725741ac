"""Open a DICOM file: which encoding its bytes have, its header, and where its pixels lie (extra medical).

A data set is written in one of three encodings: implicit VR, explicit VR, or explicit VR in big endian. The
file meta information names the encoding, but archives and scanners also write files without it, or with a
wrong byte order. So the elements at the beginning are followed in each encoding. Their tags must ascend,
their types must exist, and their lengths must stay inside the file. Only one encoding can pass these tests.
If none passes, the file is refused. Its encoding is never guessed.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

__all__ = ["DicomFile", "Encoding", "UnsupportedSyntaxError", "begins_like_dicom", "open_dicom", "raw_text"]

_PREAMBLE = 128
_MAGIC = b"DICM"

_MAX_INFLATED = 512 << 20  # bytes of a deflated file, which is inflated as a whole
_PIECE = 1 << 20  # bytes read at a time

_LONG_TYPES = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # with a length of 32 bits
_SHORT_TYPES = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_WORD_BYTES = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}  # types whose bytes depend on the byte order

_ENOUGH = 8  # elements that show an encoding
_LAST_FIRST_GROUP = 0x0028  # no data set with an image begins with a later group
_UNDEFINED = 0xFFFFFFFF
_PIXELS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}


class UnsupportedSyntaxError(ValueError):
    """A file names a transfer syntax that is private or unknown, so that its bytes could mean anything."""


@dataclass(frozen=True)
class Encoding:
    """How the elements of a data set are written."""

    implicit: bool
    little: bool


_ENCODINGS = (Encoding(False, True), Encoding(False, False), Encoding(True, True))


@dataclass
class DicomFile:
    """An open DICOM file.

    Attributes
    ----------
    header : pydicom.Dataset
        The elements before the pixels. Words in it are little-endian, and PhotometricInterpretation is in
        upper case, whatever the file has.
    syntax : pydicom.uid.UID or None
        Transfer syntax that the file names. None: it names none.
    encoding : Encoding
        Encoding of the data set.
    sop_class : pydicom.uid.UID or None
        Kind of object that the file holds. None: it does not say, or SOPClassUID was not read.
    file : binary file
        Holds the data set. It is in memory if the file is deflated.
    pixels_at : int or None
        Position of the pixels in `file`. None: there are none.
    n_bytes : int or None
        Length of the pixels. None: they are encapsulated, as compressed pixels are.
    keyword, value_type : str
        Name and type of the pixel element.
    """

    header: Any
    syntax: Any
    encoding: Encoding
    sop_class: Any
    file: BinaryIO
    pixels_at: int | None = None
    n_bytes: int | None = None
    keyword: str = ""
    value_type: str = "OW"


def begins_like_dicom(file: BinaryIO) -> bool:
    """Return whether the content of a file is DICOM, with or without file meta information.

    The position of the file is then its beginning.
    """
    file.seek(0)
    start = file.read(_PREAMBLE + len(_MAGIC))
    found = start[_PREAMBLE:] == _MAGIC or (len(start) > 8 and _shown_encoding(file, 0) is not None)
    file.seek(0)
    return found


def open_dicom(pydicom: ModuleType, file: BinaryIO, tags: list[str] | None = None) -> DicomFile:
    """Read the header of a DICOM file and find its pixels.

    Parameters
    ----------
    pydicom : module
        The module, which is an optional dependency.
    file : binary file
    tags : list of str, optional
        Keywords of the elements that are read. None: all.

    Raises
    ------
    UnsupportedSyntaxError
        If the file names a transfer syntax that is private or unknown.
    ValueError
        If the file does not name a transfer syntax, and its bytes do not show one. If a deflated file would
        fill the memory. Damaged files make pydicom raise almost anything.
    """
    reader = pydicom.filereader
    file.seek(0)
    reader.read_preamble(file, force=True)
    # Read up to the first element outside group 2, because the stated length of the group may be wrong.
    meta = reader.read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    syntax = _uid(pydicom, meta, "TransferSyntaxUID")
    if syntax is not None and (syntax.is_private or not syntax.is_transfer_syntax):
        raise UnsupportedSyntaxError("the transfer syntax is not supported")
    if syntax is not None and syntax.is_deflated:
        file = _inflated(file)
    reader.read_dataset(file, True, True, stop_when=lambda tag, *_: tag >> 16 != 0)  # a command set
    encoding = _encoding(file, syntax)
    wanted = None if tags is None else [pydicom.tag.Tag(tag) for tag in tags]
    header = reader.read_dataset(
        file,
        encoding.implicit,
        encoding.little,
        stop_when=lambda tag, *_: tag in _PIXELS,
        specific_tags=wanted,
    )
    encoding = Encoding(header.original_encoding[0], encoding.little)  # pydicom finds out about implicit VR
    if not encoding.little:
        _swap_words(header)
    _tidy_photometric(header)
    sop_class = _uid(pydicom, header, "SOPClassUID") or _uid(pydicom, meta, "MediaStorageSOPClassUID")
    return _with_pixels(DicomFile(header, syntax, encoding, sop_class, file))


def _encoding(file: BinaryIO, syntax: Any) -> Encoding:
    """Return the encoding of the data set that begins at the position of the file."""
    start = file.tell()
    named = None if syntax is None else Encoding(syntax.is_implicit_VR, syntax.is_little_endian)
    if named is not None and syntax.is_compressed:
        return named
    shown = _shown_encoding(file, start)
    file.seek(start)
    if named is not None and (shown is None or shown.little == named.little):
        return named
    if shown is None:
        raise ValueError("it names no transfer syntax, and its bytes show none")
    return shown


def _shown_encoding(file: BinaryIO, start: int) -> Encoding | None:
    """Return the encoding in which the elements from `start` on make sense. None: in none."""
    end = file.seek(0, os.SEEK_END)
    return next((encoding for encoding in _ENCODINGS if _makes_sense(file, start, end, encoding)), None)


def _makes_sense(file: BinaryIO, start: int, end: int, encoding: Encoding) -> bool:
    at, last, order = start, -1, "<" if encoding.little else ">"
    for n_read in range(1, _ENOUGH + 1):
        file.seek(at)
        head = file.read(12)
        if len(head) < 8:
            return n_read > 2 and at == end
        group, element = struct.unpack(f"{order}HH", head[:4])
        tag = group << 16 | element
        if tag <= last or (n_read == 1 and group > _LAST_FIRST_GROUP):
            return False
        if encoding.implicit:
            length, size = struct.unpack(f"{order}I", head[4:8])[0], 8
        elif head[4:6] in _SHORT_TYPES:
            length, size = struct.unpack(f"{order}H", head[6:8])[0], 8
        elif head[4:6] in _LONG_TYPES and head[6:8] == b"\0\0" and len(head) == 12:
            length, size = struct.unpack(f"{order}I", head[8:])[0], 12
        else:
            return False
        if length == _UNDEFINED or tag in _PIXELS:  # sequences are not followed
            return n_read > 1
        at, last = at + size + length, tag
        if at > end:
            return False
    return True


def _inflated(file: BinaryIO) -> BinaryIO:
    """Return what the rest of a file inflates to.

    Raises
    ------
    ValueError
        If it would fill the memory.
    """
    start, inflater, n_bytes = file.tell(), zlib.decompressobj(-zlib.MAX_WBITS), 0
    while not inflater.eof and (packed := inflater.unconsumed_tail or file.read(_PIECE)):
        n_bytes += len(inflater.decompress(packed, _PIECE))
        if n_bytes > _MAX_INFLATED:
            raise ValueError(f"more than {_MAX_INFLATED} bytes after decompression")
    file.seek(start)
    return io.BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read()))


def _swap_words(data: Any) -> None:
    """Make the words of a big-endian data set little-endian. pydicom leaves them as the file has them."""
    data.set_original_encoding(False, True)
    for tag in list(data.keys()):
        value_type = data.get_item(tag).VR
        size = _WORD_BYTES.get(value_type, 0)
        if value_type == "SQ":
            for item in data[tag].value:
                _swap_words(item)
        elif size and isinstance(value := data[tag].value, bytes) and len(value) % size == 0:
            data[tag].value = np.frombuffer(value, f"u{size}").byteswap().tobytes()


def _tidy_photometric(header: Any) -> None:
    """Write PhotometricInterpretation as the standard does: files have it in lower case or with blanks."""
    text = raw_text(header, "PhotometricInterpretation")
    if text:
        header.PhotometricInterpretation = text.upper().replace("PALETTE_COLOR", "PALETTE COLOR")


def _uid(pydicom: ModuleType, data: Any, keyword: str) -> Any:
    """Return a UID, or None."""
    text = raw_text(data, keyword)
    return pydicom.uid.UID(text) if text else None


def raw_text(data: Any, keyword: str) -> str:
    """Return the text of an element as it is stored: pydicom would quote an invalid one in a warning."""
    element = data.get_item(keyword)
    value = b"" if element is None else element.value or b""
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else str(value).strip()


def _with_pixels(opened: DicomFile) -> DicomFile:
    """Find the pixels behind the header."""
    file, order = opened.file, "<" if opened.encoding.little else ">"
    head = file.read(8)
    if len(head) < 8:
        return opened
    group, element = struct.unpack(f"{order}HH", head[:4])
    keyword = _PIXELS.get(group << 16 | element)
    if keyword is None:
        return opened
    length = head[4:]
    if not opened.encoding.implicit:
        opened.value_type = head[4:6].decode("ascii", "replace")
        length = file.read(4)
    n_bytes = struct.unpack(f"{order}I", length)[0]
    opened.keyword, opened.pixels_at = keyword, file.tell()
    opened.n_bytes = None if n_bytes == _UNDEFINED else n_bytes
    return opened
