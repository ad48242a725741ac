"""Number of independent images of each class."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEW_PATIENTS", "absent_classes", "units_per_class", "warn_of_small_classes"]

logger = logging.getLogger(__name__)

#: With fewer patients in the smallest class, a warning is logged.
FEW_PATIENTS = 20


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
