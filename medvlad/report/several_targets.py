"""The report of an evaluation of several labels or of numbers, and the table of its predictions."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from medvlad._util.atomic_file import write_file
from medvlad._util.validate import make_output_folder
from medvlad.datasets.pseudonyms import Pseudonyms
from medvlad.experiment import Evaluation
from medvlad.report.checklist import add_checklist, write_checklist
from medvlad.report.html import Page
from medvlad.report.regression import number_sections
from medvlad.report.settings import shown_settings
from medvlad.report.several_labels import label_sections
from medvlad.report.summary import add_summary, report_title

__all__ = ["write_predictions", "write_report"]


def write_predictions(evaluation: Evaluation, path: Path, *, names: Pseudonyms | None = None) -> None:
    """Write every held-out prediction as a table (CSV).

    Parameters
    ----------
    evaluation : Evaluation
        Of a data set with the task "labels" or "regression".
    path : Path
        The columns are encode, image, patient (empty if unknown), and for each label truth, predicted,
        decision and probability, or for each number truth and predicted. A truth that is not known is empty.
    names : Pseudonyms or None, default=None
        Names shown for images and patients; rows are sorted by them. None: their own names.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    dataset = evaluation.dataset
    images = [str(image) if names is None else names.image(image) for image in dataset.paths]
    patients = [""] * len(dataset) if dataset.groups is None else dataset.groups.tolist()
    if names is not None and dataset.groups is not None:
        patients = [names.patient(patient) for patient in patients]
    parts = ["truth", "predicted"]
    parts += ["decision", "probability"] if dataset.task == "labels" else []
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["encode", "image", "patient", *(f"{part} {name}" for name in dataset.class_names for part in parts)]
    )
    targets = dataset.targets
    assert targets is not None, "the task needs targets"
    for encode, one in evaluation.decided.items():
        columns = [targets[one.tested], one.predicted]
        columns += [one.decision, one.probability] if dataset.task == "labels" else []
        rows = list(enumerate(one.tested.tolist()))
        for row, i in rows if names is None else sorted(rows, key=lambda pair: images[pair[1]]):
            values = [_number(column[row, k]) for k in range(len(dataset.class_names)) for column in columns]
            table.writerow([encode, images[i], patients[i], *values])
    write_file(path, text.getvalue().encode("utf-8", "surrogateescape"), "table of predictions")


def _number(value: Any) -> str:
    number = float(value)
    if number != number:  # not known
        return ""
    return repr(int(number)) if number.is_integer() else repr(number)


def write_report(
    evaluation: Evaluation, folder: Path, *, names: Pseudonyms | None = None, pictures: bool = True
) -> Path:
    """Write report.html, which holds everything it shows, its figures as PNG, and the check-lists.

    Parameters
    ----------
    evaluation : Evaluation
        Of a data set with the task "labels" or "regression".
    folder : Path
        An existing folder. ``report.html``, ``checklist.csv``, ``checklist.md`` and ``figures/*.png`` are
        written into it.
    names : Pseudonyms or None, default=None
        Not used: the page names no image.
    pictures : bool, default=True
        Not used: the page shows no image of the data set.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If something cannot be written.
    MissingExtraError
        If matplotlib is not installed.
    """
    results = evaluation.results
    page = Page(report_title(results))
    add_summary(page, results, evaluation.dataset)
    figures = make_output_folder(folder / "figures", "figures of the report:")
    sections = label_sections if results["task"] == "labels" else number_sections
    for name, figure in sections(page, evaluation):
        write_file(figures / f"{name}.png", figure, "figure")
    add_checklist(page, results)
    write_checklist(results, folder)
    page.heading("Settings and versions")
    page.details("Settings", shown_settings(results["settings"]))
    page.details("Parameters of each step", {one["encode"]: one["parameters"] for one in results["results"]})
    page.details("Versions", results["versions"])
    page.details("Seconds", {one["encode"]: one["seconds"] for one in results["results"]})
    for title, listed in (("Damaged images that were used", "damaged"), ("Skipped images", "skipped")):
        if results.get(listed):
            page.details(title, {one["image"]: one["reason"] for one in results[listed]})
    return page.write(folder / "report.html")
