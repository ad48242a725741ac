"""The report of an evaluation of several labels or of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medvlad._util.atomic_file import write_file
from medvlad._util.validate import make_output_folder
from medvlad.datasets.describe import patients_in_words
from medvlad.experiment import Evaluation
from medvlad.report.html import Page
from medvlad.report.regression import number_sections
from medvlad.report.sections import add_settings
from medvlad.report.several_labels import label_sections
from medvlad.report.summary import NO_PATIENTS, report_title

__all__ = ["write_target_report"]


def write_target_report(evaluation: Evaluation, folder: Path) -> Path:
    """Do the work of :func:`medvlad.report.write_report` for the tasks "labels" and "regression"."""
    results = evaluation.results
    page = _first_lines(results)
    figures = make_output_folder(folder / "figures", "figures of the report:")
    sections = label_sections if results["task"] == "labels" else number_sections
    for name, figure in sections(page, evaluation):
        write_file(figures / f"{name}.png", figure, "figure")
    add_settings(page, results)
    return page.write(folder / "report.html")


def _first_lines(results: dict[str, Any]) -> Page:
    dataset, first = results["dataset"], results["results"][0]
    known = patients_in_words(dataset)
    patients = "" if known is None else f" of {known}"
    n = len(dataset["class_names"])
    what = "labels" if results["task"] == "labels" else "numbers"
    page = Page(
        report_title(results),
        f"{dataset['n_images']} images{patients}, {n} {what if n > 1 else what[:-1]}. {first['n_train']} "
        f"images to train, {first['n_test']} to test ({first['protocol']}). Everything is fitted on training "
        "images only.",
    )
    for warning in results.get("warnings", []):
        page.paragraph(f"Warning: {warning}.", "warning")
    if first["ci95_of"] == "images":
        page.paragraph(NO_PATIENTS, "warning")
    return page
