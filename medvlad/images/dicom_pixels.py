"""Count the frames of a DICOM file, and decode one of them to stored numbers or RGB (extra medical).

Pixels are decoded by what they are, if the header says something else:

- The kind, size, precision and sign of a compressed frame are those of its own header
  (:mod:`medvlad.images.dicom_stream`). So is its colour, if it tells.
- A number occupies the bits from HighBit - BitsStored + 1 to HighBit. If the other bits show that HighBit is
  wrong, it occupies the lowest BitsStored bits.
- A signed JPEG 2000 frame under a header of unsigned numbers, or the reverse, was written by a program that
  confused the two. Of the two readings, the one without jumps between neighbours is taken.
- Frames behind the last one that NumberOfFrames counts are frames as well.

Pillow decodes JPEG of 8 bits, pydicom RLE, and imagecodecs everything else.
"""

from __future__ import annotations

import io
import math
import os
import struct
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvlad._util.validate import InputError, MissingExtraError, import_extra
from medvlad.images.dicom_file import DicomFile
from medvlad.images.dicom_stream import Stream, describe

__all__ = ["count_frames", "decode_frame", "encapsulated_frame", "stated_frames"]

_ITEM = 0xFFFEE000
_HEADER_BYTES = 1 << 12  # of a compressed frame that are read to recognise it
_PLUGINS = {
    "JPEG": "pylibjpeg pylibjpeg-libjpeg",
    "JPEG Lossless": "pylibjpeg pylibjpeg-libjpeg",
    "JPEG-LS": "pylibjpeg pylibjpeg-libjpeg",
    "JPEG 2000": "pylibjpeg pylibjpeg-openjpeg",
}
_COLOURS = {"RGB": "RGB", "YBR_FULL": "YBR", "YBR_FULL_422": "YBR", "YBR_ICT": "RGB", "YBR_RCT": "RGB"}
_RETIRED = ("HSV", "ARGB", "CMYK", "YBR_PARTIAL_422", "YBR_PARTIAL_420")
_END_OF_IMAGE = b"\xff\xd9"


def stated_frames(opened: DicomFile) -> int:
    """Return NumberOfFrames, or 1.

    Raises
    ------
    ValueError
        If the file has no room for that many frames.
    """
    n_frames = max(1, int(opened.header.get("NumberOfFrames") or 1))
    bits = _frame_bits(opened) if opened.n_bytes is not None else 64  # an item has a header of 8 bytes
    if n_frames > 1 and n_frames * bits > 8 * opened.file.seek(0, os.SEEK_END):
        raise ValueError(f"NumberOfFrames is {n_frames}, more than the file has room for")
    return n_frames


