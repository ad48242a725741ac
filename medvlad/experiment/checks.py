"""Check the settings of an experiment before any slow step."""

from __future__ import annotations

from typing import Any

from medvlad._util.byte_sizes import check_bytes
from medvlad._util.validate import (
    InputError,
    check_choice,
    check_interval,
    check_n_threads,
    check_positive_float,
    check_positive_int,
    check_seed,
)
from medvlad.backends import get_backend
from medvlad.classifier.training_copies import check_copies
from medvlad.datasets.folders import ImageFolder
from medvlad.datasets.pooling import holds_feature_files
from medvlad.decisions.calibration import AUTO, METHODS
from medvlad.evaluation.class_counts import absent_classes
from medvlad.evaluation.parts import GROUPINGS, has_two_class_test
from medvlad.extraction.parameters import check_parameters

__all__ = ["check_classes_left", "check_data_set", "check_for_layers", "check_settings"]


def check_classes_left(dataset: ImageFolder) -> None:
    """Raise InputError if a class has no image."""
    missing = absent_classes(dataset.labels, dataset.class_names)
    if missing:
        raise InputError(
            f"no usable training image is left of {', '.join(missing)}: add some or remove the class"
        )


def check_data_set(experiment: Any, dataset: ImageFolder) -> None:
    """Raise InputError if a setting does not fit the data set."""
    _check_for_two_classes(experiment, dataset)
    _check_augment(experiment, dataset)


def check_for_layers(experiment: Any) -> None:
    """Raise InputError if layers cannot be scored with these settings."""
    if experiment.augment != "none":
        raise InputError("layers are scored without shifted copies: leave `augment` out")
    if experiment.n_seeds > 1:
        raise InputError(f"n_seeds={experiment.n_seeds}: layers are scored with one seed, so leave it out")
    if experiment.recipe.tiles:
        raise InputError("tiles depend on the layer's grid: leave tiles out to score layers")


def _check_augment(experiment: Any, dataset: ImageFolder) -> None:
    """Raise InputError if shifted copies do not fit the data set or the settings."""
    check_copies(
        experiment.augment,
        experiment.memory,
        experiment.recipe,
        targets=None if dataset.task == "classes" else f"this data set has {dataset.task}",
        bags="this data set holds feature files" if holds_feature_files(dataset) else None,
    )


def _check_for_two_classes(experiment: Any, dataset: ImageFolder) -> None:
    """Raise InputError if a setting for one class an image, or for two, does not fit the data set."""
    if experiment.positive is not None:
        if len(dataset.class_names) != 2:
            raise InputError(
                f"positive={experiment.positive!r} needs a data set with two classes, this one has "
                f"{len(dataset.class_names)}: leave it out"
            )
        check_choice(experiment.positive, "the positive class", dataset.class_names)
    if experiment.threshold is not None and len(dataset.class_names) != 2:
        raise InputError(
            f"threshold={experiment.threshold!r} needs a data set with two classes, this one has "
            f"{len(dataset.class_names)}: leave it out"
        )
    if experiment.memory is not None and dataset.task != "classes":
        raise InputError(
            f"memory={experiment.memory!r} is for data sets with one class an image, and this one has "
            f"{dataset.task}: leave it out"
        )
    if experiment.n_seeds > 1 and dataset.task != "classes":
        raise InputError(
            f"n_seeds={experiment.n_seeds} is for data sets with one class an image, and this one has "
            f"{dataset.task}: leave it out"
        )
    if experiment.adapt_threshold and not has_two_class_test(dataset):
        raise InputError(
            "adapt_threshold=True needs a data set with two classes and a test part: leave it out"
        )


def check_settings(experiment: Any) -> None:
    """Raise InputError if a setting is out of range, whatever the data set."""
    if experiment.C is not None:
        check_positive_float(experiment.C, "C")
    check_interval(experiment.recipe.power, "power", 0.0, 1.0)
    if experiment.calibration is not None:
        check_choice(experiment.calibration, "the calibration", (AUTO, *METHODS))
    check_n_threads(experiment.n_threads)
    if experiment.memory is not None:
        check_bytes(experiment.memory, "memory")
    check_positive_int(experiment.folds, "folds")
    check_choice(experiment.group_by, "group_by", GROUPINGS)
    target = experiment.target()
    if experiment.folds < 2 and (experiment.C is None or experiment.calibration or target):
        raise InputError(f"folds={experiment.folds} is too few to choose C or calibrate: use folds=2 or more")
    check_seed(experiment.seed)
    check_positive_int(experiment.n_seeds, "n_seeds")
    get_backend(experiment.backend)
    check_parameters(experiment.classifier([]).make_network())
