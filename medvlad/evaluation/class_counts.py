"""Number of independent images of each class."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FEW_PATIENTS",
    "LEAST_FOR_BOOTSTRAP",
    "absent_classes",
    "few_patients",
    "units_per_class",
    "warn_of_few_patients",
    "warn_of_small_classes",
]

logger = logging.getLogger(__name__)

#: With fewer patients in the smallest class, with a label or with a known number, a warning is logged.
FEW_PATIENTS = 20
#: With fewer patients, a bootstrap gives no interval, because it would be too narrow.
LEAST_FOR_BOOTSTRAP = 10


def units_per_class(
    labels: NDArray[np.int64], groups: NDArray[Any] | None, n_classes: int
) -> NDArray[np.int64]:
    """Return the number of patients of each class, or of images if the patients are unknown.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
        From 0 to n_classes - 1.
    groups : ndarray of shape (n,), or None
        Patient of each image. A patient with images of several classes counts in each of them. None: patients
        are unknown.
    n_classes : int
        Number of classes.

    Returns
    -------
    ndarray of int64, shape (n_classes,)
    """
    if groups is not None:
        _, patients = np.unique(groups.astype(str), return_inverse=True)
        labels = np.unique(np.column_stack([labels, patients]), axis=0)[:, 0]
    return np.bincount(labels, minlength=n_classes)


def absent_classes(labels: NDArray[np.int64], class_names: Sequence[str]) -> list[str]:
    """Return the names of the classes that no label stands for, in their order.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
        Indices into `class_names`.
    class_names : sequence of str

    Returns
    -------
    list of str
    """
    present = set(labels.tolist())
    return [name for k, name in enumerate(class_names) if k not in present]


def warn_of_small_classes(
    labels: NDArray[np.int64],
    groups: NDArray[Any] | None,
    class_names: Sequence[str],
    *,
    units: str = "images",
) -> None:
    """Log a warning if a class has no test image, or too few patients for a reliable interval.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
        True classes of the test images, indices into `class_names`.
    groups : ndarray of shape (n,), or None
        See :func:`units_per_class`.
    class_names : sequence of str
    units : {"images", "bags"}, default="images"
        What the labels are of.
    """
    absent = absent_classes(labels, class_names)
    if absent:
        logger.warning(
            f"the test part has no {units[:-1]} of %s: metrics that need such {units} are left out",
            ", ".join(absent),
        )
    counts = units_per_class(labels, groups, len(class_names))
    smallest = min((k for k in range(len(counts)) if counts[k] > 0), key=lambda k: counts[k], default=None)
    if smallest is None or counts[smallest] >= FEW_PATIENTS:
        return
    what = f"test {units}" if groups is None else f"patients among the test {units}"
    logger.warning(
        f"class %s has only %d {what}: with fewer than %d, metrics are uncertain and intervals are rough",
        class_names[smallest],
        counts[smallest],
        FEW_PATIENTS,
    )


def few_patients(result: Mapping[str, Any]) -> list[str]:
    """Return the labels that few test patients have, or the targets that are known for few of them.

    Parameters
    ----------
    result : mapping
        What :func:`medvlad.evaluation.label_metrics.label_scores` or
        :func:`medvlad.evaluation.regression.number_scores` returned. Without patients, images count.

    Returns
    -------
    list of str
        Names with fewer than `FEW_PATIENTS`.
    """
    if "labels" in result:
        return [one["label"] for one in result["labels"] if one["n_positive_patients"] < FEW_PATIENTS]
    return [one["target"] for one in result["targets"] if one["n_patients"] < FEW_PATIENTS]


def warn_of_few_patients(result: Mapping[str, Any], *, units: str = "images") -> None:
    """Log a warning if a label or a target has too few test patients for reliable metrics.

    Parameters
    ----------
    result : mapping
        See :func:`few_patients`.
    units : {"images", "bags"}, default="images"
        What the targets are of.
    """
    few = few_patients(result)
    if few:
        who = units if result["ci95_of"] == "images" else "patients"
        have = "have" if "labels" in result else "have a known value of"
        message = f"fewer than %d test {who} {have} %s: these metrics are uncertain"
        logger.warning(message, FEW_PATIENTS, ", ".join(few))
