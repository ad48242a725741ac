"""The sections of a report on numbers: a table of all targets, and predicted numbers over true ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from medvlad.experiment import Evaluation
from medvlad.report.html import Page
from medvlad.report.metric_rows import by_what, with_interval
from medvlad.report.target_plots import errors_over_truth, predicted_over_truth

__all__ = ["number_sections"]


def number_sections(page: Page, evaluation: Evaluation) -> Iterator[tuple[str, bytes]]:
    """Add the sections to a page. Yield name and PNG of each figure."""
    results, dataset = evaluation.results, evaluation.dataset
    targets = dataset.targets
    assert targets is not None, "the task needs targets"
    page.heading("Results")
    page.table(
        ["", "target", "images", "R2", "mean absolute error", "Spearman's correlation", "alpha of the ridge"],
        [_row(one["encode"], target) for one in results["results"] for target in one["targets"]],
        f"Below each value is its 95 % interval {by_what(results)}. A model that always "
        "predicts the mean has an R2 of about 0. Alpha was chosen inside the training images by leaving out "
        "one patient at a time.",
    )
    for pair in results["comparisons"]:
        for name, value in pair["difference"]["mae"].items():
            page.paragraph(_compared(pair, name, value))
    for result in results["results"]:
        encode, held = result["encode"], evaluation.decided[result["encode"]]
        page.heading(encode)
        shown = []
        for k, name in enumerate(dataset.class_names):
            truth, predicted = targets[held.tested, k], held.predicted[:, k]
            known = ~np.isnan(truth)
            if not known.any():
                continue
            predictions = predicted_over_truth(truth[known], predicted[known], name)
            errors = errors_over_truth(truth[known], predicted[known], name)
            shown.append((predictions, f"{name}: predicted over true, on held-out images."))
            shown.append((errors, f"{name}: error over true value."))
            yield f"{encode}-predicted{k}", predictions
            yield f"{encode}-errors{k}", errors
        page.pictures(shown, "wide")


def _row(encode: str, target: Mapping[str, Any]) -> list[Any]:
    metrics = [with_interval(target, m, ".4g" if m == "mae" else ".3f") for m in ("r2", "mae", "spearman")]
    low, high = min(target["alpha"]), max(target["alpha"])
    alpha = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
    return [encode, target["target"], target["n"], *metrics, alpha]


def _compared(pair: Mapping[str, Any], name: str, value: float | None) -> str:
    ends = pair["difference_ci95"]["mae"][name]
    if value is None:
        return f"{pair['second']} and {pair['first']} cannot be compared on {name}: it is not known."
    reason = pair["difference_ci95_missing"]["mae"].get(name)
    interval = f"no interval: {reason}" if ends is None else f"95 % interval {ends[0]:+.3g} to {ends[1]:+.3g}"
    return (
        f"{pair['second']} minus {pair['first']} on the same images: mean absolute error of {name} "
        f"{value:+.3g} ({interval})."
    )
