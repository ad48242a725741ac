"""How well a representation classifies: figures of merit of decisions on images not trained on.

The decisions come from :mod:`medvlad.evaluation.cross_validation`. accuracy_ci95 takes images for
independent. It is Wilson's score interval of a proportion p = k / n, z = 1.96::

    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)        (Wilson, JASA 1927)

bootstrap_ci95 draws patients where they are known; see :mod:`medvlad.evaluation.bootstrap`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    roc_auc_score,
)

from medvlad._util.text_table import text_table
from medvlad._util.validate import check_choice
from medvlad.datasets.folders import ImageFolder
from medvlad.evaluation.bootstrap import bootstrap_intervals, compare
from medvlad.evaluation.calibration import calibration_figures
from medvlad.evaluation.cross_validation import HeldOut
from medvlad.evaluation.threshold import mixture_threshold

__all__ = [
    "compare_decisions",
    "figures",
    "score_table",
    "scores",
    "wilson_interval",
]

_Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson_interval(n_correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion.

    Parameters
    ----------
    n_correct, n : int
        Successes out of `n` >= 1 trials.

    Returns
    -------
    low, high : float
        Within [0, 1].
    """
    p = n_correct / n
    center = p + _Z95**2 / (2 * n)
    half = _Z95 * math.sqrt(p * (1 - p) / n + _Z95**2 / (4 * n**2))
    scale = 1 + _Z95**2 / n
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def scores(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    decision: NDArray[np.float64],
    class_names: list[str],
    *,
    positive: str | None = None,
) -> dict[str, Any]:
    """Figures of merit of predictions on images not trained on.

    Parameters
    ----------
    labels, predicted : ndarray of int, shape (n,)
        Indices into `class_names`.
    decision : ndarray of float, shape (n, n_classes)
        Larger means more likely that class.
    class_names : list of str
    positive : str or None
        With two classes, the one whose detection sensitivity and specificity speak of; None: the last.

    Returns
    -------
    dict
        accuracy, accuracy_ci95, balanced_accuracy, auc, average_precision (area under precision over recall),
        sensitivity, specificity (with two classes those of positive_class; all of these with more classes the
        mean of one against the rest), per_class (n, sensitivity, specificity, precision, their 95 %
        intervals of Wilson as sensitivity_ci95, ..., auc, average_precision),
        confusion_matrix (rows: truth). A figure that is undefined because a class has no test image, or is
        the only one, is None.
    """
    n_classes = len(class_names)
    table = confusion_matrix(labels, predicted, labels=np.arange(n_classes))
    correct, n = int(np.trace(table)), int(table.sum())
    per_class: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(class_names):
        own, others = int(table[k].sum()), n - int(table[k].sum())
        found, said = int(table[k, k]), int(table[:, k].sum())
        per_class[name] = {"n": own}
        for figure, n_correct, of in (
            ("sensitivity", found, own),
            ("specificity", others - (said - found), others),
            ("precision", found, said),
        ):
            per_class[name][figure] = n_correct / of if of else None
            per_class[name][f"{figure}_ci95"] = list(wilson_interval(n_correct, of)) if of else None
        per_class[name] |= {
            "auc": float(roc_auc_score(labels == k, decision[:, k])) if own and others else None,
            "average_precision": float(average_precision_score(labels == k, decision[:, k])) if own else None,
        }
    aucs, precisions = ([c[name] for c in per_class.values()] for name in ("auc", "average_precision"))
    result: dict[str, Any] = {
        "accuracy": correct / n,
        "accuracy_ci95": list(wilson_interval(correct, n)),
        "balanced_accuracy": float(
            np.mean([table[k, k] / row for k, row in enumerate(table.sum(axis=1)) if row])
        ),
        "auc": None if None in aucs else sum(aucs) / n_classes,
        "average_precision": None if None in precisions else sum(precisions) / n_classes,
    }
    chosen = class_names
    if n_classes == 2:
        chosen = [check_choice(positive or class_names[-1], "the positive class", class_names)]
        result["positive_class"] = chosen[0]
    for figure in ("sensitivity", "specificity"):
        values = [per_class[name][figure] for name in chosen]
        result[figure] = None if None in values else sum(values) / len(values)
        if n_classes == 2:
            result[f"{figure}_ci95"] = per_class[chosen[0]][f"{figure}_ci95"]
    result["per_class"] = per_class
    result["confusion_matrix"] = table.tolist()
    return result


