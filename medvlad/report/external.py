"""Sections of a report on external validation: shares of the classes, estimated without labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medvlad.datasets.describe import units_in_words
from medvlad.report.html import Page
from medvlad.report.metric_rows import by_what

__all__ = ["add_external", "external_lines", "share_rows"]

_HEADER = ["class", "training images", "estimated here, without labels", "true share here"]


def add_external(page: Page, results: Mapping[str, Any]) -> None:
    """Add the estimated shares of the classes. Nothing is added without external validation.

    Parameters
    ----------
    page : Page
    results : mapping
        ``results`` of :class:`medvlad.experiment.Evaluation`; external is from
        :func:`medvlad.external.validate`.
    """
    found = results.get("external")
    if found is None:
        return
    page.heading("Shares of the classes", 3)
    if found["shares"] is None:
        page.paragraph(f"The shares were not estimated: {found['shares_missing']}.")
        return
    page.table(
        *share_rows(results),
        "The estimate (Saerens et al. 2002) is right only if the images of each class look like the training "
        "images of that class. A large difference from the true share means that they do not, or that the "
        "probabilities are not calibrated.",
    )


def share_rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the shares of the classes. There are no rows if they were not estimated."""
    rows = []
    for name, one in (results["external"]["shares"] or {}).items():
        rows.append(
            [name, f"{one['training']:.3f}", _with_interval(one, "estimated"), f"{one['observed']:.3f}"]
        )
    return _HEADER, rows


def external_lines(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines for a terminal: number of images, metrics with intervals, and calibration."""
    one = results["results"][0]
    units = units_in_words(results["dataset"])
    yield f"{one['n_test']} {units}, nothing is fitted on them; 95 % intervals {by_what(results)}"
    names = ["accuracy", "balanced_accuracy", "auc"]
    names += ["sensitivity", "specificity"] if "positive_class" in one else []
    for metric in names:
        yield f"{metric.replace('_', ' ').replace('auc', 'AUC')} {_with_interval(one, metric)}"
    if "positive_class" in one:
        yield f"Sensitivity is that of {one['positive_class']}."
    for name, found in one.get("calibration", {}).get("by_class", {}).items():
        yield (
            f"calibration of {name}: slope {_with_interval(found, 'slope')}, intercept (in the large) "
            f"{_with_interval(found, 'intercept')}, observed {found['observed']:.3f}, expected "
            f"{found['expected']:.3f}"
        )
    if results["external"]["shares"] is None:
        yield f"Shares of the classes were not estimated: {results['external']['shares_missing']}."


def _with_interval(found: Mapping[str, Any], metric: str) -> str:
    value, ends = found[metric], found[f"{metric}_ci95"]
    if value is None:
        return "not defined"
    return f"{value:.3f}" + ("" if ends is None else f" ({ends[0]:.3f} to {ends[1]:.3f})")
