"""Decide which DICOM files show one patient, although their headers say it in several ways.

- *IDs that differ in case, spaces or issuer* are one patient.
- *No ID, but a study.* A study belongs to one patient. If other files of the study have an ID, that is the
  patient. Otherwise the study itself stands for the patient.
- *Two IDs in one study* are one patient, who was renamed. Three or more IDs in one study, or one study for
  all files, tell that the number of the study is not to be trusted. Then it is not used.
- *An ID that is no ID.* A word such as "ANONYMIZED", one ID for all files of several classes, and an ID that
  is the accession number (which names a study) are not used.
- *Names of files* are joined to an ID if the ID has the same number ("patient7" and 7), or if all files of
  that name with an ID have the same one.

If two patients are joined by mistake, a group is too large, which wastes data. If one patient is divided,
the same patient may be in training and in test. So in doubt this module joins, and logs the number.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medvlad.images.dicom_identity import DicomIdentity, digest_of_numbered

__all__ = ["DicomFile", "join_patients"]

_log = logging.getLogger(__name__)

_MIN_FILES = 4  # with one ID or study, before it counts as one for everybody

_Node = tuple[Literal["id", "name", "study"], str]
_SOURCES = {"id": "PatientID", "name": "file name", "study": "StudyInstanceUID"}  # the best first


@dataclass(frozen=True)
class DicomFile:
    """What is known of one DICOM file.

    Attributes
    ----------
    identity : DicomIdentity
    class_name : str
    name : str or None
        Patient that the file name tells.
    """

    identity: DicomIdentity
    class_name: str
    name: str | None


def _rank(node: _Node) -> tuple[int, str]:
    return list(_SOURCES).index(node[0]), node[1]


class _Joined:
    """Sets of nodes that belong to one patient (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[_Node, _Node] = {}

    def root(self, node: _Node) -> _Node:
        parent = self._parent.setdefault(node, node)
        while parent != self._parent[parent]:
            self._parent[parent] = self._parent[self._parent[parent]]
            parent = self._parent[parent]
        self._parent[node] = parent
        return parent

    def join(self, first: _Node, second: _Node) -> bool:
        """Join two nodes. The result is named by the better one: an ID, then a name, then a study."""
        roots = sorted({self.root(first), self.root(second)}, key=_rank)
        for other in roots[1:]:
            self._parent[other] = roots[0]
        return len(roots) > 1


def join_patients(
    files: Mapping[Path, DicomFile], names: Iterable[str]
) -> tuple[dict[Path, tuple[str, str]], dict[str, str]]:
    """Return the patients of DICOM files, and of names that stand for the same patients.

    Parameters
    ----------
    files : mapping of Path to DicomFile
    names : iterable of str
        Patients that the names of the other files tell.

    Returns
    -------
    patients : dict of Path to (str, str)
        Patient of a DICOM file and where it is from: "PatientID", "file name" or "StudyInstanceUID". Files
        without any of them are left out.
    of_names : dict of str to str
        Patient of each name that was joined to an ID.
    """
    usable = _usable_ids(files)
    joined = _Joined()
    not_trusted = _join_studies(files, usable, joined)
    # Files with an ID do not need their names.
    needed = {*names, *(file.name for path, file in files.items() if file.name and path not in usable)}
    _join_names(files, usable, sorted(needed), joined)
    patients = {}
    for path, file in files.items():
        nodes: list[_Node] = [("id", usable[path])] if path in usable else []
        nodes += [("name", file.name)] if file.name else []
        if file.identity.study and file.identity.study not in not_trusted:
            nodes.append(("study", file.identity.study))
        if not nodes and file.identity.is_accession and file.identity.patient:
            nodes = [("study", file.identity.patient)]
        if nodes:
            kind, patient = min((joined.root(one) for one in nodes), key=_rank)
            patients[path] = patient, _SOURCES[kind]
    _warn_of_one_study(files, patients)
    _warn_of_studies(files, patients)
    roots = {name: joined.root(("name", name)) for name in needed}
    return patients, {name: root[1] for name, root in roots.items() if root[0] == "id"}


def _warn_of_one_study(files: Mapping[Path, DicomFile], patients: Mapping[Path, tuple[str, str]]) -> None:
    """Log a warning if one study, in several classes, makes one patient of all files."""
    several_classes = len({files[path].class_name for path in patients}) > 1
    one = {patient for patient, _ in patients.values()}
    studies = {source for _, source in patients.values()} == {_SOURCES["study"]}
    if len(patients) >= _MIN_FILES and several_classes and len(one) == 1 and studies:
        _log.warning(
            "all %d DICOM files without a PatientID have the same StudyInstanceUID, so they count as one "
            "patient: if they show several, name the patients with `group_pattern`",
            len(patients),
        )


def _warn_of_studies(files: Mapping[Path, DicomFile], patients: Mapping[Path, tuple[str, str]]) -> None:
    """Log a warning if several studies stand for the patients of files whose PatientID is empty."""
    without = [
        patient
        for path, (patient, source) in patients.items()
        if source == _SOURCES["study"] and files[path].identity.patient is None
    ]
    if len(set(without)) > 1:
        _log.warning(
            "%d DICOM files have no PatientID, probably after anonymisation. Their StudyInstanceUID is used "
            "instead, so a patient with several studies counts several times. If file names tell the "
            "patients, use `group_pattern`",
            len(without),
        )


def _usable_ids(files: Mapping[Path, DicomFile]) -> dict[Path, str]:
    """Return the ID of each file that has one, and log the IDs that are none."""
    given = {path: file.identity for path, file in files.items() if file.identity.patient}
    nobody = {path for path, one in given.items() if one.stands_for_nobody}
    accession = {path for path, one in given.items() if one.is_accession} - nobody
    rest = given.keys() - nobody - accession
    if _is_for_everybody([files[path] for path in rest]):
        nobody |= rest
        rest = set()
    if nobody:
        _log.warning(
            "%d DICOM files have a PatientID that stands for nobody, or the same one in all classes, "
            "probably after anonymisation. Their StudyInstanceUID is used instead, so a patient with several "
            "studies counts several times. If file names tell the patients, use `group_pattern`",
            len(nobody),
        )
    if accession:
        _log.warning(
            "%d DICOM files have a PatientID that is their AccessionNumber, which names a study. Their study "
            "is used instead, so a patient with several studies counts several times",
            len(accession),
        )
    ids = {path: identity.patient for path, identity in given.items() if path in rest and identity.patient}
    written: defaultdict[str, set[str | None]] = defaultdict(set)
    for path, patient in ids.items():
        written[patient].add(files[path].identity.written)
    differ = {patient for patient, forms in written.items() if len(forms) > 1}
    if differ:
        _log.warning(
            "%d patients have DICOM files whose PatientIDs differ in case, spaces or issuer only (%d files). "
            "Each counts as one patient",
            len(differ),
            sum(patient in differ for patient in ids.values()),
        )
    return ids


def _is_for_everybody(files: list[DicomFile]) -> bool:
    """Return whether all files have one and the same ID, in several classes, but not in one study."""
    if len(files) < _MIN_FILES or len({file.identity.written for file in files}) > 1:
        return False
    studies = {file.identity.study for file in files}
    return len({file.class_name for file in files}) > 1 and (len(studies) > 1 or studies == {None})


def _join_studies(files: Mapping[Path, DicomFile], usable: Mapping[Path, str], joined: _Joined) -> set[str]:
    """Join studies to the IDs, or else to the names, of their files. Return those not to be trusted."""
    ids = _values_of("study", files, usable)
    names: defaultdict[str, set[str]] = defaultdict(set)
    n_studies = len({file.identity.study for file in files.values()} - {None})
    for path, file in files.items():
        if file.identity.study and file.name and path not in usable:
            names[file.identity.study].add(file.name)
    n_renamed, not_trusted = 0, set[str]()
    for study, found in sorted(ids.items()):
        if len(found) > 2 or (len(found) == 2 and n_studies == 1):
            not_trusted.add(study)
            continue
        first, *others = sorted(found)
        joined.join(("id", first), ("study", study))
        n_renamed += sum(joined.join(("id", first), ("id", other)) for other in others)
    for study, called in sorted(names.items()):
        if len(called) == 1 and study not in not_trusted:
            joined.join(("name", min(called)), ("study", study))
    without = [file for path, file in files.items() if path not in usable and file.identity.study]
    n_tied = sum(joined.root(("study", file.identity.study or ""))[0] == "id" for file in without)
    if n_tied:
        _log.warning(
            "%d DICOM files without a PatientID of their own belong to the patient of the other files of "
            "their study",
            n_tied,
        )
    if n_renamed:
        _log.warning("%d patients have two PatientIDs in one study. Each counts as one patient", n_renamed)
    if not_trusted and without:
        _log.warning(
            "%d StudyInstanceUIDs belong to several PatientIDs, so they do not tell the patients of files "
            "without a PatientID",
            len(not_trusted),
        )
    return not_trusted


def _values_of(
    what: Literal["study", "name"], files: Mapping[Path, DicomFile], usable: Mapping[Path, str]
) -> dict[str, set[str]]:
    """Return the IDs of each study or of each name."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path, patient in usable.items():
        key = files[path].identity.study if what == "study" else files[path].name
        if key:
            found[key].add(patient)
    return found


def _join_names(
    files: Mapping[Path, DicomFile], usable: Mapping[Path, str], names: list[str], joined: _Joined
) -> None:
    """Join names of patients in file names to IDs."""
    numbered: defaultdict[str, set[str]] = defaultdict(set)
    for path, patient in usable.items():
        if number := files[path].identity.numbered:
            numbered[number].add(patient)
    seen = _values_of("name", files, usable)
    n_joined = 0
    for name in names:
        # Files that have both tell more than a number.
        ids = seen.get(name) or numbered.get(digest_of_numbered(name) or "", set())
        if len(ids) == 1:
            n_joined += joined.join(("name", name), ("id", min(ids)))
    if n_joined:
        _log.warning(
            "%d patients are known by file names and by a PatientID. Each counts as one patient", n_joined
        )
