"""DICOM: one frame of it as 8-bit pixels (extra medical).

One frame of grey (PS3.3 C.7.6.3, C.11.1, C.11.2)::

    stored bits --BitsStored, sign--> --modality LUT, or slope and intercept--> --VOI LUT, or window--> 0..255

    window of centre c and width w, LINEAR:        y = 255 ((x - (c - 0.5)) / (w - 1) + 0.5), from 0 to 255
                                    LINEAR_EXACT:  y = 255 ((x - c) / w + 0.5), from 0 to 255
                                    SIGMOID:       y = 255 / (1 + exp(-4 (x - c) / w))

The first window counts where there are several. Without one, the frame's own minimum and maximum become 0 and
255, as with other images of more than 8 bits; padding pixels do not count and become 0. MONOCHROME1 is
inverted at the end. Colour of 8 bits stays as it is.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import warnings
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, import_extra, one_line
from medvlad.images.frames import check_frame, max_frames, too_many_frames
from medvlad.images.grey_levels import rounded, stretch

__all__ = [
    "DICOM_SUFFIXES",
    "count_dicom",
    "is_dicom",
    "is_dicom_file",
    "patient_of",
    "quiet_pydicom",
    "read_dicom",
]

DICOM_SUFFIXES = (".dcm", ".dicom")

_PREAMBLE = 128
_MAGIC = b"DICM"
# pydicom has no reader of its own for these.
_PLUGINS = "python-gdcm"

_MAX_INFLATED = 512 << 20  # a deflated DICOM file is unpacked as a whole
_PIECE = 1 << 20


def is_dicom(path: Path) -> bool:
    """Whether a file says that it is DICOM, by its name or by its first bytes."""
    if not path.is_file():  # opening a named pipe would wait for ever
        return False
    if path.name.lower().endswith(DICOM_SUFFIXES):
        return True
    try:
        with path.open("rb") as file:
            return is_dicom_file(path, file)
    except OSError:
        return False


def is_dicom_file(path: Path, file: BinaryIO) -> bool:
    """As :func:`is_dicom`, of a file that is open; its position is then the beginning."""
    file.seek(0)
    magic = file.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:]
    file.seek(0)
    return magic == _MAGIC or path.name.lower().endswith(DICOM_SUFFIXES)


def _pydicom() -> ModuleType:
    return import_extra("pydicom", "medical", "DICOM")


def _header(file: BinaryIO, *, tags: list[str] | None = None) -> Any:
    pydicom = _pydicom()
    _check_inflated(pydicom, file)
    file.seek(0)
    return pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=tags)


def _check_inflated(pydicom: ModuleType, file: BinaryIO) -> None:
    """Refuse a deflated file that would fill the memory, of which pydicom inflates all to read any."""
    file.seek(0)
    pydicom.filereader.read_preamble(file, force=True)
    # Until the first element that is not of group 2; the group's length need not be right.
    meta = pydicom.filereader.read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    syntax = meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_deflated:
        return
    inflater, n_bytes = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while packed := inflater.unconsumed_tail or file.read(_PIECE):
        n_bytes += len(inflater.decompress(packed, _PIECE))
        if n_bytes > _MAX_INFLATED:
            raise ValueError(f"more than {_MAX_INFLATED} bytes once it is inflated")
        if inflater.eof:
            return


def count_dicom(path: Path) -> int:
    """How many images a DICOM file holds.

    Raises
    ------
    ValueError
        If its header names more than there is room for in the file.
    """
    tags = ["NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated"]
    with path.open("rb") as file:
        return _n_frames(_header(file, tags=tags), file, path)


def _n_frames(header: Any, file: BinaryIO, path: Path) -> int:
    n_frames = max(1, int(header.get("NumberOfFrames") or 1))
    syntax = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
    bits = 64  # each compressed frame has a head of 8 bytes
    if syntax is not None and not (syntax.is_compressed or syntax.is_deflated):
        sizes = (("Rows", 1), ("Columns", 1), ("SamplesPerPixel", 1), ("BitsAllocated", 1))
        bits = math.prod(int(header.get(name) or least) for name, least in sizes)
    if n_frames > 1 and n_frames * bits > 8 * file.seek(0, os.SEEK_END):
        raise ValueError(f"NumberOfFrames is {n_frames}, more than there is room for in the file")
    if n_frames > max_frames():
        raise too_many_frames(str(path))
    return n_frames


def patient_of(path: Path) -> str | None:
    """Return a digest that stands for a DICOM file's patient; None where it names nobody.

    The first 16 hexadecimal digits of the SHA-256 of PatientID and IssuerOfPatientID, or else of the study.
    It keeps identifiers out of sight, not secret: who can list all that an ID may be can find out which.
    """
    tags = ["PatientID", "IssuerOfPatientID", "StudyInstanceUID"]
    try:
        with path.open("rb") as file:
            header = _header(file, tags=tags)
        patient, issuer = (str(header.get(tag) or "").strip() for tag in tags[:2])
        # As it stands in the file: asked for its value, pydicom quotes an odd one in a warning and its log.
        study = _text(header.get_item(tags[2]))
    except Exception:  # what a damaged file makes pydicom raise has no end; reading its pixels will tell
        return None
    if not patient and not study:
        return None
    text = f"patient {patient} {issuer}" if patient else f"study {study}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _text(element: Any) -> str:
    """Text of an element that has not been looked at yet."""
    value = b"" if element is None else element.value or b""
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else str(value).strip()


def read_dicom(
    file: BinaryIO, path: Path, frame: int | None, name: str, *, max_pixels: int | None
) -> NDArray[np.uint8]:
    """Read one frame of a DICOM file.

    Parameters
    ----------
    file : binary file
    path : Path
        Where it is.
    frame : int or None
        Which one, from 0; None: the only one.
    name : str
        What errors call the image.
    max_pixels : int or None
        Larger frames are refused before anything is decoded.

    Returns
    -------
    ndarray of shape (H, W) or (H, W, 3), uint8

    Raises
    ------
    InputError
        If the file holds no image or several, is damaged or too large, or needs a decoder that is missing.
    """
    pydicom = _pydicom()
    try:
        header = _header(file)
        size = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
        n_frames = _n_frames(header, file, path)
    except InputError:
        raise
    except Exception as error:
        raise _damaged(name, error) from error
    if 0 in size:
        raise InputError(f"{name} is DICOM without an image in it: leave it out")
    check_frame(frame, n_frames, name)
    if max_pixels is not None and size[0] * size[1] > max_pixels:
        raise InputError(
            f"{name} has more pixels than are safe to decode ({size[0]} x {size[1]}): reduce it, or "
            "raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        )
    index = frame or 0
    syntax = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
    try:
        # A file that is deflated as a whole has no place where a frame begins.
        file.seek(0)
        source = pydicom.dcmread(file) if syntax is not None and syntax.is_deflated else file
        pixels = pydicom.pixels.pixel_array(source, index=index)
    except (RuntimeError, NotImplementedError) as error:
        if syntax is None or not syntax.is_compressed:
            raise _damaged(name, error) from error
        raise InputError(
            f"{name} is compressed as {syntax.name}, and what is installed cannot read it or it is damaged: "
            f"pip install {_PLUGINS}, or convert it"
        ) from error
    except Exception as error:
        raise _damaged(name, error) from error
    try:
        return _to_eight_bits(pydicom, header, pixels, index, name)
    except InputError:
        raise
    except Exception as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: BaseException) -> InputError:
    # What stands in quotes is from the file, and in a damaged one may be anything.
    reason = re.split("['\"]", one_line(error))[0][:200].rstrip(" :(") or type(error).__name__
    return InputError(f"{name} is damaged, or no DICOM ({reason}): copy it again or remove it")


def _to_eight_bits(
    pydicom: ModuleType, header: Any, pixels: NDArray[Any], index: int, name: str
) -> NDArray[np.uint8]:
    photometric = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
    if photometric == "PALETTE COLOR":
        pixels = pydicom.pixels.apply_color_lut(pixels, header)
        return (pixels >> (8 * pixels.itemsize - 8)).astype(np.uint8)
    if pixels.ndim == 3:
        return pixels if pixels.dtype == np.uint8 else stretch(pixels, name)
    stored = _as_stored(header, pixels)
    values = _apply_modality(pydicom, header, stored, index)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{name} holds NaN or infinite pixels: repair them")
    grey = _apply_voi(pydicom, header, values, index)
    if grey is None:
        padding = _padding(header, stored)
        if padding is None or padding.all():
            grey = stretch(values, name)
        else:
            grey = np.zeros(values.shape, np.uint8)
            grey[~padding] = stretch(values[~padding], name)
    return 255 - grey if photometric == "MONOCHROME1" else grey


def _as_stored(header: Any, pixels: NDArray[Any]) -> NDArray[Any]:
    """Drop what stands in bits above BitsStored, such as overlays, and extend the sign."""
    if pixels.dtype.kind == "f":
        return pixels
    bits, size = int(header.get("BitsStored") or 8 * pixels.itemsize), 8 * pixels.itemsize
    if not 0 < bits < size:
        return pixels
    # Shifted up to the top and back: the way back of a signed number brings its sign along.
    return (pixels << (size - bits)) >> (size - bits)


def _padding(header: Any, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where there is padding instead of an image."""
    value = header.get("PixelPaddingValue")
    if value is None or stored.dtype.kind == "f":
        return None
    limit = header.get("PixelPaddingRangeLimit")
    ends = sorted([int(value), int(value if limit is None else limit)])
    return (stored >= ends[0]) & (stored <= ends[1])


