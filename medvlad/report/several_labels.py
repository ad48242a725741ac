"""The sections of a report on several labels: a table of all labels, their AUC, curves and calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medvlad.datasets.describe import units_in_words
from medvlad.evaluation.class_counts import FEW_PATIENTS, few_patients
from medvlad.experiment import Evaluation
from medvlad.report.html import Page
from medvlad.report.metric_rows import by_what, with_interval
from medvlad.report.settings import penalties_in_words
from medvlad.report.target_plots import aucs_of_labels, calibration_of_labels, roc_of_labels

__all__ = ["label_sections"]

_COLUMNS = (
    *("label", "images", "with it", "AUC", "AP", "sensitivity", "specificity", "precision (PPV)"),
    *("threshold", "Brier score"),
)
_AVERAGES = ("auc", "average_precision", "sensitivity", "specificity")


def label_sections(page: Page, evaluation: Evaluation) -> Iterator[tuple[str, bytes]]:
    """Add the sections to a page. Yield name and PNG of each figure."""
    results, dataset = evaluation.results, evaluation.dataset
    targets = dataset.targets
    assert targets is not None, "the task needs targets"
    page.heading("Results")
    page.table(
        ["", "AUC", "average precision", "sensitivity", "specificity", "Brier score"],
        [row for one in results["results"] for row in _averages(one)],
        "Macro: mean over the labels. Micro: all pairs of image and label together. Below each value is its "
        f"95 % interval {by_what(results)}.",
    )
    for pair in results["comparisons"]:
        page.paragraph(_compared(pair))
    for result in results["results"]:
        encode, held = result["encode"], evaluation.decided[result["encode"]]
        page.heading(encode)
        page.table(
            _COLUMNS,
            [_row(one) for one in result["labels"]],
            f"Below each value is its 95 % interval {by_what(results)}, if there is one. AP: average "
            "precision. Thresholds and probabilities were learned inside the training images. C: "
            f"{penalties_in_words(result['C'])}.",
        )
        few = few_patients(result)
        if few:
            who = units_in_words(results["dataset"]) if result["ci95_of"] == "images" else "patients"
            page.paragraph(
                f"Fewer than {FEW_PATIENTS} test {who} have {', '.join(few)}, so the metrics of these "
                "labels are uncertain.",
                "warning",
            )
        truth = targets[held.tested]
        drawn = [
            ("auc", aucs_of_labels(result["labels"]), "AUC of each label with its 95 % interval."),
            ("roc", roc_of_labels(truth, held.decision, dataset.class_names), "ROC curve of each label."),
            (
                "calibration",
                calibration_of_labels(result["labels"]),
                "Share of images with the label over their mean probability, in bins of equal size.",
            ),
        ]
        page.pictures([(picture, caption) for _, picture, caption in drawn])
        yield from ((f"{encode}-{name}", picture) for name, picture, _ in drawn)


def _averages(result: Mapping[str, Any]) -> Iterator[list[Any]]:
    for kind in ("macro", "micro"):
        of = result[kind]
        brier = of["calibration"]["brier"] if "calibration" in of else None
        yield [f"{result['encode']}, {kind}", *(with_interval(of, metric) for metric in _AVERAGES), brier]


def _row(one: Mapping[str, Any]) -> list[Any]:
    share = "" if one["prevalence"] is None else f"\n{one['prevalence']:.1%}"
    metrics = [with_interval(one, metric) for metric in (*_AVERAGES, "precision")]
    brier = one["calibration"]["brier"] if "calibration" in one else None
    return [one["label"], one["n"], f"{one['n_positive']}{share}", *metrics, _range(one["threshold"]), brier]


def _range(values: Sequence[float]) -> str:
    """Return a value, or the smallest and the largest of the folds."""
    low, high = min(values), max(values)
    return f"{low:+.2f}" if low == high else f"{low:+.2f}\nto {high:+.2f}"


def _compared(pair: Mapping[str, Any]) -> str:
    value, ends = pair["difference"]["auc"], pair["difference_ci95"]["auc"]
    if value is None:
        return f"{pair['second']} and {pair['first']} cannot be compared: the macro AUC is not defined."
    reason = pair["difference_ci95_missing"].get("auc")
    interval = f"no interval: {reason}" if ends is None else f"95 % interval {ends[0]:+.3f} to {ends[1]:+.3f}"
    return f"{pair['second']} minus {pair['first']} on the same images: macro AUC {value:+.3f} ({interval})."
