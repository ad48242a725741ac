"""Write a table of images (a manifest) from folders and DICOM headers.

Patients are digests, and sites are numbers in the order of their first image, unless identifiers are asked
for. Dates, names of people, accession numbers and addresses are never written. Names of files and folders are
written as they are.
"""

from __future__ import annotations

import csv
import io
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medvlad._util.atomic_file import write_file
from medvlad._util.validate import InputError
from medvlad.datasets.folders import load_image_folder
from medvlad.datasets.listing import ListedImage, Listing, Root, check_root
from medvlad.datasets.patients import UNKNOWN, compile_group_pattern, find_groups
from medvlad.images.dicom_covariates import COVARIATES, INSTITUTION, PATIENT_ID, dicom_covariates
from medvlad.images.frames import split_frame

__all__ = ["WrittenTable", "check_table_name", "make_manifest"]

_log = logging.getLogger(__name__)

_TSV = (".tsv", ".tab")


@dataclass(frozen=True)
class WrittenTable:
    """A table that was made of a folder.

    Attributes
    ----------
    columns : list of str
    rows : list of list of str
    n_dicom : int
        Number of DICOM files, whose headers gave covariates.
    no_labels : str or None
        Why the labels are empty. None: they are not.
    """

    columns: list[str]
    rows: list[list[str]]
    n_dicom: int
    no_labels: str | None

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table as UTF-8: separated by tabs if its name ends in .tsv, otherwise by commas.

        Raises
        ------
        InputError
            If it cannot be written, or a file has a name that is no text.
        """
        text = io.StringIO()
        delimiter = "\t" if Path(path).suffix.lower() in _TSV else ","
        table = csv.writer(text, delimiter=delimiter, lineterminator="\n")
        table.writerow(self.columns)
        table.writerows(self.rows)
        try:
            content = text.getvalue().encode("utf-8")
        except UnicodeEncodeError as error:
            name = error.object[: error.start].rpartition("\n")[2]
            raise InputError(
                f"the name of a file after {name!r} is no text in UTF-8: rename the file"
            ) from error
        write_file(path, content, "table")


def make_manifest(
    root: Root, *, group_pattern: str | None = None, identifiers: bool = False, labels: bool = True
) -> WrittenTable:
    """Make a table of the images of a folder.

    Parameters
    ----------
    root : path
        Folder as for :func:`medvlad.load_image_folder`. Without class folders, the column of labels is empty.
    group_pattern : str or None, default=None
        See :func:`medvlad.load_image_folder`.
    identifiers : bool, default=False
        Write PatientID and InstitutionName of DICOM files as they are.
    labels : bool, default=True
        Whether the names of folders are classes. False: the column of labels is empty.

    Returns
    -------
    WrittenTable
        Columns image and label; patient if a patient is known; split if there are parts; site and covariates
        if there are DICOM files that tell them. Paths are relative to `root`. A file of several images has
        one row.

    Raises
    ------
    InputError
        If there is no image, or a name cannot stand in a table.
    MissingExtraError
        If a file is DICOM or NIfTI and the extra medical is not installed.
    """
    folder = check_root(root)
    found, no_labels = _listed(folder, group_pattern, labels=labels)
    columns: dict[str, list[str]] = {"image": [], "label": [], "patient": [], "split": [], "site": []}
    columns |= {name: [] for name in COVARIATES.values()}
    headers = [dicom_covariates(one.file) if one.kind == "DICOM" else {} for one in found]
    names = _real_ids(found, headers) if identifiers else {}
    sites: dict[str, str] = {}
    for one, header in zip(found, headers, strict=True):
        columns["image"].append(one.image)
        columns["label"].append(one.label)
        columns["patient"].append(names.get(one.patient, one.patient))
        columns["split"].append(one.split)
        site = header.get(INSTITUTION, "")
        if site and not identifiers:
            site = sites.setdefault(site, f"site{len(sites) + 1}")
        columns["site"].append(site)
        for keyword, name in COVARIATES.items():
            columns[name].append(header.get(keyword, ""))
    kept = [name for name, cells in columns.items() if name in ("image", "label") or any(cells)]
    rows = [list(row) for row in zip(*(columns[name] for name in kept), strict=True)]
    n_dicom = sum(one.kind == "DICOM" for one in found)
    return WrittenTable(kept, rows, n_dicom, no_labels)


@dataclass(frozen=True)
class _Row:
    file: Path
    image: str
    label: str
    patient: str
    split: str
    kind: str


def _listed(folder: Path, group_pattern: str | None, *, labels: bool) -> tuple[list[_Row], str | None]:
    """Return the files of a folder, and why they have no labels."""
    no_labels = "the names of folders are not used"
    try:
        data = load_image_folder(folder, group_pattern=group_pattern) if labels else None
    except InputError as error:
        data, no_labels = None, str(error)
    if data is not None:
        n = len(data)
        patients = [""] * n
        if data.groups is not None and data.patient_sources is not None:
            known = (data.patient_sources != UNKNOWN).tolist()
            patients = [
                name if is_known else "" for name, is_known in zip(data.groups.tolist(), known, strict=True)
            ]
        splits = [""] * n if data.splits is None else data.splits.tolist()
        kinds = [""] * n if data.kinds is None else data.kinds.tolist()
        classes = [data.class_names[label] for label in data.labels.tolist()]
        return _rows(folder, data.paths, classes, patients, splits, kinds), None
    listing = Listing()
    images = [
        ListedImage(
            None, "", one.parts, one.path, one.path.relative_to(folder).as_posix(), one.kind, one.identity
        )
        for one in listing.walk(folder)
    ]
    listing.report(folder)
    if not images:
        raise InputError(f"there is no image in {str(folder)!r}: give a folder of images")
    found = find_groups(images, None if group_pattern is None else compile_group_pattern(group_pattern))
    known_patients = (
        [""] * len(images)
        if found is None
        else [found.groups[one.relative] if found.sources[one.relative] else "" for one in images]
    )
    nothing = [""] * len(images)
    kinds = [one.kind for one in images]
    paths = [one.path for one in images]
    return _rows(folder, paths, nothing, known_patients, nothing, kinds), no_labels


def _rows(folder: Path, paths: Sequence[Path], *facts: Sequence[str]) -> list[_Row]:
    """Return one row for each file. A file of several images, which all have the same facts, has one row."""
    rows: list[_Row] = []
    last: Path | None = None
    for path, label, patient, split, kind in zip(paths, *facts, strict=True):
        file, frame = split_frame(path)
        if frame is not None and "#" in file.name:  # the name of this file looks like that of an image
            file = path
        if file == last:
            continue
        last = file
        image = check_table_name(file.relative_to(folder).as_posix())
        rows.append(_Row(split_frame(path)[0], image, label, patient, split, kind))
    return rows


def check_table_name(name: str) -> str:
    """Return the name of an image. Raise InputError if a table cannot hold it."""
    if name != name.strip() or "\\" in name or name[1:2] == ":" or "//" in name:
        raise InputError(
            f"the file {name!r} has a name that a table cannot hold, because it has spaces at an end, "
            "backslashes or a colon: rename it"
        )
    return name


def _real_ids(rows: Sequence[_Row], headers: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return the PatientID of each group. The first in order, if headers write it in several ways."""
    written: defaultdict[str, set[str]] = defaultdict(set)
    for row, header in zip(rows, headers, strict=True):
        if row.patient and header.get(PATIENT_ID):
            written[row.patient].add(header[PATIENT_ID])
    return {group: min(ids) for group, ids in written.items()}
