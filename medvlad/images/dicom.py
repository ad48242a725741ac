"""Read one frame of a DICOM file (extra medical), and what a listing needs to know of the file.

:mod:`medvlad.images.dicom_file` opens the file, :mod:`medvlad.images.dicom_pixels` decodes the frame, and
:mod:`medvlad.images.dicom_levels` describes how stored numbers become grey levels. Colour of 8 bits is not
changed.
"""

from __future__ import annotations

import logging
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, import_extra, one_line
from medvlad.images.dicom_file import DicomFile, UnsupportedSyntaxError, begins_like_dicom, open_dicom
from medvlad.images.dicom_identity import IDENTITY_TAGS, DicomIdentity, identity_of
from medvlad.images.dicom_levels import to_eight_bits
from medvlad.images.dicom_pixels import count_frames, decode_frame, stated_frames
from medvlad.images.frames import check_frame, max_frames, too_many_frames
from medvlad.images.signatures import SIGNATURE_BYTES, image_kind

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

_log = logging.getLogger(__name__)

DICOM_SUFFIXES = (".dcm", ".dicom")

_FRAME_TAGS = ["NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated"]
_FRAME_TAGS += ["PhotometricInterpretation", "ExtendedOffsetTable"]
_IMAGE_TAGS = ["Rows", "Columns", "SOPClassUID", "DirectoryRecordSequence"]

#: Kinds of objects that hold no image, although they have Rows and Columns. A trailing dot: all that follow.
_NO_IMAGES = (
    "1.2.840.10008.5.1.4.1.1.66",  # Raw Data Storage
    "1.2.840.10008.5.1.4.1.1.4.2",  # MR Spectroscopy Storage
    "1.3.46.670589.11.0.0.12.",  # Philips: spectra, series and protocols of MR
    "1.3.12.2.1107.5.9.1",  # Siemens: CSA Non-Image Storage
)

# A quotation mark. The apostrophe of "aren't" is none.
_MARK = r"""(?:"|(?<![a-z]{2})'|'(?![st]\b))"""
_QUOTED = re.compile(rf"(?:\bb)?{_MARK}(?:.*{_MARK}|.*)")


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM: by its content, else by its name if no other format fits."""
    if not path.is_file():  # opening a named pipe would block
        return False
    try:
        with path.open("rb") as file:
            return is_dicom_file(path, file)
    except OSError:
        return path.name.lower().endswith(DICOM_SUFFIXES)


def is_dicom_file(path: Path, file: BinaryIO) -> bool:
    """Return what `is_dicom` returns, for an open file. Its position is then the beginning."""
    if begins_like_dicom(file):
        return True
    beginning = file.read(SIGNATURE_BYTES)
    file.seek(0)
    return path.name.lower().endswith(DICOM_SUFFIXES) and image_kind(beginning) is None


@dataclass(frozen=True)
class DicomFacts:
    """What a listing needs to know of a DICOM file.

    Attributes
    ----------
    n_frames : int
        Number of images. 1 also if it cannot be told, so that reading reports the reason.
    has_image : bool
        False: the file holds something else: a directory (DICOMDIR), a report, a PDF, a plan, a waveform.
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
    pydicom = _pydicom()
    try:
        opened = open_dicom(pydicom, file, [*_FRAME_TAGS, *_IMAGE_TAGS, *IDENTITY_TAGS])
    except Exception:  # damaged files make pydicom raise almost anything; reading the pixels reports it
        return DicomFacts(1, True, None)
    try:
        has_image = _has_image(opened)
        n_frames = _counted(pydicom, opened, path) if has_image else 0
    except Exception:
        n_frames, has_image = 1, True
    try:
        identity = identity_of(opened.header)
    except Exception:
        identity = None
    return DicomFacts(n_frames, has_image, identity)


