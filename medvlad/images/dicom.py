"""Read one frame of a DICOM file (extra medical), and who its patient is.

:mod:`medvlad.images.dicom_file` opens the file, :mod:`medvlad.images.dicom_pixels` decodes the frame, and
:mod:`medvlad.images.dicom_levels` describes how stored numbers become grey levels. Colour of 8 bits is not
changed.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, import_extra, one_line
from medvlad.images.dicom_file import DicomFile, UnsupportedSyntaxError, begins_like_dicom, open_dicom
from medvlad.images.dicom_levels import to_eight_bits
from medvlad.images.dicom_pixels import count_frames, decode_frame, stated_frames
from medvlad.images.frames import check_frame, max_frames, too_many_frames
from medvlad.images.signatures import SIGNATURE_BYTES, image_kind

__all__ = [
    "DICOM_SUFFIXES",
    "count_dicom",
    "holds_an_image",
    "is_dicom",
    "is_dicom_file",
    "patient_of",
    "quiet_pydicom",
    "read_dicom",
]

_log = logging.getLogger(__name__)

DICOM_SUFFIXES = (".dcm", ".dicom")

_FRAME_TAGS = ["NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated"]
_FRAME_TAGS += ["PhotometricInterpretation", "ExtendedOffsetTable"]
_IMAGE_TAGS = ["Rows", "Columns", "SOPClassUID", "DirectoryRecordSequence"]


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


def holds_an_image(path: Path) -> bool:
    """Return whether a file may hold an image.

    Returns
    -------
    bool
        False only for a DICOM file of another kind: a directory (DICOMDIR), a report, a PDF, a plan, a
        waveform. True for a damaged file, so that reading it reports the reason.
    """
    if not path.is_file():
        return True
    try:
        with path.open("rb") as file:
            if not begins_like_dicom(file):
                return True
            return _has_image(open_dicom(_pydicom(), file, _IMAGE_TAGS))
    except Exception:  # damaged files make pydicom raise almost anything
        return True


def _has_image(opened: DicomFile) -> bool:
    """Return whether a file holds an image, or held one before its header was cut off."""
    header = opened.header
    if opened.pixels_at is not None or (header.get("Rows") and header.get("Columns")):
        return True
    if opened.sop_class is None:
        return "DirectoryRecordSequence" not in header
    name = opened.sop_class.name  # the UID itself if it is not known
    return name == opened.sop_class or "Image" in name


def _pydicom() -> ModuleType:
    return import_extra("pydicom", "medical", "DICOM")


def _header(file: BinaryIO, *, tags: list[str] | None = None) -> Any:
    return open_dicom(_pydicom(), file, tags).header


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
        opened = open_dicom(pydicom, file, _FRAME_TAGS)
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


def patient_of(path: Path) -> str | None:
    """Return a digest that identifies the patient of a DICOM file.

    The digest is the first 16 hexadecimal digits of the SHA-256 of PatientID and IssuerOfPatientID, or of
    StudyInstanceUID if there is no ID. It keeps identifiers out of sight, but it is not a secret: anyone who
    can list all possible IDs can find the one that fits.

    Returns
    -------
    str or None
        None: the file has neither ID nor study, or is damaged.

    Raises
    ------
    MissingExtraError
        If pydicom is not installed.
    """
    tags = ["PatientID", "IssuerOfPatientID", "StudyInstanceUID"]
    try:
        with path.open("rb") as file:
            header = _header(file, tags=tags)
        patient, issuer = (str(header.get(tag) or "").strip() for tag in tags[:2])
        # The raw element: pydicom would quote an invalid value in a warning and in its log.
        study = _text(header.get_item(tags[2]))
    except Exception:  # damaged files make pydicom raise almost anything; reading the pixels reports it
        return None
    if not patient and not study:
        return None
    text = f"patient {patient} {issuer}" if patient else f"study {study}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _text(element: Any) -> str:
    """Return the text of a raw element."""
    value = b"" if element is None else element.value or b""
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else str(value).strip()


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
        if frame is None or n_frames == 1 or frame >= n_frames:
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
    if 0 in size:
        if _has_image(opened):
            raise _damaged(name, ValueError("Rows or Columns is missing"))
        raise InputError(f"{name} is DICOM without an image: remove it")
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
