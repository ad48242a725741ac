"""Facts of DICOM headers that a study may need: sex, age, body part, modality and device (extra medical).

They are no direct identifiers. Names, dates, numbers and addresses are never read here. The PatientID and the
name of the institution are read only for callers that ask for them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from medvlad._util.validate import import_extra
from medvlad.images.dicom_file import open_dicom

__all__ = ["COVARIATES", "INSTITUTION", "PATIENT_ID", "dicom_covariates"]

COVARIATES = {
    "PatientSex": "sex",
    "PatientAge": "age",
    "Modality": "modality",
    "BodyPartExamined": "body_part",
    "ViewPosition": "view",
    "Manufacturer": "manufacturer",
    "ManufacturerModelName": "device",
}
"""Elements of a header, and the names of their columns. Ages are in years, and at most 90."""

PATIENT_ID, INSTITUTION = "PatientID", "InstitutionName"

_AGE = re.compile(r"(\d{1,3})([DWMY])")
_IN_YEARS = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}
_MAX_AGE = 90  # there are so few people of higher ages that an age can tell who somebody is
_MAX_LENGTH = 64  # characters of a value


def dicom_covariates(path: Path) -> dict[str, str]:
    """Return facts of the header of a DICOM file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of str to str
        Values by keyword: those of `COVARIATES`, `PATIENT_ID` and `INSTITUTION`. "" if the header does not
        say it, or is damaged.

    Raises
    ------
    MissingExtraError
        If pydicom is not installed.
    """
    pydicom = import_extra("pydicom", "medical", "DICOM")
    wanted = [*COVARIATES, PATIENT_ID, INSTITUTION, "SpecificCharacterSet"]
    try:
        with path.open("rb") as file:
            header = open_dicom(pydicom, file, wanted).header
    except Exception:  # damaged files make pydicom raise almost anything; reading the pixels reports it
        return dict.fromkeys(wanted[:-1], "")
    found = {keyword: _text(header, keyword) for keyword in wanted[:-1]}
    found["PatientAge"] = _years(found["PatientAge"])
    return found


def _text(header: Any, keyword: str) -> str:
    try:
        value = header.get(keyword)
    except Exception:  # an element that is damaged
        return ""
    values = value if isinstance(value, list | tuple) else [value]
    text = "/".join(str(one) for one in values if one is not None)
    return " ".join(text.replace("\0", " ").split())[:_MAX_LENGTH]


def _years(text: str) -> str:
    """Return an age such as "045Y" or "006M" in years, "45" or "0.5"."""
    match = _AGE.fullmatch(text)
    if match is None:
        return ""
    years = min(int(match[1]) / _IN_YEARS[match[2]], _MAX_AGE)
    return f"{years:.0f}" if match[2] == "Y" or years >= 2 else f"{years:.2g}"