def _has_image(opened: DicomFile) -> bool:
    """Return whether a file holds an image, or held one before its header was cut off."""
    header = opened.header
    if opened.pixels_at is not None:
        return True
    if opened.sop_class is not None and _holds_no_image(opened.sop_class):
        return False
    if header.get("Rows") and header.get("Columns"):
        return True
    if opened.sop_class is None:
        return "DirectoryRecordSequence" not in header
    name = opened.sop_class.name  # the UID itself if it is not known
    return name == opened.sop_class or "Image" in name


def _holds_no_image(sop_class: str) -> bool:
    return any(sop_class.startswith(kind) if kind.endswith(".") else sop_class == kind for kind in _NO_IMAGES)


def _pydicom() -> ModuleType:
    return import_extra("pydicom", "medical", "DICOM")


def count_dicom(path: Path) -> int:
    """Return the number of frames of a DICOM file. More frames than NumberOfFrames says are logged.

    Raises
    ------
    ValueError
        If the header claims more frames than the file has room for.
    InputError
        If it exceeds :func:`medvlad.images.frames.max_frames`.
    MissingExtraError
        If pydicom is not installed.
    """
    pydicom = _pydicom()
    with path.open("rb") as file:
        return _counted(pydicom, open_dicom(pydicom, file, _FRAME_TAGS), path)


def _counted(pydicom: ModuleType, opened: DicomFile, path: Path) -> int:
    """Return the number of frames, and log it if the header says less."""
    n_frames = _n_frames(pydicom, opened, path)
    stated = stated_frames(opened)
    if n_frames > stated:
        _log.warning(
            "%s holds %d frames, but its NumberOfFrames is %d: all of them are used", path, n_frames, stated
        )
    return n_frames


def _n_frames(pydicom: ModuleType, opened: DicomFile, path: Path) -> int:
    n_frames = count_frames(pydicom, opened, max_frames())
    if n_frames > max_frames():
        raise too_many_frames(str(path))
    return n_frames


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
        opened = open_dicom(pydicom, file)
        header = opened.header
        size = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
        # Counting takes long if a file has many frames, so it is left out for a frame that must exist.
        n_frames = stated_frames(opened)
        # pydicom finds a compressed frame only if it is told how many there are.
        if frame is None or n_frames == 1 or frame >= n_frames or opened.n_bytes is None:
            n_frames = _n_frames(pydicom, opened, path)
    except InputError:
        raise
    except UnsupportedSyntaxError as error:
        raise InputError(
            f"{name} is DICOM in a transfer syntax that is not supported, or its header is damaged: "
            "convert it, or copy it again"
        ) from error
    except Exception as error:
        raise _damaged(name, error) from error
    if not _has_image(opened):
        raise InputError(f"{name} is DICOM without an image: remove it")
    if 0 in size:
        raise _damaged(name, ValueError("Rows or Columns is missing"))
    check_frame(frame, n_frames, name)
    if max_pixels is not None and size[0] * size[1] > max_pixels:
        raise InputError(
            f"{name} has more pixels than are safe to decode ({size[0]} x {size[1]}): reduce it, or "
            "raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        )
    index = frame or 0
    try:
        pixels = decode_frame(pydicom, opened, index, n_frames, name)
        return to_eight_bits(pydicom, header, pixels, index, name)
    except InputError:
        raise
    except Exception as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: BaseException) -> InputError:
    # Quoted text comes from the file and may be a name or an identifier, with quotation marks inside. So
    # everything from the first mark to the last is dropped, and all that follows a single mark.
    reason = _QUOTED.sub("...", one_line(error))[:200].rstrip(" :(.") or type(error).__name__
    return InputError(f"{name} is damaged, or not DICOM ({reason}): copy it again or remove it")


def quiet_pydicom() -> None:
    """Silence pydicom's warnings and log: they quote headers, and with them identifiers of patients."""
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    log = logging.getLogger("pydicom")  # pydicom sets its level on import, so a level set here would not last
    log.propagate = False
    if not log.handlers:  # a worker calls this once for each job
        log.addHandler(logging.NullHandler())
