r"""Metrics of decisions on images that were not used for training.

`accuracy_ci95` and the other intervals of proportions are Wilson's score interval (Wilson, JASA 1927). For
:math:`k` successes out of :math:`n` independent images, :math:`p = k / n` and :math:`z = 1.96`, it is

.. math::

   \frac{p + \frac{z^2}{2n} \pm z \sqrt{\frac{p (1 - p)}{n} + \frac{z^2}{4 n^2}}}{1 + \frac{z^2}{n}} .

Images of one patient are not independent. The intervals named `bootstrap_ci95` take this into account, see
:mod:`medvlad.evaluation.bootstrap`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, confusion_matrix, recall_score, roc_auc_score

from medvlad._util.text_table import text_table
from medvlad._util.validate import check_choice

__all__ = ["balanced_accuracy", "class_aucs", "score_table", "scores", "wilson_interval"]


def wilson_interval(n_correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion.

    Parameters
    ----------
    n_correct : int
        Number of successes.
    n : int
        Number of trials, at least 1.

    Returns
    -------
    low, high : float
        Ends of the interval, within [0, 1].
    """
    interval = binomtest(n_correct, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def balanced_accuracy(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """Return the mean over classes of the share of images that are predicted correctly.

    Parameters
    ----------
    labels, predicted : ndarray of int, shape (n,)
        True and predicted classes. Classes without an image in `labels` do not count.

    Returns
    -------
    float
    """
    return float(recall_score(labels, predicted, labels=np.unique(labels), average="macro"))


def class_aucs(labels: NDArray[np.int64], decision: NDArray[np.float64]) -> list[float | None]:
    """Return the area under the ROC curve of each class against the others.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
        From 0 to n_classes - 1.
    decision : ndarray of float, shape (n, n_classes)
        Larger values mean that the class is more likely.

    Returns
    -------
    list of float or None
        One for each class. None if all images belong to the class, or none does.
    """
    members = [labels == k for k in range(decision.shape[1])]
    return [
        float(roc_auc_score(own, decision[:, k])) if own.any() and not own.all() else None
        for k, own in enumerate(members)
    ]


def scores(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    decision: NDArray[np.float64],
    class_names: list[str],
    *,
    positive: str | None = None,
) -> dict[str, Any]:
    """Return the metrics of predictions on images that were not used for training.

    Parameters
    ----------
    labels, predicted : ndarray of int, shape (n,)
        True and predicted classes, indices into `class_names`.
    decision : ndarray of float, shape (n, n_classes)
        Larger values mean that the class is more likely.
    class_names : list of str
    positive : str or None
        With two classes, the class that sensitivity and specificity refer to. None: the last class.

    Returns
    -------
    dict
        accuracy, accuracy_ci95, balanced_accuracy, auc, average_precision (area under the curve of precision
        over recall), sensitivity, specificity, per_class and confusion_matrix (rows: true class).

        With two classes, sensitivity and specificity are those of positive_class, with their intervals. With
        more classes, they, auc and average_precision are means over classes, each against the others.

        per_class has, by class name, n, sensitivity, specificity, precision, their 95 % intervals (Wilson)
        such as sensitivity_ci95, auc and average_precision.

        A metric is None if it is undefined because a class has no test image or is the only one.

    Raises
    ------
    InputError
        If `positive` is not one of the two classes.
    """
    n_classes = len(class_names)
    table = confusion_matrix(labels, predicted, labels=np.arange(n_classes))
    correct, n = int(np.trace(table)), int(table.sum())
    aucs = class_aucs(labels, decision)
    per_class = {
        name: _class_scores(table, k)
        | {
            "auc": aucs[k],
            "average_precision": (
                float(average_precision_score(labels == k, decision[:, k])) if table[k].any() else None
            ),
        }
        for k, name in enumerate(class_names)
    }
    result: dict[str, Any] = {
        "accuracy": correct / n,
        "accuracy_ci95": list(wilson_interval(correct, n)),
        "balanced_accuracy": balanced_accuracy(labels, predicted),
        "auc": _mean(aucs),
        "average_precision": _mean([one["average_precision"] for one in per_class.values()]),
    }
    chosen = class_names
    if n_classes == 2:
        chosen = [check_choice(positive or class_names[-1], "the positive class", class_names)]
        result["positive_class"] = chosen[0]
    for metric in ("sensitivity", "specificity"):
        result[metric] = _mean([per_class[name][metric] for name in chosen])
        if n_classes == 2:
            result[f"{metric}_ci95"] = per_class[chosen[0]][f"{metric}_ci95"]
    result["per_class"] = per_class
    result["confusion_matrix"] = table.tolist()
    return result


def _class_scores(table: NDArray[np.int64], k: int) -> dict[str, Any]:
    """Return n and the proportions of class `k` with their intervals, from a confusion matrix."""
    own, n = int(table[k].sum()), int(table.sum())
    others = n - own
    found, said = int(table[k, k]), int(table[:, k].sum())
    result: dict[str, Any] = {"n": own}
    for metric, n_correct, total in (
        ("sensitivity", found, own),
        ("specificity", others - (said - found), others),
        ("precision", found, said),
    ):
        result[metric] = n_correct / total if total else None
        result[f"{metric}_ci95"] = list(wilson_interval(n_correct, total)) if total else None
    return result


def _mean(values: list[float | None]) -> float | None:
    """Return the mean, or None if a value is undefined."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if len(defined) == len(values) else None


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
