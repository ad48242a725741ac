"""Tell whether a file of a folder is an image, by its name and its first bytes.

==================================================  ========================================================
A file                                              is
==================================================  ========================================================
with DICOM content, whatever its ending             an image, or nothing if it is a report, PDF or DICOMDIR
with the ending of a readable format                an image; reading it reports what is wrong with it
with the content of a picture, without an ending    an image
with the ending of another image format             an unread image, counted under its ending
with the content of a picture, another ending       an unread image, counted under its format
anything else                                       no image
==================================================  ========================================================

The file is opened once. Only TIFF and NIfTI are opened again, to count their pages and slices. In object
storage a file with the ending of a picture of one page is not opened, and of others only the header is read.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from medvlad._util.object_path import ObjectPath, check_reached, failure_of
from medvlad.images.dicom import DicomFacts, dicom_facts, is_dicom_file
from medvlad.images.dicom_identity import DicomIdentity
from medvlad.images.formats import (
    NO_ENDING,
    UNREAD_SUFFIXES,
    ending_of,
    is_image_name,
    is_picture_name,
    unsupported,
)
from medvlad.images.frames import frame_name, warn_of_namesake
from medvlad.images.nifti import NIFTI_SUFFIXES
from medvlad.images.read import frames_of_file
from medvlad.images.signatures import SIGNATURE_BYTES, image_kind

__all__ = ["WITHOUT_IMAGE", "InspectedFile", "inspect_file"]

WITHOUT_IMAGE = "DICOM without an image"
"""Kind of a DICOM file that holds a report, a PDF, a directory or the like."""

_HEAD = 160  # bytes; DICOM has its magic after 128

#: Formats whose first bytes no text begins with by chance.
_SURE = frozenset(
    (
        "JPEG",
        "PNG",
        "GIF",
        "TIFF",
        "WEBP",
        "JPEG 2000",
        "AVIF",
        "HEIC",
        "JPEG-LS",
        "OpenEXR",
        "Photoshop",
        "NRRD",
    )
)


@dataclass(frozen=True)
class InspectedFile:
    """What a file of a folder is.

    Attributes
    ----------
    images : list of Path
        Its images. Empty: it is none that can be read.
    kind : str
        "DICOM", `WITHOUT_IMAGE`, "NIfTI" or the ending of an image, such as ".png". For an unread image:
        its ending or format. Empty: the file is not an image.
    identity : DicomIdentity or None
        Digests of the patient of a DICOM file.
    """

    images: list[Path]
    kind: str
    identity: DicomIdentity | None = None


def inspect_file(path: Path) -> InspectedFile:
    """Tell whether a file is an image.

    Parameters
    ----------
    path : Path
        Files that cannot be opened, and broken links, are judged by their names.

    Returns
    -------
    InspectedFile

    Raises
    ------
    MissingExtraError
        If the file is DICOM or NIfTI and the extra medical is not installed.
    InputError
        If it is an object and the storage fails. It may be an image, and must not be left out.
    """
    kind, facts = _opened_object(path) if isinstance(path, ObjectPath) else _opened(path)
    if facts is not None and not facts.has_image:
        return InspectedFile([], WITHOUT_IMAGE)
    if facts is not None:
        return InspectedFile(_numbered(path, facts.n_frames), "DICOM", facts.identity)
    ending, name = ending_of(path.name), path.name.lower()
    is_sure = kind in _SURE
    if kind is None and name.endswith(NIFTI_SUFFIXES):
        return InspectedFile(frames_of_file(path), "NIfTI")
    if is_image_name(name) or (is_sure and ending == NO_ENDING and unsupported(kind) is None):
        several = kind == "TIFF" or "#" in name
        return InspectedFile(frames_of_file(path) if several else [path], ending)
    if ending in UNREAD_SUFFIXES:
        return InspectedFile([], ending)
    return InspectedFile([], str(kind)) if is_sure else InspectedFile([], "")


def _opened(path: Path) -> tuple[str | None, DicomFacts | None]:
    """Return the format of a picture by its first bytes, and what its header says if the file is DICOM."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would block
            return None, None
        with path.open("rb") as file:
            return _identified(path, file)
    except OSError:
        return None, None


def _opened_object(path: ObjectPath) -> tuple[str | None, DicomFacts | None]:
    """Return what `_opened` does. Raise InputError if the storage fails."""
    if is_picture_name(path.name):
        return None, None
    try:
        with path.open_ranges() as file:
            found = _identified(path, file)
            check_reached(path, failure_of(file))  # pydicom may have caught it
            return found
    except OSError as error:
        check_reached(path, error)
        return None, None


def _identified(path: Path, file: BinaryIO) -> tuple[str | None, DicomFacts | None]:
    head = file.read(_HEAD)
    kind = image_kind(head[:SIGNATURE_BYTES])
    # DICOM may begin like a TIFF, and a picture may be named .dcm.
    if (kind is None or head[128:132] == b"DICM") and is_dicom_file(path, file):
        return None, dicom_facts(file, path)
    return kind, None


def _numbered(path: Path, n_images: int) -> list[Path]:
    if "#" in path.name:  # the name may be that of an image in another file
        return frames_of_file(path)
    if n_images == 1:
        return [path]
    for i in range(n_images):
        warn_of_namesake(path, i)
    return [frame_name(path, i) for i in range(n_images)]
