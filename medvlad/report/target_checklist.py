"""Answers of the check-lists about several labels and numbers, where they differ from those about classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from medvlad.datasets.describe import units_in_words
from medvlad.report.checklist_input import frozen_network
from medvlad.report.metric_rows import by_what
from medvlad.report.settings import penalties_in_words
from medvlad.report.target_summary import target_metrics

__all__ = ["answers_of_targets", "imbalance_of_targets"]


def answers_of_targets(r: Mapping[str, Any]) -> dict[str, Callable[[Mapping[str, Any]], str]]:
    """Return the answers by name that replace those about classes. Empty for a run on classes."""
    if "task" not in r:
        return {}
    return {
        "aim": _aim,
        "outcome": _outcome,
        "model": _model,
        "measures": _measures,
        "calibration": _calibration,
        "output": _output,
        "performance": _performance,
        "technology": _technology,
        "training": _training,
        "uncertainty": _uncertainty,
        "explanations": _nothing_for_targets,
        "failures": _failures,
    }


def imbalance_of_targets(r: Mapping[str, Any]) -> str:
    """Return how many test images have each label. Numbers have no classes."""
    if not _of_labels(r):
        return "Numbers have no classes."
    first, units = r["results"][0], units_in_words(r["dataset"])
    listed = ", ".join(f"{one['label']} {one['n_positive']} of {one['n']}" for one in first["labels"])
    weight = r["settings"].get("class_weight")
    return f"Test {units} with each label: {listed}. Class weights: {weight or 'none'}."


def _of_labels(r: Mapping[str, Any]) -> bool:
    return bool(r["task"] == "labels")


def _aim(r: Mapping[str, Any]) -> str:
    what, units = "several labels" if _of_labels(r) else "numbers", units_in_words(r["dataset"])
    return (
        f"Development of a model that predicts {what} from {units}, and its evaluation on held-out {units} "
        "(internal validation)."
    )


def _outcome(r: Mapping[str, Any]) -> str:
    names = ", ".join(r["dataset"]["class_names"])
    if _of_labels(r):
        return f"Labels, any number of them at once: {names}. Add how and by whom they were assigned."
    return f"Numbers: {names}. Add their units, and how and by whom they were measured."


def _model(r: Mapping[str, Any]) -> str:
    names = ", ".join(one["encode"] for one in r["results"])
    tuned = (
        "C chosen by cross-validation inside the training data"
        if r["settings"].get("C") == "cv"
        else "C fixed"
    )
    last = f"a linear SVM for each label ({tuned})" if _of_labels(r) else "ridge regression"
    protocol = r["results"][0]["protocol"]
    return f"{frozen_network(r)}, encoding {names}, {last}. Internal validation: {protocol}."


def _measures(r: Mapping[str, Any]) -> str:
    if _of_labels(r):
        return (
            "AUC, average precision, sensitivity, specificity, precision, Brier score and calibration error "
            "of each label, and macro and micro averages; ROC and calibration curves."
        )
    return "R2, mean absolute error and Spearman's correlation of each number; predicted over true numbers."


def _calibration(r: Mapping[str, Any]) -> str:
    if not _of_labels(r):
        return "None."
    found = [
        f"{one['encode']}: Brier score {one['micro']['calibration']['brier']:.3f}, calibration error "
        f"{one['micro']['calibration']['expected_calibration_error']:.3f}"
        for one in r["results"]
        if "calibration" in one["micro"]
    ]
    return (
        f"Probabilities of each label by Platt's method, inside the training data. {'; '.join(found)}".strip()
    )


def _output(r: Mapping[str, Any]) -> str:
    if _of_labels(r):
        return (
            "For each label a decision value, a probability, and whether it is above the label's threshold."
        )
    return "A number for each of the predicted quantities."


def _performance(r: Mapping[str, Any]) -> str:
    found = [
        f"{one['encode']}: {what} {first}, {', '.join(others)}".replace("*", "").replace("\u00a0", " ")
        for one in r["results"]
        for what, first, others in target_metrics(r, one)
    ]
    return "; ".join(found) + "."


def _technology(r: Mapping[str, Any]) -> str:
    last = "classifiers, one for each label" if _of_labels(r) else "regression"
    return f"Transfer learning: a frozen network with linear {last}."


def _training(r: Mapping[str, Any]) -> str:
    first, s = r["results"][0], r["settings"]
    mirror = "mirrored copies too" if s.get("mirror") else "no augmentation"
    last = "ridge regression are fitted" if not _of_labels(r) else "SVMs are fitted"
    chosen = (
        f"C: {penalties_in_words(first['C'])}" if _of_labels(r) else "alpha by leaving out one patient each"
    )
    return f"Only encoder and {last} ({mirror}); {chosen}; seed {s.get('seed', 'unknown')}."


def _uncertainty(r: Mapping[str, Any]) -> str:
    pairs = " Encodings are compared by the interval of their difference." if r["comparisons"] else ""
    return f"95 % intervals {by_what(r)}.{pairs}"


def _nothing_for_targets(r: Mapping[str, Any]) -> str:
    return "None: evidence maps are for models of one class."


def _failures(r: Mapping[str, Any]) -> str:
    return "Every held-out prediction is in predictions.csv."
