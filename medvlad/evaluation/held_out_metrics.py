"""Metrics of held-out predictions: what one encoding writes into results.json."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad.datasets.folders import ImageFolder
from medvlad.decisions.operating_point import Target
from medvlad.evaluation.calibration import calibration_metrics
from medvlad.evaluation.comparison import compare
from medvlad.evaluation.cross_validation import HeldOut
from medvlad.evaluation.decision_curve import decision_curve
from medvlad.evaluation.metrics import scores
from medvlad.evaluation.recalibration import recalibration
from medvlad.evaluation.subgroups import subgroup_metrics
from medvlad.evaluation.threshold import ASSUMPTION, find_threshold
from medvlad.svm.decision import decision_columns

__all__ = ["compare_held_out", "held_out_metrics"]


def held_out_metrics(
    dataset: ImageFolder,
    decided: HeldOut,
    *,
    positive: str | None = None,
    random_state: int = 0,
    adapt_threshold: bool = False,
    target: Target | None = None,
) -> dict[str, Any]:
    """Return the metrics of held-out predictions.

    Parameters
    ----------
    dataset : ImageFolder
    decided : HeldOut
    positive : str or None
        See :func:`medvlad.evaluation.metrics.scores`.
    random_state : int, default=0
        Seed of the threshold.
    adapt_threshold : bool, default=False
        Whether to decide a second time with a threshold found in the decision values of the test images,
        without their labels. For two classes only. See :mod:`medvlad.evaluation.threshold`.
    target : Target or None, default=None
        The operating point of ``decided.thresholds``.

    Returns
    -------
    dict
        The dict of :func:`medvlad.evaluation.metrics.scores` over all test images (all folds together), and

        - C and inner_balanced_accuracy of each fold, n_train (of the first fold), n_test, protocol, and
          seconds by stage
        - with probabilities: calibration, see :func:`medvlad.evaluation.calibration.calibration_metrics`, and
          its by_class, see :func:`medvlad.evaluation.recalibration.recalibration`: only the positive class of
          two. With two classes also decision_curve of the positive class, see
          :func:`medvlad.evaluation.decision_curve.decision_curve`
        - with sites or covariates: subgroups, see :func:`medvlad.evaluation.subgroups.subgroup_metrics`
        - with `adapt_threshold`: adapted, a dict with threshold (of the decision value of threshold_of, the
          second class), assumption, and the same metrics with that threshold. If none was found, threshold is
          None and reason says why
        - with given folds, such as sites: per_fold, a list of dicts with fold, n_test and the same metrics of
          its images, without per_class
        - with `target`: operating_point, a dict with target (such as "sensitivity=0.95"), threshold (of each
          fold, of the decision value of threshold_of, the second class), and the same metrics with them
    """
    labels, groups = dataset.labels[decided.tested], dataset.groups_of(decided.tested)
    names = dataset.class_names

    def metrics(decision: NDArray[np.float64]) -> dict[str, Any]:
        return scores(labels, decision.argmax(axis=1), decision, names, positive=positive, groups=groups)

    result = metrics(decided.decision)
    if adapt_threshold:
        found = find_threshold(decided.decision[:, 1], random_state=random_state)
        result["adapted"] = {"threshold": found.value, "threshold_of": names[1], "assumption": ASSUMPTION}
        if found.value is None:
            result["adapted"]["reason"] = found.reason
        else:
            result["adapted"] |= metrics(decision_columns(decided.decision[:, 1] - found.value))
    if dataset.folds is not None:
        result["per_fold"] = _per_fold(dataset, decided, positive)
    if target is not None and decided.thresholds is not None:
        by_fold = dict.fromkeys(decided.thresholds.tolist())  # in the order of the folds
        result["operating_point"] = {
            "target": str(target),
            "threshold": list(by_fold),
            "threshold_of": names[1],
            **metrics(decision_columns(decided.decision[:, 1] - decided.thresholds)),
        }
    if decided.probability is not None:
        result["calibration"] = calibration_metrics(labels, decided.probability)
        result |= _of_probabilities(labels, decided.probability, groups, names, result)
    subgroups = subgroup_metrics(dataset, decided.tested, decided.decision, positive=positive)
    if subgroups is not None:
        result["subgroups"] = subgroups
    result["C"], result["inner_balanced_accuracy"] = decided.penalties, decided.inner_balanced_accuracy
    return result | decided.facts()


def _per_fold(dataset: ImageFolder, decided: HeldOut, positive: str | None) -> list[dict[str, Any]]:
    """Return the metrics of each given fold, in the order of their names."""
    if dataset.folds is None:
        return []
    labels, groups = dataset.labels[decided.tested], dataset.groups_of(decided.tested)
    folds, found = dataset.folds[decided.tested], []
    for fold in np.unique(folds):
        own = folds == fold
        metrics = scores(
            labels[own],
            decided.decision[own].argmax(axis=1),
            decided.decision[own],
            dataset.class_names,
            positive=positive,
            groups=None if groups is None else groups[own],
        )
        del metrics["per_class"]
        found.append({"fold": str(fold), "n_test": int(own.sum())} | metrics)
    return found


def _of_probabilities(
    labels: NDArray[np.int64],
    probability: NDArray[np.float64],
    groups: NDArray[Any] | None,
    names: list[str],
    result: dict[str, Any],
) -> dict[str, Any]:
    """Return calibration, with slope and intercept of classes, and with two classes the decision curve."""
    positive = result.get("positive_class")
    chosen = names if positive is None else [positive]
    by_class = {
        name: recalibration(labels == names.index(name), probability[:, names.index(name)], groups=groups)
        for name in chosen
    }
    found: dict[str, Any] = {"calibration": result["calibration"] | {"by_class": by_class}}
    if positive is not None:
        k = names.index(positive)
        found["decision_curve"] = {"class": positive} | decision_curve(
            labels == k, probability[:, k], groups=groups
        )
    return found


def compare_held_out(dataset: ImageFolder, first: HeldOut, second: HeldOut) -> dict[str, Any]:
    """Compare two sets of held-out predictions on the same images.

    Parameters
    ----------
    dataset : ImageFolder
    first, second : HeldOut

    Returns
    -------
    dict
        See :func:`medvlad.evaluation.comparison.compare`.
    """
    return compare(
        dataset.labels[first.tested],
        first.decision,
        second.decision,
        groups=dataset.groups_of(first.tested),
    )
