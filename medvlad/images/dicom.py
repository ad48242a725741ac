"""Read one frame of a DICOM file (extra medical), and what a listing needs to know of the file.

:mod:`medvlad.images.dicom_levels` describes how stored numbers become grey levels. Colour of 8 bits is not
changed.
"""

from __future__ import annotations

import logging
import math
import os
import re
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, import_extra, one_line
from medvlad.images.dicom_identity import IDENTITY_TAGS, DicomIdentity, identity_of, raw_text
from medvlad.images.dicom_levels import to_eight_bits
from medvlad.images.frames import check_frame, max_frames, too_many_frames

__all__ = [
    "DICOM_SUFFIXES",
    "DicomFacts",
    "count_dicom",
    "dicom_facts",
    "is_dicom",
    "is_dicom_file",
    "quiet_pydicom",
    "read_dicom",
]

DICOM_SUFFIXES = (".dcm", ".dicom")

_FRAME_TAGS = ("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated")

# Kinds of files with pixels whose names do not say so.
_IMAGES_BY_OTHER_NAMES = ("Segmentation Storage", "RT Dose Storage", "Parametric Map Storage")

_PREAMBLE = 128
_MAGIC = b"DICM"
# The package that decodes the compressions for which pydicom has no decoder.
_PLUGINS = "python-gdcm"

