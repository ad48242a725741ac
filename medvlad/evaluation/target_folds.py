"""Folds for several labels and for numbers: patients stay together, every fold gets its share of each label.

The images of a patient are one unit. The rarest value of any label comes first. Each of its units, largest
first, goes to the fold that lacks most images of this value. If folds are equal, it goes to the one that
lacks most images (iterative stratification: Sechidis, Tsoumakas & Vlahavas, ECML PKDD 2011, here for
patients). Unknown labels are ignored. Numbers are stratified by their quintiles.

Packages that stratify several labels neither keep patients together nor accept unknown labels, so they are
not used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, check_positive_int
from medvlad.datasets.folders import ImageFolder
from medvlad.evaluation.folds import given_parts, parts_by_fold, protocol_of, warn_of_shared_patients

__all__ = ["balanced_folds", "check_targets", "target_parts", "targets_of"]

Part = tuple[NDArray[np.intp], NDArray[np.intp]]

_FIFTHS = (0.2, 0.4, 0.6, 0.8)
#: Patients with and without a label, so that nested folds have both.
_LEAST_UNITS = 3


def check_targets(dataset: ImageFolder, folds: int) -> None:
    """Raise InputError if a target is known for too few patients of the training part.

    With folds of its own, all images of a data set are training images in turn.

    Parameters
    ----------
    dataset : ImageFolder
        With the task "labels" or "regression".
    folds : int
        Number of folds.
    """
    if check_positive_int(folds, "folds") < 2:
        raise InputError(f"folds={folds} is too few for several labels or numbers: use folds=2 or more")
    targets = targets_of(dataset)
    train = np.ones(len(targets), bool)
    if dataset.splits is not None and dataset.folds is None:
        train = dataset.splits == "train"
    what = "images" if dataset.groups is None else "patients"
    units = np.arange(len(targets)) if dataset.groups is None else dataset.groups
    for k, name in enumerate(dataset.class_names):
        column = targets[:, k]
        kinds = {f"with {name}": column == 1, f"without {name}": column == 0}
        if dataset.task == "regression":
            kinds = {f"whose {name} is known": ~np.isnan(column)}
        for kind, rows in kinds.items():
            n = len(np.unique(units[rows & train]))
            if n < _LEAST_UNITS:
                raise InputError(
                    f"there are {n} training {what} {kind}, and at least {_LEAST_UNITS} are needed: add "
                    f"some, or leave {name} out"
                )


def target_parts(dataset: ImageFolder, folds: int, random_state: int) -> tuple[list[Part], str]:
    """Return indices (train, test) of each fold, and the name of the protocol.

    The data set's own folds are used. Otherwise a train and a test part are one fold, or folds are drawn.
    Patients in both parts of a fold are a warning.

    Parameters
    ----------
    dataset : ImageFolder
        With the task "labels" or "regression".
    folds : int
        Number of folds that are drawn.
    random_state : int
        Seed of the folds.

    Raises
    ------
    InputError
        If there is no test image.
    """
    if parts := given_parts(dataset):
        for train, test in parts:
            if len(test) == 0:
                raise InputError("the test part has no usable image: add some, or give no test part")
            warn_of_shared_patients(dataset, train, test)
        return parts, protocol_of(dataset, folds)
    fold = balanced_folds(targets_of(dataset), dataset.groups, folds, random_state, task=dataset.task)
    parts = parts_by_fold(fold)
    return parts, protocol_of(dataset, len(parts))


def balanced_folds(
    targets: NDArray[np.float64],
    groups: NDArray[Any] | None,
    folds: int,
    random_state: int,
    *,
    task: str = "labels",
) -> NDArray[np.intp]:
    """Return the fold of each image.

    Parameters
    ----------
    targets : ndarray of float64, shape (n, n_targets)
        Labels (0 or 1) or numbers. NaN: not known.
    groups : ndarray of shape (n,), or None
        Patient of each image. None: each image is a patient of its own.
    folds : int
        Number of folds. It is reduced to the number of patients.
    random_state : int
        Seed for the order of equal patients and folds.
    task : {"labels", "regression"}, default="labels"
        What `targets` are.

    Returns
    -------
    ndarray of int, shape (n,)
        From 0 to the number of folds - 1. Each fold has images.
    """
    rng = np.random.default_rng(random_state)
    n = len(targets)
    unit = np.arange(n) if groups is None else np.unique(groups.astype(str), return_inverse=True)[1]
    n_units = int(unit.max()) + 1
    folds = min(folds, n_units)
    kinds = _kinds(targets, task)
    sizes = np.bincount(unit, minlength=n_units)
    counts = np.stack([np.bincount(unit, kind, n_units) for kind in kinds], axis=1)
    wanted = np.repeat(counts.sum(axis=0)[None] / folds, folds, axis=0)  # images a fold still lacks
    room = np.full(folds, n / folds)
    luck = rng.permutation(n_units)
    found = np.full(n_units, -1)
    left = counts.copy()
    while (found < 0).any():
        totals = left.sum(axis=0)
        if totals.any():
            rarest = int(np.where(totals > 0, totals, np.inf).argmin())
            units, lacks = np.flatnonzero(left[:, rarest] > 0), wanted[:, rarest]
            order = units[np.lexsort([luck[units], -left[units, rarest]])]
        else:  # nothing is known of the others
            units = np.flatnonzero(found < 0)
            order, lacks = units[np.lexsort([luck[units], -sizes[units]])], room
        for one in order.tolist():
            fold = int(np.lexsort([rng.random(folds), -room, -lacks])[0])
            found[one] = fold
            wanted[fold] -= counts[one]
            room[fold] -= sizes[one]
        left[order] = 0
    _fill_empty_folds(found, sizes, folds)
    return found[unit]


def _fill_empty_folds(found: NDArray[np.intp], sizes: NDArray[np.intp], folds: int) -> None:
    """Give each empty fold the smallest unit of the fold with most units, in place."""
    for fold in range(folds):
        if not (found == fold).any():
            units = np.flatnonzero(found == np.bincount(found, minlength=folds).argmax())
            found[units[sizes[units].argmin()]] = fold


def _kinds(targets: NDArray[np.float64], task: str) -> list[NDArray[np.bool_]]:
    """Return masks of images that are to be spread evenly over the folds."""
    if task == "labels":
        return [targets[:, k] == value for k in range(targets.shape[1]) for value in (1, 0)]
    kinds = []
    for column in targets.T:
        known = ~np.isnan(column)
        edges = np.quantile(column[known], _FIFTHS) if known.any() else np.zeros(len(_FIFTHS))
        fifth = np.searchsorted(edges, column)
        kinds += [known & (fifth == value) for value in range(len(_FIFTHS) + 1)]
    return kinds


def targets_of(dataset: ImageFolder, task: str | None = None) -> NDArray[np.float64]:
    """Return the targets of a data set with the given task. None: "labels" or "regression".

    Raises
    ------
    InputError
        If it has another task, or no targets.
    """
    if dataset.targets is None or task not in (None, dataset.task):
        wanted = "targets" if task is None else f"targets for the task {task!r}"
        raise InputError(f"the data set has the task {dataset.task!r} and no {wanted}: give its columns")
    return dataset.targets
