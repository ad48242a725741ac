"""Held-out decision values and novelty of rows, by cross-validation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from medvlad._util.validate import InputError, check_positive_int
from medvlad.decisions.novelty import MAX_REFERENCES, make_references, novelty_of
from medvlad.svm.decision import decision_columns
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["held_out_rows"]


def held_out_rows(
    classifier: WideLinearSVC,
    rows: NDArray[Any],
    labels: NDArray[np.int64],
    groups: ArrayLike | None,
    *,
    folds: int,
    random_state: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Return held-out decision values and novelty of each row, from a classifier fitted without it.

    Parameters
    ----------
    classifier : WideLinearSVC
        It is cloned before it is fitted.
    rows : ndarray of shape (n, d)
    labels : ndarray of int, shape (n,)
        From 0 to n_classes - 1. Every class must be present.
    groups : array-like of shape (n,), or None
        Rows of a group stay in one fold.
    folds : int
        Maximum number of folds. It is reduced to the number of rows (groups) of the smallest class.
    random_state : int
        Seed of the folds and of the references.

    Returns
    -------
    decision : ndarray of float64, shape (n, n_classes)
    novelty : ndarray of float64, shape (n,)
    n_references : int
        Number of rows that each fold compares with.

    Raises
    ------
    InputError
        If there are fewer than two folds, or a fold leaves a class without rows.
    """
    # Importing it takes long, and a model that was loaded does not need it.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    n_classes = int(labels.max()) + 1
    units = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    smallest = min(len(np.unique(units[labels == k])) for k in range(n_classes))
    if check_positive_int(folds, "folds") < 2:
        raise InputError(f"folds={folds} must be at least 2")
    if smallest < 2:
        what = "rows" if groups is None else "groups"
        raise InputError(
            f"calibration needs at least 2 {what} of each class, but a class has 1: add rows, or use "
            "WideLinearSVC alone"
        )
    splitter = (StratifiedKFold if groups is None else StratifiedGroupKFold)(
        min(folds, smallest), shuffle=True, random_state=random_state
    )
    parts = list(splitter.split(np.zeros(len(labels)), labels, None if groups is None else units))
    n_references = min(MAX_REFERENCES, *(len(train) for train, _ in parts))
    decision = np.empty((len(labels), n_classes))
    novelty = np.empty(len(labels))
    for train, test in parts:
        if len(np.unique(labels[train])) < n_classes:
            raise InputError(
                "a fold has no row of one class, because folds keep the rows of a group together: add groups"
            )
        svm = clone(classifier).fit(rows[train], labels[train])
        decision[test] = decision_columns(svm.decision_function(rows[test]))
        references = make_references(rows[train], n_references=n_references, random_state=random_state)
        novelty[test] = novelty_of(references, rows[test])
    return decision, novelty, n_references
