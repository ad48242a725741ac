"""Whom a DICOM header is about, as digests.

Identifiers stay in this module. Others get digests, which can be compared but not read. A digest is the first
16 hexadecimal digits of a SHA-256. It is not a secret: anyone who can list all possible IDs can find the one
that fits.

Two spellings of an ID have one digest if they differ only in case or in spaces.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from medvlad.images.dicom_file import raw_text

__all__ = ["IDENTITY_TAGS", "DicomIdentity", "digest_of_numbered", "identity_of", "stands_for_nobody"]

IDENTITY_TAGS = ("PatientID", "IssuerOfPatientID", "AccessionNumber", "StudyInstanceUID")
"""Elements that :func:`identity_of` needs."""

#: What programs write in place of an ID, without punctuation. An ID such as "anon0012" is an ID.
_STANDS_FOR_NOBODY = frozenset(
    """
    anon deid unbekannt inconnu unspecified undefined none null na nan noid noname notavailable notapplicable
    missing empty blank removed redacted deleted hidden masked default dummy test patient patientid id
    """.split()  # noqa: SIM905
)
_BEGINS_LIKE_NOBODY = re.compile("(?:anonym|deidentif|unknown)[a-z]*|x*")
_HAS_DIGIT = re.compile("[0-9]")
_NUMBERED = re.compile(r"(?:patient|subject|pat|sub|case|person|id|p)?[ _.-]*(?P<number>\d+)")
_LABELLED = re.compile(r"sub-(?P<label>\w+)")


@dataclass(frozen=True)
class DicomIdentity:
    """Digests of what a header says about the patient. None: the header does not say it.

    Attributes
    ----------
    patient : str or None
        PatientID. Case and spaces do not count, and neither does the issuer.
    written : str or None
        PatientID and IssuerOfPatientID as they are written.
    numbered : str or None
        The number in a PatientID such as "7", "007" or "patient 7".
    study : str or None
        StudyInstanceUID.
    stands_for_nobody : bool
        The PatientID is a word such as "ANONYMIZED".
    is_accession : bool
        The PatientID is the AccessionNumber, which names a study and not a patient.
    """

    patient: str | None = None
    written: str | None = None
    numbered: str | None = None
    study: str | None = None
    stands_for_nobody: bool = False
    is_accession: bool = False


def identity_of(header: Any) -> DicomIdentity:
    """Return the digests of a header that pydicom has read.

    Raises
    ------
    Exception
        Of almost any type, if an element is damaged.
    """
    written = str(header.get("PatientID") or "")
    issuer = str(header.get("IssuerOfPatientID") or "")
    accession = _folded(str(header.get("AccessionNumber") or ""))
    study = raw_text(header, "StudyInstanceUID")
    folded = _folded(written)
    return DicomIdentity(
        patient=_digest(f"patient {folded} ") if folded else None,
        written=_digest(f"written {written!r} {issuer!r}") if folded else None,
        numbered=digest_of_numbered(folded),
        study=_digest(f"study {study}") if study else None,
        stands_for_nobody=bool(folded) and stands_for_nobody(written),
        is_accession=bool(folded) and folded == accession,
    )


def digest_of_numbered(name: str) -> str | None:
    """Return a digest of the number of a patient, which is equal for "patient7", "Patient 007" and "7".

    Parameters
    ----------
    name : str
        A PatientID, or what a file name calls the patient. The label of "sub-X01" counts as its number.

    Returns
    -------
    str or None
        None: the name holds more than a number.
    """
    folded = _folded(name)
    if match := _NUMBERED.fullmatch(folded):
        return _digest(f"number {int(match['number'])}")
    label = _LABELLED.fullmatch(folded)
    return _digest(f"label {label['label']}") if label else None


def stands_for_nobody(text: str) -> bool:
    """Return whether a PatientID is what programs write if they have none: "ANONYMIZED", "unknown" or "?"."""
    if _HAS_DIGIT.search(text):  # quick, because tables have millions of IDs
        return False
    word = re.sub(r"[\W_]", "", _folded(text))
    return word in _STANDS_FOR_NOBODY or _BEGINS_LIKE_NOBODY.fullmatch(word) is not None


def _folded(text: str) -> str:
    """Return a text without what does not tell patients apart: case, spaces and null bytes around it."""
    return " ".join(unicodedata.normalize("NFKC", text).replace("\0", " ").casefold().split())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