def count_frames(pydicom: ModuleType, opened: DicomFile, limit: int) -> int:
    """Return the number of frames that a file holds, which is at least NumberOfFrames.

    Parameters
    ----------
    pydicom : module
    opened : DicomFile
    limit : int
        Counting stops above it.

    Raises
    ------
    ValueError
        If the file has no room for NumberOfFrames.
    """
    stated = stated_frames(opened)
    if opened.pixels_at is None or not (opened.header.get("Rows") and opened.header.get("Columns")):
        return stated
    if opened.n_bytes is None:
        return max(stated, _count_encapsulated(pydicom, opened, limit))
    if _photometric(opened) == "YBR_FULL_422":  # often, the pixels are not subsampled in truth
        return stated
    end = opened.file.seek(0, os.SEEK_END)
    return max(stated, 8 * min(opened.n_bytes, end - opened.pixels_at) // _frame_bits(opened))


def _frame_bits(opened: DicomFile) -> int:
    sizes = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
    bits = max(1, math.prod(int(opened.header.get(name) or 1) for name in sizes))
    return bits * 2 // 3 if _photometric(opened) == "YBR_FULL_422" else bits


def _count_encapsulated(pydicom: ModuleType, opened: DicomFile, limit: int) -> int:
    """Return the number of frames by the table of offsets, else by fragments that are a frame each."""
    file = opened.file
    file.seek(opened.pixels_at or 0)
    offsets = pydicom.encaps.parse_basic_offsets(file)
    if opened.header.get("ExtendedOffsetTable"):
        return len(opened.header.ExtendedOffsetTable) // 8
    if offsets:
        return len(offsets)
    n_frames = 0
    while n_frames <= limit:
        head = file.read(8)
        if len(head) < 8:
            return n_frames
        group, element, length = struct.unpack("<HHI", head)
        if group << 16 | element != _ITEM:
            return n_frames
        start = file.read(min(length, _HEADER_BYTES))
        if describe(start) is None:
            return 1  # a further piece of a frame
        file.seek(length - len(start), os.SEEK_CUR)
        n_frames += 1
    return n_frames


def decode_frame(
    pydicom: ModuleType, opened: DicomFile, index: int, n_frames: int, name: str
) -> NDArray[Any]:
    """Decode one frame.

    Parameters
    ----------
    pydicom : module
    opened : DicomFile
        PixelRepresentation in its header is set to the sign that the numbers have.
    index : int
        Number of the frame, from 0.
    n_frames : int
        Number of frames in the file.
    name : str
        How errors name the image.

    Returns
    -------
    ndarray of shape (H, W) or (H, W, 3)
        Stored numbers, or RGB. RGB of at most 8 bits is uint8.

    Raises
    ------
    InputError
        If no installed decoder can read it, if its colours are of a kind that is not supported, or if they
        are not subsampled although the header says so.
    Exception
        Of almost any type, if the file is damaged.
    """
    header = opened.header
    if opened.pixels_at is None:
        raise ValueError("the pixels are missing")
    colour = _COLOURS.get(_photometric(opened), "")
    if opened.n_bytes is not None:
        if (index + 1) * _frame_bits(opened) > 8 * opened.n_bytes:
            raise ValueError(f"its pixels have only {opened.n_bytes} bytes")
        _check_subsampling(opened, n_frames, name)
        cells, colour = _native(pydicom, opened, index, n_frames, colour)
        bits = int(header.get("BitsStored") or 8 * cells.itemsize)
    else:
        cells, stream = _encapsulated(pydicom, opened, index, n_frames, name)
        colour = stream.colour or colour
        bits = stream.precision or int(header.BitsStored)
    if cells.dtype.kind == "f":
        return cells
    if cells.ndim == 2:
        header.PixelRepresentation = int(cells.dtype.kind == "i")
        return cells
    if not colour:
        kind = _photometric(opened)
        known = kind if kind in _RETIRED else "in PhotometricInterpretation"  # other text may name a person
        raise InputError(f"{name} has colours of the kind {known}, which is not supported: convert it to RGB")
    stated = int(header.get("BitsStored") or bits)
    if stated < bits and int(cells.max()) < 1 << stated:  # whole cells were compressed
        bits = stated
    if bits > 8 and colour == "YBR":
        raise InputError(f"{name} has YBR colours of {bits} bits: convert it to RGB")
    if bits <= 8:
        cells = cells.astype(np.uint8)
    if colour == "YBR":
        cells = pydicom.pixels.convert_color_space(cells, "YBR_FULL", "RGB")
    return cells


def _check_subsampling(opened: DicomFile, n_frames: int, name: str) -> None:
    """Refuse YBR_FULL_422 of three numbers a pixel, as some programs leave it after decompression.

    The standard stores two numbers a pixel (PS3.3 C.7.6.3.1.2). The three may be RGB or YBR_FULL, which
    cannot be told apart. Four or more are frames that the header does not count.
    """
    n_bytes = opened.n_bytes or 0
    expected = _frame_bits(opened) * n_frames // 8
    if _photometric(opened) == "YBR_FULL_422" and 3 * expected <= 2 * n_bytes < 4 * expected:
        raise InputError(
            f"{name} has {n_bytes} bytes of pixels where YBR_FULL_422 has {expected}, so its pixels are not "
            "subsampled as YBR_FULL_422 says: write RGB or YBR_FULL into PhotometricInterpretation"
        )


def _photometric(opened: DicomFile) -> str:
    return str(opened.header.get("PhotometricInterpretation") or "")


def _native(
    pydicom: ModuleType, opened: DicomFile, index: int, n_frames: int, colour: str
) -> tuple[NDArray[Any], str]:
    """Return the stored numbers of a frame that is not compressed, and their colour."""
    if int(opened.header.get("BitsAllocated") or 0) == 1:
        return _bits(opened, index), colour
    uid = pydicom.uid
    syntax = uid.ExplicitVRLittleEndian if opened.encoding.little else uid.ExplicitVRBigEndian
    opened.file.seek(opened.pixels_at or 0)
    cells, properties = pydicom.pixels.get_decoder(syntax).as_array(
        opened.file,
        index=index,
        raw=True,
        correct_unused_bits=False,
        **_options(pydicom, opened, number_of_frames=n_frames, pixel_vr=opened.value_type),
    )
    if opened.keyword == "PixelData":
        cells = _stored(cells.astype(cells.dtype.newbyteorder("=")), opened.header)
    return cells, _COLOURS.get(str(properties["photometric_interpretation"]), "")


def _options(pydicom: ModuleType, opened: DicomFile, **others: Any) -> dict[str, Any]:
    return dict(pydicom.pixels.as_pixel_options(opened.header, pixel_keyword=opened.keyword, **others))


def _bits(opened: DicomFile, index: int) -> NDArray[np.uint8]:
    """Return a frame of one bit a pixel. It may begin inside a byte: there is no gap between frames."""
    rows, columns = int(opened.header.Rows), int(opened.header.Columns)
    first, swapped = index * rows * columns, opened.value_type == "OW" and not opened.encoding.little
    size = 16 if swapped else 8
    start, end = first // size, -(-(first + rows * columns) // size)
    opened.file.seek((opened.pixels_at or 0) + start * size // 8)
    packed = np.frombuffer(opened.file.read((end - start) * size // 8), np.uint8)
    if swapped:
        packed = packed.view(np.uint16).byteswap().view(np.uint8)
    bits = np.unpackbits(packed, bitorder="little")[first - start * size :][: rows * columns]
    return bits.reshape(rows, columns)


def _stored(cells: NDArray[Any], header: Any) -> NDArray[Any]:
    """Return the numbers in cells of BitsAllocated bits."""
    width = 8 * cells.itemsize
    bits = int(header.get("BitsStored") or width)
    top = int(header.get("HighBit") or 0)
    if not 1 <= bits <= width:
        raise ValueError(f"BitsStored is {bits}, of {width} bits")
    if not bits <= top < width or _is_low(cells, bits, top):
        top = bits - 1
    return (cells << (width - 1 - top)) >> (width - bits)


def _is_low(cells: NDArray[Any], bits: int, top: int) -> bool:
    """Return whether the numbers are in the lowest bits, although HighBit says that they are above."""
    used = int(np.bitwise_or.reduce(cells.view(f"u{cells.itemsize}"), axis=None))
    return used >> bits == 0 and used & ((1 << (top + 1 - bits)) - 1) != 0


def encapsulated_frame(pydicom: ModuleType, opened: DicomFile, index: int, n_frames: int) -> bytes:
    """Return the compressed data of a frame.

    Parameters
    ----------
    pydicom : module
    opened : DicomFile
        A file whose `n_bytes` is None.
    index : int
        Number of the frame, from 0.
    n_frames : int
        Result of `count_frames`.
    """
    header = opened.header
    opened.file.seek(opened.pixels_at or 0)
    extended = None
    if header.get("ExtendedOffsetTable") and header.get("ExtendedOffsetTableLengths"):
        extended = (header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths)
    frame: bytes = pydicom.encaps.get_frame(
        opened.file, index, number_of_frames=n_frames, extended_offsets=extended
    )
    return frame


def _encapsulated(
    pydicom: ModuleType, opened: DicomFile, index: int, n_frames: int, name: str
) -> tuple[NDArray[Any], Stream]:
    """Return the stored numbers of a compressed frame, and what the frame says about itself."""
    header, syntax = opened.header, opened.syntax
    if syntax in pydicom.uid.MPEGTransferSyntaxes:  # a film is in one piece, so its frames cannot be fetched
        raise InputError(f"{name} is compressed as {syntax.name}, which is not supported: decompress it")
    frame = encapsulated_frame(pydicom, opened, index, n_frames)
    stream = describe(frame)
    if stream is None:
        kind = "an unknown format" if syntax is None or not syntax.is_compressed else syntax.name
        raise InputError(
            f"{name} is compressed as {kind}, which is not supported, or it is damaged: decompress it"
        )
    if stream.kind == "RLE":
        return _stored(_by_pydicom(pydicom, opened, frame, stream), header), stream
    shape = (int(header.Rows), int(header.Columns))
    samples = int(header.get("SamplesPerPixel") or 1)
    if (stream.rows, stream.columns, stream.components) != (*shape, samples):
        raise ValueError(
            f"the header describes {shape[0]} x {shape[1]} x {samples} numbers, the compressed frame "
            f"{stream.rows} x {stream.columns} x {stream.components}"
        )
    cells = _decompressed(pydicom, opened, frame, stream, name)
    if cells.ndim == 3 and cells.shape[0] == samples != cells.shape[2]:
        cells = cells.transpose(1, 2, 0)  # JPEG-LS of one plane for each colour
    cells = cells.reshape(*shape, samples) if samples > 1 else cells.reshape(shape)
    return (_signed(cells, header, stream) if samples == 1 else cells), stream


def _signed(cells: NDArray[Any], header: Any, stream: Stream) -> NDArray[Any]:
    """Return the numbers of a compressed grey frame with their sign. Only JPEG 2000 stores a sign."""
    wants_sign = int(header.get("PixelRepresentation") or 0) == 1
    stored = int(header.get("BitsStored") or stream.precision)
    # Whole cells. Only lossy numbers may exceed BitsStored: those of JPEG, and unsigned ones of JPEG-LS.
    if stored < stream.precision and (
        stream.kind == "JPEG Lossless"
        or (stream.kind == "JPEG-LS" and wants_sign)
        or _has_overlay_above(header, stored)
    ):
        return _stored(cells.view(f"{'ui'[wants_sign]}{cells.itemsize}"), header)
    if stream.kind == "JPEG 2000":
        if stream.signed == wants_sign:
            return cells
        return min(cells, _reread(cells, stream.precision, signed=wants_sign), key=_jumps)
    return _reread(cells, stream.precision, signed=wants_sign)


def _has_overlay_above(header: Any, stored: int) -> bool:
    """Return whether a bit above the number is a pixel of an overlay, as old files store it."""
    positions = [header.get((group, 0x0102)) for group in range(0x6000, 0x6020, 2)]
    values = [None if position is None else position.value for position in positions]
    return any(isinstance(value, int) and value >= stored for value in values)


def _reread(cells: NDArray[Any], bits: int, *, signed: bool) -> NDArray[Any]:
    """Read the lowest bits of numbers as signed or unsigned numbers."""
    shift = 8 * cells.itemsize - bits
    kind = "i" if signed else "u"
    return (cells << shift).view(f"{kind}{cells.itemsize}") >> shift


def _jumps(values: NDArray[Any]) -> float:
    """Return the sum of the differences between neighbours."""
    values = values.astype(np.float64)
    return float(sum(np.abs(np.diff(values, axis=axis)).sum() for axis in (0, 1)))


def _decompressed(
    pydicom: ModuleType, opened: DicomFile, frame: bytes, stream: Stream, name: str
) -> NDArray[Any]:
    """Return the numbers of a frame without any conversion of colours."""
    if stream.kind == "JPEG" and stream.precision == 8:
        return _by_pillow(frame, stream)
    packages = _PLUGINS[stream.kind]
    try:
        return _by_imagecodecs(frame, stream)
    except MissingExtraError:
        packages = "'medvlad[medical]'"
    except Exception:  # another library may read it
        pass
    try:
        return _by_pydicom(pydicom, opened, frame, stream)
    except Exception as error:
        bits = f" of {stream.precision} bits" if stream.kind == "JPEG" else ""
        raise InputError(
            f"{name} is compressed as {stream.kind}{bits}; no installed decoder can read it, or it is "
            f"damaged: pip install {packages}, or convert it"
        ) from error


def _by_pillow(frame: bytes, stream: Stream) -> NDArray[Any]:
    with Image.open(io.BytesIO(frame), formats=("JPEG",)) as image:
        if stream.components == 3 and stream.assumed == "YBR":
            image.draft("YCbCr", image.size)  # leaves the components as they are
        return np.asarray(image)


def _by_imagecodecs(frame: bytes, stream: Stream) -> NDArray[Any]:
    imagecodecs = import_extra("imagecodecs", "medical", f"{stream.kind} in DICOM")
    if stream.kind == "JPEG 2000":
        return np.asarray(imagecodecs.jpeg2k_decode(frame))
    # libjpeg would make up the missing pixels, and CharLS was seen to search for them for ten seconds.
    if not frame.rstrip(b"\0\xff").endswith(_END_OF_IMAGE):
        raise ValueError("the end of the frame is missing")
    if stream.kind == "JPEG-LS":
        return np.asarray(imagecodecs.jpegls_decode(frame))
    colours = {"colorspace": "RGB", "outcolorspace": "RGB"} if stream.components == 3 else {}
    return np.asarray(imagecodecs.jpeg8_decode(frame, **colours))


def _by_pydicom(pydicom: ModuleType, opened: DicomFile, frame: bytes, stream: Stream) -> NDArray[Any]:
    """Decode with pydicom: RLE, and what its plugins can read."""
    uid, options = pydicom.uid, _options(pydicom, opened, number_of_frames=1)
    options.pop("extended_offsets", None)
    if stream.kind == "RLE":
        syntax = uid.RLELossless
        samples = int(opened.header.get("SamplesPerPixel") or 1)
        if stream.segments % samples == 0:
            options["bits_allocated"] = 8 * stream.segments // samples
    else:
        syntax = {
            "JPEG": uid.JPEGExtended12Bit,
            "JPEG Lossless": uid.JPEGLossless,
            "JPEG-LS": uid.JPEGLSNearLossless,
            "JPEG 2000": uid.HTJ2K if stream.high_throughput else uid.JPEG2000,
        }[stream.kind]
        options |= {
            "bits_stored": stream.precision,
            "bits_allocated": 8 if stream.precision <= 8 else 16 if stream.precision <= 16 else 32,
            "pixel_representation": int(stream.signed),
            "photometric_interpretation": "MONOCHROME2" if stream.components == 1 else "RGB",
            "planar_configuration": 0,
        }
    if syntax not in uid.JPEG2000TransferSyntaxes and syntax not in uid.JPEGLSTransferSyntaxes:
        options["correct_unused_bits"] = False
    cells, _ = pydicom.pixels.get_decoder(syntax).as_array(
        pydicom.encaps.encapsulate([frame]), index=0, raw=True, **options
    )
    return np.asarray(cells.astype(cells.dtype.newbyteorder("=")))
