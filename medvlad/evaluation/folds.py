"""Divide images into training and test parts: given parts, given folds, or stratified folds of patients."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from medvlad._util.validate import InputError, check_positive_int
from medvlad.datasets.folders import ImageFolder
from medvlad.evaluation.class_counts import absent_classes, units_per_class

__all__ = [
    "check_part",
    "given_parts",
    "how_to_add",
    "parts_by_fold",
    "parts_of",
    "protocol_of",
    "stratified_folds",
    "warn_of_shared_patients",
]

logger = logging.getLogger(__name__)

Part = tuple[NDArray[np.intp], NDArray[np.intp]]


def stratified_folds(
    labels: NDArray[np.int64], groups: NDArray[Any] | None, folds: int, random_state: int
) -> Iterator[Part]:
    """Yield indices (train, test) of stratified folds. Images of a patient stay together."""
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    folded = splitter(folds, shuffle=True, random_state=random_state)
    yield from folded.split(np.zeros(len(labels)), labels, groups)


def given_parts(dataset: ImageFolder) -> list[Part]:
    """Return indices (train, test) of the data set's own folds, or of its parts. Empty: it has neither."""
    if dataset.folds is not None:
        return parts_by_fold(dataset.folds)
    if dataset.splits is not None:
        train, test = (np.flatnonzero(dataset.splits == part) for part in ("train", "test"))
        return [(train, test)]
    return []


def parts_by_fold(fold: NDArray[Any]) -> list[Part]:
    """Return indices (train, test) of each fold. `fold` (n,) is the fold of each image."""
    return [(np.flatnonzero(fold != one), np.flatnonzero(fold == one)) for one in np.unique(fold)]


def parts_of(dataset: ImageFolder, folds: int, random_state: int) -> Iterator[Part]:
    """Yield indices (train, test): of the given folds or parts, or of stratified folds."""
    if given := given_parts(dataset):
        yield from given
        return
    if check_positive_int(folds, "folds") < 2:
        raise InputError(f"folds={folds} must be at least 2, or give a train and a test folder")
    counts = units_per_class(dataset.labels, dataset.groups, len(dataset.class_names))
    smallest = int(counts.min())
    if folds > smallest:
        what = "images" if dataset.groups is None else "patients"
        advice = how_to_add(dataset.groups)
        if smallest >= 2:
            advice = "use folds=2" if smallest == 2 else f"use folds={smallest} or fewer"
        raise InputError(
            f"folds={folds} needs at least {folds} {what} in every class, but class "
            f"{dataset.class_names[int(counts.argmin())]!r} has {smallest}: {advice}, or give a train and a "
            "test folder"
        )
    yield from stratified_folds(dataset.labels, dataset.groups, folds, random_state)


def protocol_of(dataset: ImageFolder, folds: int) -> str:
    """Return how the images are divided, in words."""
    if dataset.folds is None:
        return "train and test part" if dataset.splits is not None else f"{folds}-fold cross-validation"
    if dataset.folds is dataset.sites or (
        dataset.sites is not None and np.array_equal(dataset.folds, dataset.sites)
    ):
        return f"leaving out one of {len(np.unique(dataset.folds))} sites at a time"
    return f"cross-validation over {len(np.unique(dataset.folds))} given folds"


def how_to_add(groups: NDArray[Any] | None) -> str:
    """Return how to get more independent images of a class."""
    if groups is None:
        return "add images of it"
    return "add patients of it, or name the patients with group_pattern=REGEX if the groups are none"


def check_part(dataset: ImageFolder, train: NDArray[np.intp], test: NDArray[np.intp]) -> None:
    """Raise InputError unless every class has a training image and there is a test image.

    Patients in both parts are a warning.
    """
    missing = ", ".join(absent_classes(dataset.labels[train], dataset.class_names))
    if missing and dataset.folds is not None:
        raise InputError(
            f"all usable images of {missing} are in the fold {str(dataset.folds[test[0]])!r}, so there is "
            "nothing to train on when it is tested: use other folds, or remove the class"
        )
    if missing and dataset.splits is not None:
        raise InputError(f"the train part has no usable image of {missing}: add some or remove the class")
    if missing:
        raise InputError(
            f"one fold has no training image of {missing}, because folds keep the images of a patient "
            "together: use another `random_state`, add patients of this class or remove the class"
        )
    if len(test) == 0:
        raise InputError("the test part has no usable image: add some, or give a folder without a test part")
    warn_of_shared_patients(dataset, train, test)


def warn_of_shared_patients(dataset: ImageFolder, train: NDArray[np.intp], test: NDArray[np.intp]) -> None:
    """Log a warning if patients are in both parts."""
    if dataset.groups is None:
        return
    shared = set(dataset.groups[train]) & set(dataset.groups[test])
    if shared:
        logger.warning(
            "%d patients (such as %s) are in both the training and the test part, so the metrics are too "
            "optimistic: move each patient to one part",
            len(shared),
            min(shared),
        )
