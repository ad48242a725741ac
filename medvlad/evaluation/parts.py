"""Check the train and the test part of a data set before anything is computed."""

from __future__ import annotations

from medvlad._util.validate import InputError
from medvlad.datasets.folders import ImageFolder

__all__ = ["check_parts", "has_two_class_test"]


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


def has_two_class_test(dataset: ImageFolder) -> bool:
    """Return whether the data set has two classes and a test part."""
    return len(dataset.class_names) == 2 and dataset.splits is not None
