"""Check the train and the test part of a data set before anything is computed."""

from __future__ import annotations

import logging

from medvlad._util.validate import InputError
from medvlad.datasets.folders import ImageFolder
from medvlad.evaluation.class_counts import absent_classes

__all__ = ["check_parts", "has_two_class_test", "warn_of_absent_classes"]

logger = logging.getLogger(__name__)


def check_parts(dataset: ImageFolder) -> None:
    """Raise InputError if a data set with parts lacks the train or the test part."""
    if dataset.splits is None:
        return
    for part, other in (("train", "test"), ("test", "train")):
        if not (dataset.splits == part).any():
            raise InputError(
                f"there is a {other} part but no {part} part: add one, or give the folder of the classes "
                "itself for cross-validation"
            )


def warn_of_absent_classes(dataset: ImageFolder) -> None:
    """Log a warning if a class has no test image."""
    if dataset.splits is None:
        return
    absent = absent_classes(dataset.labels[dataset.splits == "test"], dataset.class_names)
    if absent:
        logger.warning(
            "the test part has no image of %s: metrics that need such images are left out", ", ".join(absent)
        )


def has_two_class_test(dataset: ImageFolder) -> bool:
    """Return whether the data set has two classes and a test part."""
    return len(dataset.class_names) == 2 and dataset.splits is not None
