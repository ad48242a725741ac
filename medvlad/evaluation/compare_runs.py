"""Compare two runs of ``medvlad evaluate --out`` on the same test images.

The runs may differ in anything: preset, network, scales, encoding. The statistics are in
:mod:`medvlad.evaluation.comparison`.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.object_path import location
from medvlad._util.validate import InputError, one_line
from medvlad.datasets.pseudonyms import is_pseudonym
from medvlad.evaluation.class_counts import warn_of_small_classes
from medvlad.evaluation.comparison import compare

__all__ = ["compare_runs"]

_COLUMNS = ("encode", "image", "patient", "truth")
_DECISION = "decision "  # followed by the name of a class
_AGAIN = "run 'medvlad evaluate --out' again"


@dataclass(frozen=True)
class _Predictions:
    """Predictions of one encoding of one run, sorted by image name."""

    images: list[str]
    patients: list[str]
    truth: list[str]
    class_names: list[str]
    decision: NDArray[np.float64]


def compare_runs(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    encodings: tuple[str | None, str | None] = (None, None),
) -> dict[str, Any]:
    """Compare two runs of ``medvlad evaluate --out``.

    Parameters
    ----------
    first, second : path or URL
        Folders of the two runs, each with a predictions.csv.
    encodings : (str or None, str or None)
        Encoding to compare from each run. None: the only one.

    Returns
    -------
    dict
        n_images, n_patients (None if patients are unknown), and the dict of
        :func:`medvlad.evaluation.comparison.compare`.

    Raises
    ------
    InputError
        If a folder has no valid predictions.csv, or the runs have different test images or classes.
    """
    folders = [location(run, "the run") for run in (first, second)]
    for run in folders:
        table = run / "predictions.csv"
        try:
            is_there = table.is_file()
        except OSError as error:
            raise InputError(f"{table} cannot be read ({error.strerror or error}): check the path") from error
        if not is_there:
            raise InputError(
                f"{run} holds no predictions.csv: name a folder that 'medvlad evaluate --out' wrote"
            )
    one, other = (_read(run, encode) for run, encode in zip(folders, encodings, strict=True))
    _check_same_images(folders[0], folders[1], one, other)
    labels = np.array([one.class_names.index(name) for name in one.truth])
    patients = [who or in_other for who, in_other in zip(one.patients, other.patients, strict=True)]
    n_known = len(set(filter(None, patients)))
    groups = None
    if n_known:
        # An image of an unknown patient is a patient of its own.
        groups = np.array([who or f"image {i}: {one.images[i]}" for i, who in enumerate(patients)])
    warn_of_small_classes(labels, groups, one.class_names)
    return {
        "n_images": len(one.images),
        "n_patients": None if groups is None else len(set(groups.tolist())),
        "n_known_patients": n_known if n_known else None,
    } | compare(labels, one.decision, other.decision, groups=groups)


def _check_same_images(first: Path, second: Path, one: _Predictions, other: _Predictions) -> None:
    """Raise InputError unless both runs have the same classes, test images and true classes."""
    if one.class_names != other.class_names:
        raise InputError(
            f"{first} has the classes {', '.join(one.class_names)} and {second} has "
            f"{', '.join(other.class_names)}: compare runs on the same data set"
        )
    if one.images != other.images:
        if any(is_pseudonym(run.images[0]) for run in (one, other)):
            raise InputError(
                f"{first} and {second} do not name the same images alike: compare anonymised runs only with "
                "runs that used the same --anonymise-key"
            )
        example = min(set(one.images) ^ set(other.images))
        raise InputError(
            f"{second} has other test images than {first}, for example {example!r} is only in one of them: "
            "compare runs on the same data set with the same split"
        )
    for image, truth, other_truth in zip(one.images, one.truth, other.truth, strict=True):
        if truth != other_truth:
            raise InputError(
                f"image {image!r} has the true class {truth!r} in {first} and {other_truth!r} in {second}: "
                "compare runs on the same data set"
            )
    for image, patient, other_patient in zip(one.images, one.patients, other.patients, strict=True):
        if patient and other_patient and patient != other_patient:
            raise InputError(
                f"image {image!r} has another patient in {first} than in {second}: evaluate both runs with "
                "the same patients"
            )


def _read(folder: Path, encode: str | None) -> _Predictions:
    """Read the predictions of one encoding from the folder of a run."""
    path = folder / "predictions.csv"
    header, rows = _read_table(path)
    class_names = [name.removeprefix(_DECISION) for name in header if name.startswith(_DECISION)]
    found = sorted({row["encode"] for _, row in rows})
    if encode is None and len(found) > 1:
        raise InputError(
            f"{folder} holds several encodings, {', '.join(found)}: choose one, such as encode={found[0]!r}"
        )
    chosen = [(number, row) for number, row in rows if encode in (None, row["encode"])]
    if not chosen:
        raise InputError(f"{folder} holds no encoding {encode!r}, only {', '.join(found)}: name one of these")
    chosen.sort(key=lambda numbered: numbered[1]["image"])
    _check_unique(path, chosen)
    return _Predictions(
        [row["image"] for _, row in chosen],
        [row["patient"] for _, row in chosen],
        [_truth(path, number, row, class_names) for number, row in chosen],
        class_names,
        np.array([list(_decision(path, number, row, class_names)) for number, row in chosen], np.float64),
    )


def _read_table(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the header and the rows of a table, each with its number. The header is row 1."""
    try:
        # Spreadsheet programs write a byte order mark. File names may be bytes that are not UTF-8.
        opened = path.open("rb")
        with io.TextIOWrapper(opened, "utf-8-sig", errors="surrogateescape", newline="") as file:
            header, *lines = list(csv.reader(file)) or [[]]
    except (OSError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({one_line(error)}): {_AGAIN}") from error
    missing = [name for name in _COLUMNS if name not in header]
    if not any(name.startswith(_DECISION) for name in header):
        missing.append(f"{_DECISION}CLASS")
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(map(repr, missing))} in its first row: it must be separated by "
            f"commas and have the columns of 'medvlad evaluate --out'; {_AGAIN}"
        )
    twice = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    if twice:
        raise InputError(f"{path} has the column {twice[0]!r} twice: remove one, or {_AGAIN}")
    rows = []
    for number, cells in enumerate(lines, start=2):
        if not cells:  # an empty line
            continue
        if len(cells) != len(header):
            raise InputError(
                f"{path}, row {number} has {len(cells)} cells, but the header has {len(header)}: "
                f"correct the row, or {_AGAIN}"
            )
        rows.append((number, dict(zip(header, cells, strict=True))))
    if not rows:
        raise InputError(f"{path} has no predictions, only a header: {_AGAIN}")
    return header, rows


def _check_unique(path: Path, rows: list[tuple[int, dict[str, str]]]) -> None:
    """Raise InputError if an image occurs twice in rows that are sorted by image."""
    for (number, row), (next_number, next_row) in pairwise(rows):
        if row["image"] == next_row["image"]:
            raise InputError(
                f"{path}, row {next_number} repeats image {row['image']!r} of row {number} with the same "
                f"encoding: remove one of them, or {_AGAIN}"
            )


def _truth(path: Path, number: int, row: dict[str, str], class_names: list[str]) -> str:
    """Return the true class of a row, which must have a column of decision values."""
    if row["truth"] not in class_names:
        raise InputError(
            f"{path}, row {number} has the truth {row['truth']!r}, which is not one of the classes "
            f"{', '.join(class_names)}: correct it, or {_AGAIN}"
        )
    return row["truth"]


def _decision(path: Path, number: int, row: dict[str, str], class_names: list[str]) -> Iterator[float]:
    """Yield the decision value of each class, which must be a finite number."""
    for name in class_names:
        text = row[f"{_DECISION}{name}"]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(
                f"{path}, row {number} has {text!r} in column {_DECISION + name!r} instead of a finite "
                f"number: correct it, or {_AGAIN}"
            )
        yield value
