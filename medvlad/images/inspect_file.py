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

The file is opened once. Only TIFF and NIfTI are opened again, to count their pages and slices.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from medvlad.images.dicom import DicomFacts, dicom_facts, is_dicom_file
from medvlad.images.dicom_identity import DicomIdentity
from medvlad.images.formats import NO_ENDING, UNREAD_SUFFIXES, ending_of, is_image_name, picture_format
from medvlad.images.nifti import NIFTI_SUFFIXES
from medvlad.images.read import list_frames

__all__ = ["WITHOUT_IMAGE", "InspectedFile", "inspect_file"]

WITHOUT_IMAGE = "DICOM without an image"
"""Kind of a DICOM file that holds a report, a PDF, a directory or the like."""

_HEAD = 160  # bytes; DICOM has its magic after 128


@dataclass(frozen=True)
class InspectedFile:
    """What a file of a folder is.

    Attributes
    ----------
    images : list of Path
        Its images. Empty: it is none that can be read.
    kind : str
        "DICOM", `WITHOUT_IMAGE`, "NIfTI" or the ending of an image, such as "
        "".png". For an unread image its ending or format. Empty:
        the file is no image.
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
    """
    head, facts = _opened(path)
    if facts is not None and not facts.has_image:
        return InspectedFile([], WITHOUT_IMAGE)
    if facts is not None:
        return InspectedFile(_numbered(path, facts.n_frames), "DICOM", facts.identity)
    named, content = is_image_name(path.name), picture_format(head)
    ending = ending_of(path.name)
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        return InspectedFile(list_frames(path), "NIfTI")
    if named or (content and content.is_read and ending == NO_ENDING):
        several = content is not None and content.name == "TIFF"
        return InspectedFile(list_frames(path) if several else [path], ending)
    if ending in UNREAD_SUFFIXES:
        return InspectedFile([], ending)
    if content is not None:
        return InspectedFile([], content.name)
    return _NONE


_NONE = InspectedFile([], "")


def _opened(path: Path) -> tuple[bytes, DicomFacts | None]:
    """Return the first bytes of a file, and what its header says if it is DICOM."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would block
            return b"", None
        with path.open("rb") as file:
            head = file.read(_HEAD)
            # A picture may be named .dcm.
            if picture_format(head) is None and is_dicom_file(path, file):
                return head, dicom_facts(file, path)
            return head, None
    except OSError:
        return b"", None


def _numbered(path: Path, n_images: int) -> list[Path]:
    return [path] if n_images == 1 else [path.with_name(f"{path.name}#{i}") for i in range(n_images)]
