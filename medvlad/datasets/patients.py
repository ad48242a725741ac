"""Find out which images show the same patient: from a pattern, from file names or from DICOM headers.

Images of one patient form a group, which cross-validation and bootstrap never divide.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from medvlad._util.validate import InputError
from medvlad.datasets.listing import ListedImage
from medvlad.images.dicom import is_dicom, patient_of
from medvlad.images.frames import split_frame

__all__ = ["compile_group_pattern", "find_groups"]

_log = logging.getLogger(__name__)

# The named group of each pattern is the patient.
_PATIENT_IN_FILE_NAME = (
    # Paediatric chest X-rays. Numbers are reused: person1_virus and person1_bacteria are two children, and
    # IM-0383 and NORMAL2-IM-0383 may be.
    re.compile(r"^(?P<group>person\d+_(?:bacteria|virus))_\d+"),
    re.compile(r"^(?P<group>(?:NORMAL\d*-)?IM-\d+)(?:-\d+)+$"),
)
_PATIENT_IN_ANY_NAME = (  # of a file, or of a folder below the class
    re.compile(r"^(?P<group>sub-[A-Za-z0-9]+)(?:_|$)"),  # Brain Imaging Data Structure
    re.compile(r"(?<![A-Za-z])patient[ _-]?(?P<group>\d+)", re.IGNORECASE),
)


def compile_group_pattern(pattern: object) -> re.Pattern[str]:
    """Compile the regular expression of a user.

    Raises
    ------
    InputError
        If it is not a regular expression, or has no group.
    """
    if not isinstance(pattern, str | re.Pattern) or isinstance(getattr(pattern, "pattern", ""), bytes):
        raise InputError(f"`group_pattern` must be a regular expression as a str, got {pattern!r}")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"`group_pattern` {pattern!r} is not a regular expression ({error}): correct it"
        ) from error
    if compiled.groups == 0:
        raise InputError(
            f"`group_pattern` {compiled.pattern!r} has no group: put parentheses around the part "
            "that is the patient"
        )
    return compiled


def find_groups(found: list[ListedImage], pattern: re.Pattern[str] | None) -> dict[str, str] | None:
    """Return the patient of each image.

    Parameters
    ----------
    found : list of ListedImage
    pattern : compiled regular expression or None
        Searched in the relative path. None: use the known patterns of names, then DICOM headers.

    Returns
    -------
    dict of str to str, or None
        Relative path to patient. An image without a patient is a group of its own, named by its path. None:
        no image has a patient.
    """
    patients = {
        image.relative: _known_patient(image.below_class)
        if pattern is None
        else _searched_patient(image.relative, pattern)
        for image in found
    }
    if pattern is not None and not any(patients.values()):
        _log.warning(
            "group_pattern %r matches no image, for example not %r: no patient groups are used",
            pattern.pattern,
            found[0].relative,
        )
    patients = _complete_from_files(found, patients, read_dicom=pattern is None)
    n_unknown = sum(not patient for patient in patients.values())
    if n_unknown == len(patients):
        return None
    if n_unknown:
        _log.info("%d images whose names do not tell the patient are groups of their own", n_unknown)
    return {relative: patient or relative for relative, patient in patients.items()}


def _complete_from_files(
    found: list[ListedImage], patients: dict[str, str | None], *, read_dicom: bool
) -> dict[str, str | None]:
    """Fill in missing patients from DICOM headers. Images of one file always belong to one patient."""
    in_file: dict[Path, str | None] = {}
    for image in found:
        if patients[image.relative]:
            continue
        file, frame = split_frame(image.path)
        if file not in in_file:
            in_file[file] = patient_of(file) if read_dicom and is_dicom(file) else None
        of_file = None if frame is None else image.relative.rpartition("#")[0]
        patients[image.relative] = in_file[file] or of_file
    return patients


def _searched_patient(relative: str, pattern: re.Pattern[str]) -> str | None:
    match = pattern.search(relative)
    return match.group("group" if "group" in pattern.groupindex else 1) if match else None


def _known_patient(below_class: tuple[str, ...]) -> str | None:
    stem = Path(below_class[-1]).stem
    for known in _PATIENT_IN_FILE_NAME:
        if match := known.match(stem):
            return match["group"]
    for name in (*below_class[:-1], stem):
        for known in _PATIENT_IN_ANY_NAME:
            if match := known.search(name):
                patient = match["group"]
                return f"patient{patient}" if patient.isdigit() else patient
    return None
