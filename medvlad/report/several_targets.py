"""The report of an evaluation of several labels or of numbers."""

from __future__ import annotations

from pathlib import Path

from medvlad._util.atomic_file import write_file
from medvlad._util.validate import make_output_folder
from medvlad.experiment import Evaluation
from medvlad.report.checklist import add_checklist, write_checklist
from medvlad.report.html import Page
from medvlad.report.regression import number_sections
from medvlad.report.sections import add_settings
from medvlad.report.several_labels import label_sections
from medvlad.report.summary import add_summary, report_title

__all__ = ["write_target_report"]


def write_target_report(evaluation: Evaluation, folder: Path) -> Path:
    """Do the work of :func:`medvlad.report.write_report` for the tasks "labels" and "regression"."""
    results = evaluation.results
    page = Page(report_title(results))
    add_summary(page, results, evaluation.dataset)
    figures = make_output_folder(folder / "figures", "figures of the report:")
    sections = label_sections if results["task"] == "labels" else number_sections
    for name, figure in sections(page, evaluation):
        write_file(figures / f"{name}.png", figure, "figure")
    add_checklist(page, results)
    write_checklist(results, folder)
    add_settings(page, results)
    return page.write(folder / "report.html")
