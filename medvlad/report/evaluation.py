"""The report of an evaluation: one HTML file, its figures, and check-lists."""

from __future__ import annotations

from pathlib import Path

from medvlad.datasets.pseudonyms import Pseudonyms
from medvlad.experiment import Evaluation
from medvlad.explain import largest_evidence
from medvlad.report.checklist import add_checklist, write_checklist
from medvlad.report.dataset import add_dataset
from medvlad.report.explanations import explain_page
from medvlad.report.external import add_external
from medvlad.report.html import Page
from medvlad.report.kept import KeptFigures
from medvlad.report.metric_rows import by_what
from medvlad.report.pictures import ShownError, confident_errors
from medvlad.report.sections import (
    add_clusters,
    add_errors,
    add_figures,
    add_metrics,
    add_per_class,
    add_settings,
    add_subgroups,
)
from medvlad.report.several_targets import write_target_report
from medvlad.report.summary import add_summary, report_title

__all__ = ["explain_page", "write_report"]


def write_report(
    evaluation: Evaluation, folder: Path, *, names: Pseudonyms | None = None, pictures: bool = True
) -> Path:
    """Write report.html as one self-contained file, its figures, and the reporting check-lists.

    The page begins with a summary. Figures follow, then tables, and the settings at the end. For several
    labels and for numbers, the page shows no image, and figures are PNG only.

    Parameters
    ----------
    evaluation : Evaluation
    folder : Path
        An existing folder. ``report.html``, ``checklist.csv``, ``checklist.md`` and ``figures/`` are written
        into it. A figure is there as PNG and SVG, and its numbers as CSV. Figures of an earlier report in
        this folder are removed.
    names : Pseudonyms or None, default=None
        Names shown for images. None: their file names.
    pictures : bool, default=True
        Whether to show images of the data set: errors, and patches of clusters.

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
    if evaluation.dataset.task != "classes":
        return write_target_report(evaluation, folder)
    kept, results = KeptFigures(folder / "figures"), evaluation.results
    pictures = pictures and evaluation.extractor is not None  # feature files show nothing
    page = Page(report_title(results))
    add_summary(page, results, evaluation.dataset)
    errors: dict[str, list[ShownError]] = {}
    if pictures:
        errors = {
            name: list(confident_errors(evaluation, one, names=names))
            for name, one in evaluation.decided.items()
        }
    # One scale for all maps of the report, so that they can be compared.
    largest = largest_evidence(one.evidence for listed in errors.values() for one in listed)
    for result, (name, one) in zip(results["results"], evaluation.decided.items(), strict=True):
        page.heading(f"Figures: {name}")
        add_figures(page, kept, evaluation, result, one)
        if pictures:
            add_errors(page, kept, evaluation, name, errors[name], largest)
            add_clusters(page, kept, evaluation, name)
    page.heading("Tables")
    add_metrics(page, results)
    for result in results["results"]:
        add_per_class(page, result, by_what(results))
        add_subgroups(page, result, by_what(results))
    add_external(page, results)
    add_dataset(page, results["dataset"])
    add_checklist(page, results)
    add_settings(page, results)
    write_checklist(results, folder)
    had_one = (folder / "report.html").exists()
    written = page.write(folder / "report.html")
    if had_one:
        kept.remove_others()
    return written
