"""Find out which images show the same patient: from a pattern, or from DICOM headers and file names.

The ID of a DICOM header counts more than the name of its file, and the name counts more than the study.

Images of one patient form a group, which cross-validation and intervals never divide.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medvlad._util.validate import InputError
from medvlad.datasets.dicom_patients import DicomFile, join_patients
from medvlad.datasets.listing import ListedImage
from medvlad.images.frames import split_frame

__all__ = [
    "FROM_NAMES",
    "UNKNOWN",
    "Patients",
    "compile_group_pattern",
    "find_groups",
    "known_patient",
    "relative_file",
    "searched_patient",
]

_log = logging.getLogger(__name__)

UNKNOWN = ""
"""Source of a patient that is not known."""

FROM_NAMES = ("pattern", "file name")
"""Sources of patients that the names of files tell."""
_MONTH, _DAY, _YEAR = r"(?:0[1-9]|1[0-2])", r"[0-3]\d", r"(?:19|20)\d\d"
_DATE = re.compile(
    rf"[A-Za-z]*[-_. ]?(?:{_YEAR}(?:[-_.]?{_MONTH}(?:[-_.]?{_DAY})?)?|{_DAY}[-_.]?{_MONTH}[-_.]?{_YEAR})"
)

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

_PACKED_NIFTI = re.compile(r"\.nii\.gz(?:#\d+)?$", re.IGNORECASE)


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


@dataclass(frozen=True)
class Patients:
    """Patients of the images of a data set.

    Attributes
    ----------
    groups : dict of str to str
        Relative path of an image to its patient. An image without a known patient is a group of its own,
        named by the relative path of its file.
    sources : dict of str to str
        Relative path to where the patient is from: "pattern", "file name", "PatientID", "StudyInstanceUID",
        or "" if the patient is not known.
    """

    groups: dict[str, str]
    sources: dict[str, str]


def find_groups(found: list[ListedImage], pattern: re.Pattern[str] | None) -> Patients | None:
    """Return the patient of each image.

    Parameters
    ----------
    found : list of ListedImage
    pattern : compiled regular expression or None
        Searched in the relative path. None: use DICOM headers and the known patterns of names.

    Returns
    -------
    Patients or None
        None: no image has a patient, and no file has several images.

    Raises
    ------
    InputError
        If `pattern` matches no image.
    """
    if pattern is None:
        names = {image.relative: known_patient(image) for image in found}
        patients = _with_headers(found, names)
    else:
        names = {image.relative: searched_patient(image.relative, pattern) for image in found}
        patients = {relative: (name, "pattern") for relative, name in names.items() if name}
        if not patients:
            raise InputError(
                f"`group_pattern` {pattern.pattern!r} matches no file, for example not "
                f"{found[0].relative!r}: correct it, or leave it out"
            )
    _warn_of_doubtful_names(
        found, {one: patient for one, (patient, how) in patients.items() if how in FROM_NAMES}
    )
    files = {image.relative: relative_file(image) for image in found}
    if not patients and all(file == relative for relative, file in files.items()):
        return None
    return Patients(
        {one: patients[one][0] if one in patients else files[one] for one in files},
        {one: patients[one][1] if one in patients else UNKNOWN for one in files},
    )


def _with_headers(found: list[ListedImage], names: Mapping[str, str | None]) -> dict[str, tuple[str, str]]:
    """Return patient and source of each image whose file name or header tells the patient."""
    files: dict[Path, DicomFile] = {}
    of_others = set[str]()
    for image in found:
        name = names[image.relative]
        if image.identity is not None:
            files[split_frame(image.path)[0]] = DicomFile(image.identity, image.class_name, name)
        elif name:
            of_others.add(name)
    in_headers, of_names = join_patients(files, of_others)
    patients = {}
    for image in found:
        name = names[image.relative]
        in_header = None if image.identity is None else in_headers.get(split_frame(image.path)[0])
        if in_header is not None:
            patients[image.relative] = in_header
        elif name:
            patients[image.relative] = of_names.get(name, name), "file name"
    return patients


def relative_file(image: ListedImage) -> str:
    """Return the relative path of the file of an image, without the number of the image in it."""
    return image.relative if split_frame(image.path)[1] is None else image.relative.rpartition("#")[0]


def _warn_of_doubtful_names(found: list[ListedImage], patients: Mapping[str, str]) -> None:
    """Log a warning if what file names tell looks like dates or classes and not like patients."""
    if len(patients) < 2:
        return
    classes: defaultdict[str, set[str]] = defaultdict(set)
    for image in found:
        if image.relative in patients:
            classes[patients[image.relative]].add(image.class_name)
    smallest = min(Counter(image.class_name for image in found if image.relative in patients).values())
    n_classes = len({image.class_name for image in found})
    in_all = sorted(patient for patient, own in classes.items() if len(own) == n_classes)
    dates = [patient for patient in classes if _DATE.fullmatch(patient)]
    if len(dates) == len(classes):
        why = "all of them look like years or dates"
    elif len(classes) == 1 and in_all:
        why = "all images have the same"
    elif len(classes) <= n_classes and smallest > 1 and len(patients) == len(found):
        why = "they are not more than the classes"
    elif len(classes) < smallest and in_all:
        why = "they are fewer than the images of the smallest class, and some are in all classes"
    else:
        return
    example = in_all[0] if in_all else min(classes)
    _log.warning(
        "the patients found in file names may be wrong: %d images have %d patients, such as %s, and "
        f"{why}. If these are not patients, give the right part of the names with `group_pattern`",
        len(patients),
        len(classes),
        example,
    )


def searched_patient(relative: str, pattern: re.Pattern[str]) -> str | None:
    """Return the patient that a pattern finds in a relative path. None: it does not match."""
    match = pattern.search(unicodedata.normalize("NFC", relative))
    return match.group("group" if "group" in pattern.groupindex else 1) if match else None


def known_patient(image: ListedImage) -> str | None:
    """Return the patient that the known patterns find in the names of an image. None: they do not match."""
    *folders, file = (unicodedata.normalize("NFC", name) for name in image.below_class)
    packed = _PACKED_NIFTI.search(file)
    stem = file[: packed.start()] if packed else Path(file).stem
    # Viewers export DICOM as IM-0001-0001, where the first number is a series and not a patient.
    for known in _PATIENT_IN_FILE_NAME if image.kind != "DICOM" else ():
        if match := known.match(stem):
            return match["group"]
    for name in (*folders, stem):
        for known in _PATIENT_IN_ANY_NAME:
            if match := known.search(name):
                patient = match["group"]
                return f"patient{patient}" if patient.isdigit() else patient
    return None
