"""Metrics of decisions on images that were not used for training.

Each metric has its 95 % interval by patient, see :mod:`medvlad.evaluation.intervals`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, confusion_matrix, recall_score, roc_auc_score

from medvlad._util.text_table import text_table
from medvlad._util.validate import check_choice
from medvlad.evaluation.intervals import (
    Estimate,
    auc_estimate,
    mean_estimate,
    patient_numbers,
    proportion_estimate,
    with_intervals,
)

__all__ = ["balanced_accuracy", "class_aucs", "fold_table", "score_table", "scores"]


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
    groups: NDArray[Any] | None = None,
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
        With two classes, the class that sensitivity, specificity and average precision refer to. None: the
        last class.
    groups : ndarray of shape (n,), or None
        Patient of each image. None: each image is a patient of its own.

    Returns
    -------
    dict
        accuracy, balanced_accuracy, auc, sensitivity, specificity, average_precision (area under the curve of
        precision over recall), per_class and confusion_matrix (rows: true class).

        With two classes, sensitivity, specificity and average_precision are those of positive_class. With
        more classes, they and auc are means over classes, each against the others.

        per_class has, by class name, n, sensitivity, specificity, precision, auc and average_precision.

        Each metric but average precision has its 95 % interval, such as accuracy_ci95: [low, high], or None.
        ci95_missing has the reason for each interval that is None, by its name. ci95_of is "patients", or
        "images" without `groups`.

        A metric is None if it is undefined because a class has no test image or is the only one.

    Raises
    ------
    InputError
        If `positive` is not one of the two classes, or `groups` has another length.
    """
    n_classes = len(class_names)
    table = confusion_matrix(labels, predicted, labels=np.arange(n_classes))
    patients = patient_numbers(groups, len(labels))
    estimates = [_class_estimates(labels, predicted, decision, k, patients) for k in range(n_classes)]
    precisions = [
        float(average_precision_score(own, decision[:, k])) if own.any() and not own.all() else None
        for k, own in enumerate(labels == np.arange(n_classes)[:, None])
    ]
    right = predicted == labels
    recalls = [estimates[k]["sensitivity"] for k in np.unique(labels)]
    overall = {
        "accuracy": proportion_estimate(right, patients),
        "balanced_accuracy": mean_estimate(recalls),
        "auc": mean_estimate([one["auc"] for one in estimates]),
    }
    chosen, named = list(range(n_classes)), {}
    if n_classes == 2:
        name = check_choice(positive or class_names[-1], "the positive class", class_names)
        chosen, named = [class_names.index(name)], {"positive_class": name}
    for metric in ("sensitivity", "specificity"):
        overall[metric] = mean_estimate([estimates[k][metric] for k in chosen])
    return (
        with_intervals(overall)
        | {"ci95_of": "images" if groups is None else "patients"}
        | named
        | {
            "average_precision": _mean([precisions[k] for k in chosen]),
            "per_class": {
                name: {"n": int(table[k].sum())}
                | with_intervals(estimates[k])
                | {"average_precision": precisions[k]}
                for k, name in enumerate(class_names)
            },
            "confusion_matrix": table.tolist(),
        }
    )


def _class_estimates(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    decision: NDArray[np.float64],
    k: int,
    patients: NDArray[np.intp],
) -> dict[str, Estimate]:
    """Return the metrics of class `k` against the others."""
    own, said = labels == k, predicted == k
    return {
        "sensitivity": proportion_estimate(said, patients, own),
        "specificity": proportion_estimate(~said, patients, ~own),
        "precision": proportion_estimate(own, patients, said),
        "auc": auc_estimate(own, decision[:, k], patients),
    }


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
        two classes, also sensitivity and specificity. A metric or interval that is None is shown as "-".
    """
    two_classes = all("positive_class" in one for one in results)
    named = ["sensitivity", "specificity"] if two_classes else []
    header = ["encode", "scale", "accuracy", "95 % interval", "balanced", *named, "AUC"]
    rows = []
    for one in results:
        ends = one["accuracy_ci95"]
        row = [
            one["encode"],
            ",".join(map(str, one["scales"])),
            f"{one['accuracy']:.3f}",
            None if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}",
            f"{one['balanced_accuracy']:.3f}",
        ]
        rows.append(row + [None if one[name] is None else f"{one[name]:.3f}" for name in [*named, "auc"]])
    return text_table(header, rows)


def fold_table(result: Mapping[str, Any]) -> str:
    """Return a plain-text table with one line for each given fold, such as a site.

    Parameters
    ----------
    result : dict
        One of the `results` of :meth:`medvlad.experiment.Experiment.evaluate`, with per_fold.

    Returns
    -------
    str
        Columns: fold, number of test images, accuracy and its 95 % interval, balanced accuracy and AUC.
    """
    rows = []
    for one in result["per_fold"]:
        ends = one["accuracy_ci95"]
        rows.append(
            [
                one["fold"],
                str(one["n_test"]),
                f"{one['accuracy']:.3f}",
                None if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}",
                f"{one['balanced_accuracy']:.3f}",
                None if one["auc"] is None else f"{one['auc']:.3f}",
            ]
        )
    header = [f"{result['encode']}, tested on", "images", "accuracy", "95 % interval", "balanced", "AUC"]
    return text_table(header, rows)
