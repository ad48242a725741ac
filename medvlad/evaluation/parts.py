"""Check the train and the test part of a data set, and its folds, before anything is computed."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from medvlad._util.validate import InputError
from medvlad.datasets.folders import ImageFolder

__all__ = ["GROUPINGS", "check_parts", "has_two_class_test", "with_sites_as_folds"]

logger = logging.getLogger(__name__)

GROUPINGS = ("patient", "site")
"""What the folds of a cross-validation keep together."""


def check_parts(dataset: ImageFolder) -> None:
    """Raise InputError if a data set with parts lacks the train or the test part."""
    if dataset.folds is not None:
        if len(set(dataset.folds.tolist())) < 2:
            raise InputError(f"all images are in the fold {dataset.folds[0]!r}: name at least two folds")
        return
    if dataset.splits is None:
        return
    for part, other in (("train", "test"), ("test", "train")):
        if not (dataset.splits == part).any():
            raise InputError(
                f"there is a {other} part but no {part} part: add one, or give the folder of the classes "
                "itself for cross-validation"
            )


def has_two_class_test(dataset: ImageFolder) -> bool:
    """Return whether the data set has two classes and a test part."""
    return dataset.task == "classes" and len(dataset.class_names) == 2 and dataset.splits is not None


def with_sites_as_folds(dataset: ImageFolder) -> ImageFolder:
    """Return a data set whose folds are its sites. Each site is tested by a classifier of the others.

    A split into train and test is not used then, which is logged.

    Raises
    ------
    InputError
        If sites are not known, the site of an image is not known, or there is only one.
    """
    if dataset.sites is None:
        raise InputError(
            "group_by='site' needs the site of each image: give a table with a column site, or name the "
            "column with site_column=NAME"
        )
    n_unknown = int((dataset.sites == "").sum())
    if n_unknown:
        raise InputError(
            f"group_by='site' needs the site of each image, and {n_unknown:,} of {len(dataset):,} images "
            "have none: fill in the column of sites, or remove these rows"
        )
    sites = np.unique(dataset.sites)
    if len(sites) < 2:
        raise InputError(
            f"group_by='site' needs two sites or more, and all images are from {sites[0]!r}: use "
            "group_by='patient'"
        )
    if dataset.splits is not None:
        logger.warning("the split into train and test is not used, because each site is tested in turn")
    return replace(dataset, splits=None, folds=dataset.sites)
