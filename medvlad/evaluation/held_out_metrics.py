"""Metrics of held-out predictions: what one encoding writes into results.json."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad.datasets.folders import ImageFolder
from medvlad.evaluation.bootstrap import bootstrap_intervals, compare
from medvlad.evaluation.calibration import calibration_metrics
from medvlad.evaluation.cross_validation import HeldOut
from medvlad.evaluation.metrics import scores
from medvlad.evaluation.threshold import mixture_threshold
from medvlad.svm.decision import decision_columns

__all__ = ["compare_held_out", "held_out_metrics"]


def held_out_metrics(
    dataset: ImageFolder,
    decided: HeldOut,
    *,
    positive: str | None = None,
    random_state: int = 0,
    adapt_threshold: bool = False,
) -> dict[str, Any]:
    """Return the metrics of held-out predictions.

    Parameters
    ----------
    dataset : ImageFolder
    decided : HeldOut
    positive : str or None
        See :func:`medvlad.evaluation.metrics.scores`.
    random_state : int, default=0
        Seed of the bootstrap and of the threshold.
    adapt_threshold : bool, default=False
        Whether to decide a second time with a threshold found in the decision values of the test images,
        without their labels. For two classes only. See :mod:`medvlad.evaluation.threshold`.

    Returns
    -------
    dict
        The dict of :func:`medvlad.evaluation.metrics.scores` over all test images (all folds together), and

        - bootstrap_ci95, see :func:`medvlad.evaluation.bootstrap.bootstrap_intervals`, and bootstrap_of:
          "patients" or "images", whichever the bootstrap draws
        - C and inner_balanced_accuracy of each fold, n_train (of the first fold), n_test, protocol, and
          seconds by stage
        - with probabilities: calibration, see :func:`medvlad.evaluation.calibration.calibration_metrics`
        - with `adapt_threshold`: adapted, a dict with threshold (None if none was found) and the same metrics
          with that threshold
    """
    labels, groups = dataset.labels[decided.tested], _tested_groups(dataset, decided)

    def with_intervals(decision: NDArray[np.float64]) -> dict[str, Any]:
        found = scores(labels, decision.argmax(axis=1), decision, dataset.class_names, positive=positive)
        found["bootstrap_ci95"] = bootstrap_intervals(
            labels, decision, groups=groups, random_state=random_state
        )
        return found

    result = with_intervals(decided.decision)
    result["bootstrap_of"] = "images" if groups is None else "patients"
    if adapt_threshold:
        threshold = mixture_threshold(decided.decision[:, 1], random_state=random_state)
        result["adapted"] = {"threshold": threshold}
        if threshold is not None:
            result["adapted"] |= with_intervals(decision_columns(decided.decision[:, 1] - threshold))
    if decided.probability is not None:
        result["calibration"] = calibration_metrics(labels, decided.probability)
    result["C"], result["inner_balanced_accuracy"] = decided.penalties, decided.inner_balanced_accuracy
    result["n_test"], result["n_train"] = len(labels), len(decided.fitted[0].train)
    result["protocol"] = decided.protocol
    result["seconds"] = {name: round(seconds, 4) for name, seconds in decided.seconds.items()}
    return result


def compare_held_out(
    dataset: ImageFolder, first: HeldOut, second: HeldOut, *, random_state: int = 0
) -> dict[str, Any]:
    """Compare two sets of held-out predictions on the same images.

    Parameters
    ----------
    dataset : ImageFolder
    first, second : HeldOut
    random_state : int, default=0
        Seed of the bootstrap.

    Returns
    -------
    dict
        See :func:`medvlad.evaluation.bootstrap.compare`.
    """
    return compare(
        dataset.labels[first.tested],
        first.decision,
        second.decision,
        groups=_tested_groups(dataset, first),
        random_state=random_state,
    )


def _tested_groups(dataset: ImageFolder, decided: HeldOut) -> NDArray[Any] | None:
    """Return the patient of each tested image, None if the patients are unknown."""
    return None if dataset.groups is None else dataset.groups[decided.tested]
