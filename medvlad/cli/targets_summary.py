"""Summary that evaluate prints for several labels and for numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["targets_summary"]


def targets_summary(report: dict[str, Any], *, has_test_part: bool) -> Iterator[str]:
    """Yield the table of metrics, and lines that explain it."""
    from medvlad.datasets.describe import patients_in_words, units_in_words
    from medvlad.evaluation.label_metrics import label_table
    from medvlad.evaluation.regression import number_table

    results = report["results"]
    labels = report["task"] == "labels"
    yield label_table(results) if labels else number_table(results)
    first, units = results[0], units_in_words(report["dataset"])
    patients = patients_in_words(report["dataset"])
    known = "" if patients is None else f" of {patients}"
    if has_test_part:
        counted = (
            f"{first['n_train']} training and {first['n_test']} test {units}{known} ({first['protocol']})"
        )
    else:
        counted = f"{first['n_test']} {units}{known}, each tested once ({first['protocol']})"
    by = f"over {units}" if first["ci95_of"] == "images" else "by patient"
    yield f"{counted}; fitted on training {units} only. Intervals are {by}."
    if labels:
        yield from _of_labels(results)
    yield from (_compared(pair, labels) for pair in report["comparisons"])
    if patients is None:
        yield f"No patients were found: each {units[:-1]} counts as a separate patient."


def _of_labels(results: list[dict[str, Any]]) -> Iterator[str]:
    """Yield C, the quality of the probabilities, and the labels that are left out of the mean."""
    for one in results:
        quality = one["micro"]["calibration"]
        penalties = ", ".join(f"{value:g}" for value in sorted(set(one["C"])))
        yield (
            f"{one['encode']}: C {penalties}; probabilities of all labels: Brier score "
            f"{quality['brier']:.3f}, calibration error {quality['expected_calibration_error']:.3f}."
        )
        if one["macro"]["left_out"]:
            yield (
                f"{one['encode']}: the macro average leaves out {', '.join(one['macro']['left_out'])}, "
                "because the test images all have the label or all lack it."
            )
    yield "Thresholds and probabilities were learned inside the training images."


def _compared(pair: dict[str, Any], labels: bool) -> str:
    """Return the difference of two encodings on the same images."""
    ends, reasons = pair["difference_ci95"], pair["difference_ci95_missing"]
    if labels:
        found = [("macro AUC", pair["difference"]["auc"], ends["auc"], reasons.get("auc"))]
    else:
        found = [
            (f"MAE of {name}", value, ends["mae"][name], reasons["mae"].get(name))
            for name, value in pair["difference"]["mae"].items()
        ]
    listed = ", ".join(_with_interval(*one) for one in found)
    return f"{pair['second']} minus {pair['first']}: {listed}"


def _with_interval(name: str, value: float | None, ends: list[float] | None, reason: str | None) -> str:
    if value is None:
        return f"{name} not defined"
    interval = f"no interval: {reason}" if ends is None else f"95 % interval {ends[0]:+.3g} to {ends[1]:+.3g}"
    return f"{name} {value:+.3g} ({interval})"
