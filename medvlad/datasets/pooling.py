"""Pool several feature files of one patient into one bag."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, check_choice
from medvlad.datasets.feature_files import FEATURE_SUFFIXES, feature_ending
from medvlad.datasets.folders import ImageFolder

__all__ = ["holds_feature_files", "pool_by"]


def holds_feature_files(dataset: ImageFolder) -> bool:
    """Return whether the rows of a data set are feature files instead of images.

    Raises
    ------
    InputError
        If some are feature files and others are images.
    """
    features = [feature_ending(path) is not None for path in dataset.paths]
    if any(features) and not all(features):
        image = dataset.paths[features.index(False)]
        raise InputError(
            f"{dataset.paths[features.index(True)]} is a feature file and {image} is an image: give images "
            "or feature files, not both"
        )
    return bool(features) and all(features)


def pool_by(dataset: ImageFolder, by: str) -> ImageFolder:
    """Pool the feature files of each patient into one bag.

    Parameters
    ----------
    dataset : ImageFolder
        Feature files with known patients.
    by : {"patient"}
        What the files of a bag have in common. A file without a known patient is a bag of its own.

    Returns
    -------
    ImageFolder
        One row for each patient, in the order of the first file. `paths` are the first files, and `files` are
        all files of each patient, in the order of `dataset`. A site or covariate in which files of a patient
        differ is "".

    Raises
    ------
    InputError
        If the rows are images, no patients are known, or the files of a patient differ in class, target, part
        or fold.
    """
    check_choice(by, "pool_by", ("patient",))
    if not holds_feature_files(dataset):
        raise InputError(
            "pool_by='patient' pools feature files, and these are images: give feature files "
            f"({', '.join(FEATURE_SUFFIXES)}), or leave it out"
        )
    if dataset.groups is None:
        raise InputError(
            "pool_by='patient' needs patients, and none are known: name the column of the table that holds "
            "them, or give group_pattern=REGEX"
        )
    members: dict[str, list[int]] = {}
    for i, patient in enumerate(dataset.groups.tolist()):
        members.setdefault(patient, []).append(i)
    _check_agreement(dataset, members)
    bags = list(members.values())
    pooled = dataset.take([rows[0] for rows in bags])

    def common(values: NDArray[np.str_]) -> NDArray[np.str_]:
        named = [set(values[rows].tolist()) for rows in bags]
        return np.array([next(iter(one)) if len(one) == 1 else "" for one in named], np.str_)

    return replace(
        pooled,
        files=[tuple(file for i in rows for file in dataset.files_of(i)) for rows in bags],
        sites=None if dataset.sites is None else common(dataset.sites),
        covariates={name: common(values) for name, values in dataset.covariates.items()},
    )


def _check_agreement(dataset: ImageFolder, members: dict[str, list[int]]) -> None:
    """Raise InputError if files of one patient differ in what is to be predicted, or in their part."""
    classes: list[Hashable] = [dataset.class_names[label] for label in dataset.labels.tolist()]
    if dataset.task != "classes":
        classes = ["" for _ in classes]
    known: dict[str, list[Hashable]] = {"class": classes}
    if dataset.targets is not None:
        known["target"] = [tuple(map(str, row)) for row in dataset.targets.tolist()]
    for what, given in (("part", dataset.splits), ("fold", dataset.folds)):
        if given is not None:
            known[what] = given.tolist()
    for patient, rows in members.items():
        for what, values in known.items():
            for i in rows[1:]:
                if values[i] != values[rows[0]]:
                    raise InputError(
                        f"patient {patient!r} has two values of the {what}: {values[rows[0]]!r} of "
                        f"{dataset.paths[rows[0]]} and {values[i]!r} of {dataset.paths[i]}. Correct one, or "
                        "leave out pool_by='patient'"
                    )