_MAX_INFLATED = 512 << 20  # bytes of a deflated file, which pydicom inflates as a whole
_PIECE = 1 << 20  # bytes read at a time


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM by its name or by its first bytes."""
    if not path.is_file():  # opening a named pipe would block
        return False
    if path.name.lower().endswith(DICOM_SUFFIXES):
        return True
    try:
        with path.open("rb") as file:
            return is_dicom_file(path, file)
    except OSError:
        return False


def is_dicom_file(path: Path, file: BinaryIO) -> bool:
    """Return what `is_dicom` returns, for an open file. Its position is then the beginning."""
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
    """Refuse a deflated file that would fill the memory: pydicom inflates it as a whole.

    Raises
    ------
    ValueError
    """
    file.seek(0)
    pydicom.filereader.read_preamble(file, force=True)
    # Read up to the first element outside group 2, because the stated length of the group may be wrong.
    meta = pydicom.filereader.read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    syntax = meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_deflated:
        return
    inflater, n_bytes = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while packed := inflater.unconsumed_tail or file.read(_PIECE):
        n_bytes += len(inflater.decompress(packed, _PIECE))
        if n_bytes > _MAX_INFLATED:
            raise ValueError(f"more than {_MAX_INFLATED} bytes after decompression")
        if inflater.eof:
            return


def count_dicom(path: Path) -> int:
    """Return the number of frames of a DICOM file.

    Raises
    ------
    ValueError
        If the header claims more frames than the file has room for.
    InputError
        If it exceeds :func:`medvlad.images.frames.max_frames`.
    MissingExtraError
        If pydicom is not installed.
    """
    with path.open("rb") as file:
        return _n_frames(_header(file, tags=list(_FRAME_TAGS)), file, path)


def _n_frames(header: Any, file: BinaryIO, path: Path) -> int:
    n_frames = max(1, int(header.get("NumberOfFrames") or 1))
    syntax = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
    bits = 64  # each compressed frame has a header of 8 bytes
    if syntax is not None and not (syntax.is_compressed or syntax.is_deflated):
        sizes = (("Rows", 1), ("Columns", 1), ("SamplesPerPixel", 1), ("BitsAllocated", 1))
        bits = math.prod(int(header.get(name) or least) for name, least in sizes)
    if n_frames > 1 and n_frames * bits > 8 * file.seek(0, os.SEEK_END):
        raise ValueError(f"NumberOfFrames is {n_frames}, more than the file has room for")
    if n_frames > max_frames():
        raise too_many_frames(str(path))
    return n_frames


@dataclass(frozen=True)
class DicomFacts:
    """What a listing needs to know of a DICOM file.

    Attributes
    ----------
    n_frames : int
        Number of images. 1 also if it cannot be told, so that reading reports the reason.
    has_image : bool
        False: the file holds something else, such as a report, a PDF or a directory of files (DICOMDIR).
    identity : DicomIdentity or None
        Digests of the patient and the study. None: the header is damaged.
    """

    n_frames: int
    has_image: bool
    identity: DicomIdentity | None


def dicom_facts(file: BinaryIO, path: Path) -> DicomFacts:
    """Return number of frames and identity of an open DICOM file, whose header is read once.

    Raises
    ------
    MissingExtraError
        If pydicom is not installed.
    """
    try:
        header = _header(file, tags=[*_FRAME_TAGS, *IDENTITY_TAGS, "SOPClassUID"])
    except ImportError:
        raise
    except Exception:  # damaged files make pydicom raise almost anything; reading the pixels reports it
        return DicomFacts(1, True, None)
    try:
        n_frames, has_image = _n_frames(header, file, path), _has_image(header)
    except Exception:
        n_frames, has_image = 1, True
    try:
        identity = identity_of(header)
    except Exception:
        identity = None
    return DicomFacts(n_frames, has_image, identity)


def _has_image(header: Any) -> bool:
    """Return whether a header describes an image. If it ends too early, or its kind is not known, it may."""
    if "Rows" in header or "Columns" in header:
        return True
    kind = raw_text(header, "SOPClassUID") or raw_text(header.file_meta, "MediaStorageSOPClassUID")
    name = _pydicom().uid.UID(kind).name
    return name == kind or "Image" in name or name in _IMAGES_BY_OTHER_NAMES


def read_dicom(
    file: BinaryIO, path: Path, frame: int | None, name: str, *, max_pixels: int | None
) -> NDArray[np.uint8]:
    """Read one frame of a DICOM file.

    Parameters
    ----------
    file : binary file
        The open file.
    path : Path
        Its path, for errors.
    frame : int or None
        Number of the frame, from 0. None: the only frame.
    name : str
        How errors name the image.
    max_pixels : int or None
        Larger frames are refused before anything is decoded. None: no limit.

    Returns
    -------
    ndarray of shape (H, W) or (H, W, 3), uint8

    Raises
    ------
    InputError
        If the file holds no image, is damaged or too large, does not hold the frame, holds several frames and
        `frame` is None, or needs a decoder that is not installed.
    MissingExtraError
        If pydicom is not installed.
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
        raise InputError(f"{name} is DICOM without an image: remove it")
    check_frame(frame, n_frames, name)
    if max_pixels is not None and size[0] * size[1] > max_pixels:
        raise InputError(
            f"{name} has more pixels than are safe to decode ({size[0]} x {size[1]}): reduce it, or "
            "raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        )
    index = frame or 0
    syntax = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
    try:
        # In a deflated file pydicom cannot seek to a frame, so the whole data set is read first.
        file.seek(0)
        source = pydicom.dcmread(file) if syntax is not None and syntax.is_deflated else file
        pixels = pydicom.pixels.pixel_array(source, index=index)
    except (RuntimeError, NotImplementedError) as error:
        if syntax is None or not syntax.is_compressed:
            raise _damaged(name, error) from error
        raise InputError(
            f"{name} is compressed as {syntax.name}; no installed decoder can read it, or it is damaged: "
            f"pip install {_PLUGINS}, or convert it"
        ) from error
    except Exception as error:
        raise _damaged(name, error) from error
    try:
        return to_eight_bits(pydicom, header, pixels, index, name)
    except InputError:
        raise
    except Exception as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: BaseException) -> InputError:
    # Quoted text comes from the file and may be a name or an identifier. Drop it and all that follows.
    reason = re.split("['\"]", one_line(error))[0][:200].rstrip(" :(") or type(error).__name__
    return InputError(f"{name} is damaged, or not DICOM ({reason}): copy it again or remove it")


def quiet_pydicom() -> None:
    """Silence pydicom's warnings and log: they quote headers, and with them identifiers of patients."""
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    log = logging.getLogger("pydicom")  # pydicom sets its level on import, so a level set here would not last
    log.propagate = False
    if not log.handlers:  # a worker calls this once for each job
        log.addHandler(logging.NullHandler())