def figures(
    dataset: ImageFolder,
    decided: HeldOut,
    *,
    positive: str | None = None,
    random_state: int = 0,
    adapt_threshold: bool = False,
) -> dict[str, Any]:
    """Figures of merit of decisions.

    Parameters
    ----------
    dataset : ImageFolder
    decided : HeldOut
    positive : str or None
        See :func:`scores`.
    random_state : int, default=0
        Seed of the bootstrap.
    adapt_threshold : bool, default=False
        For two classes: whether to decide besides by a threshold found in the test images' decision values,
        without their labels; see :mod:`medvlad.evaluation.threshold`.

    Returns
    -------
    dict
        What :func:`scores` returns over all test images (those of all folds pooled), with bootstrap_ci95 (see
        :func:`medvlad.evaluation.bootstrap.bootstrap_intervals`) and what it draws, C and
        inner_balanced_accuracy of
        each fold, n_train, n_test, protocol and seconds by stage; with probabilities also calibration, see
        :func:`medvlad.evaluation.calibration.calibration_figures`; with `adapt_threshold` also adapted:
        threshold (None where there is none) and, for it, the same figures.
    """
    labels, groups = dataset.labels[decided.tested], _groups_of(dataset, decided)
    result = scores(
        labels, decided.decision.argmax(axis=1), decided.decision, dataset.class_names, positive=positive
    )
    result["bootstrap_ci95"] = bootstrap_intervals(
        labels, decided.decision, groups=groups, random_state=random_state
    )
    result["bootstrap_of"] = "images" if groups is None else "patients"
    if adapt_threshold:
        cut = mixture_threshold(decided.decision[:, 1], random_state=random_state)
        result["adapted"] = {"threshold": cut}
        if cut is not None:
            moved = (decided.decision[:, 1] - cut)[:, None] * [-1, 1]
            result["adapted"] |= scores(
                labels, moved.argmax(axis=1), moved, dataset.class_names, positive=positive
            )
            result["adapted"]["bootstrap_ci95"] = bootstrap_intervals(
                labels, moved, groups=groups, random_state=random_state
            )
    if decided.probability is not None:
        result["calibration"] = calibration_figures(labels, decided.probability)
    result["C"], result["inner_balanced_accuracy"] = decided.penalties, decided.inner_balanced_accuracy
    result["n_test"], result["n_train"] = len(labels), len(decided.fitted[0].train)
    result["protocol"] = decided.protocol
    result["seconds"] = {name: round(seconds, 4) for name, seconds in decided.seconds.items()}
    return result


def compare_decisions(
    dataset: ImageFolder, first: HeldOut, second: HeldOut, *, random_state: int = 0
) -> dict[str, Any]:
    """Whether one of two is better on the same images: see :func:`medvlad.evaluation.bootstrap.compare`."""
    return compare(
        dataset.labels[first.tested],
        first.decision,
        second.decision,
        groups=_groups_of(dataset, first),
        random_state=random_state,
    )


def _groups_of(dataset: ImageFolder, decided: HeldOut) -> NDArray[Any] | None:
    return None if dataset.groups is None else dataset.groups[decided.tested]


def score_table(results: list[Mapping[str, Any]]) -> str:
    """Return a plain-text table with one line for each result.

    Parameters
    ----------
    results : list of dict
        The `results` of :meth:`medvlad.experiment.Experiment.evaluate`.

    Returns
    -------
    str
        Columns: encode, scale, accuracy and its 95 % interval, balanced accuracy, AUC. If every result has
        two classes, also sensitivity and specificity. An undefined metric is shown as "-".
    """
    two_classes = all("positive_class" in one for one in results)
    named = ["sensitivity", "specificity"] if two_classes else []
    header = ["encode", "scale", "accuracy", "95 % interval", "balanced", *named, "AUC"]
    rows = []
    for one in results:
        low, high = one["accuracy_ci95"]
        row = [
            one["encode"],
            ",".join(map(str, one["scales"])),
            f"{one['accuracy']:.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{one['balanced_accuracy']:.3f}",
        ]
        rows.append(row + [None if one[name] is None else f"{one[name]:.3f}" for name in [*named, "auc"]])
    return text_table(header, rows)