def _found(header: Any, index: int, group: str, tag: str) -> Any:
    """Return an element of the frame's own functional group, of all frames', or of the file."""
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for groups in ([frames[index]] if index < len(frames) else []) + list(shared[:1]):
        items = groups.get(group) or []
        if items and items[0].get(tag) is not None:
            return items[0].get(tag)
    return header.get(tag)


def _apply_modality(pydicom: ModuleType, header: Any, stored: NDArray[Any], index: int) -> NDArray[Any]:
    if header.get("ModalityLUTSequence"):
        values: NDArray[Any] = pydicom.pixels.apply_modality_lut(stored, header)
        return values
    slope = _found(header, index, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = _found(header, index, "PixelValueTransformationSequence", "RescaleIntercept")
    slope, intercept = (
        float(slope) if slope is not None else 1.0,
        float(intercept) if intercept is not None else 0.0,
    )
    return stored * slope + intercept if (slope, intercept) != (1.0, 0.0) else stored


def _apply_voi(
    pydicom: ModuleType, header: Any, values: NDArray[Any], index: int
) -> NDArray[np.uint8] | None:
    """Grey levels by the file's own lookup table or window; None where it has none."""
    tables = header.get("VOILUTSequence")
    # Rescaling leaves whole numbers as floating point.
    if tables and (values.dtype.kind in "iu" or (values == np.rint(values)).all()):
        looked_up = pydicom.pixels.apply_voi(values.astype(np.int64), header)
        top = (1 << int(tables[0].LUTDescriptor[2])) - 1
        return rounded(looked_up * (255.0 / top))
    center, width, function = (
        _found(header, index, "FrameVOILUTSequence", tag)
        for tag in ("WindowCenter", "WindowWidth", "VOILUTFunction")
    )
    center, width = _first(center), _first(width)
    function = str(function or "LINEAR").upper()
    if center is None or width is None or not (math.isfinite(center) and math.isfinite(width)):
        return None
    if width <= 0 or (function == "LINEAR" and width < 1):
        return None
    x = values.astype(np.float64)
    y: NDArray[Any]
    if function == "SIGMOID":
        y = 1 / (1 + np.exp(np.clip(-4 * (x - center) / width, -700, 700)))
    elif function == "LINEAR_EXACT":
        y = (x - center) / width + 0.5
    else:
        y = (x > center - 0.5) * 1.0 if width == 1 else (x - (center - 0.5)) / (width - 1) + 0.5
    return rounded(255 * y)


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value) if isinstance(value, int | float | str) else float(value[0])


def quiet_pydicom() -> None:
    """Show nothing of what pydicom finds odd in a header: it repeats what it finds, identifiers included."""
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    log = logging.getLogger("pydicom")  # which sets its level itself when it is imported
    log.propagate = False
    if not log.handlers:  # a worker does this for each of its jobs
        log.addHandler(logging.NullHandler())
