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
from medvlad.evaluation.metrics import scores
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
        - with probabilities: calibration, see :func:`medvlad.evaluation.calibration.calibration_metrics`
        - with `adapt_threshold`: adapted, a dict with threshold (of the decision value of threshold_of, the
          second class), assumption, and the same metrics with that threshold. If none was found, threshold is
          None and reason says why
        - with `target`: operating_point, a dict with target (such as "sensitivity=0.95"), threshold (of each
          fold, of the decision value of threshold_of, the second class), and the same metrics with them
    """
    labels, groups = dataset.labels[decided.tested], _tested_groups(dataset, decided)
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
    result["C"], result["inner_balanced_accuracy"] = decided.penalties, decided.inner_balanced_accuracy
    result["n_test"], result["n_train"] = len(labels), len(decided.fitted[0].train)
    result["protocol"] = decided.protocol
    result["seconds"] = {name: round(seconds, 4) for name, seconds in decided.seconds.items()}
    return result


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
        groups=_tested_groups(dataset, first),
    )


def _tested_groups(dataset: ImageFolder, decided: HeldOut) -> NDArray[Any] | None:
    """Return the patient of each tested image, None if the patients are unknown."""
    return None if dataset.groups is None else dataset.groups[decided.tested]
