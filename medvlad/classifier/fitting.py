"""Fit the steps after the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from medvlad._util.validate import InputError
from medvlad.classifier.parameters import check_classes_left, checked_columns, settle
from medvlad.classifier.steps import PENALTIES, ClassifierSteps
from medvlad.classifier.training_copies import add_copies, check_copies
from medvlad.datasets.folders import ImageFolder
from medvlad.decisions.operating_point import Target, read_target
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.recipe import encoder_steps
from medvlad.evaluation.calibrated_training import check_two_class_settings, train_classifier
from medvlad.evaluation.choice import Choice
from medvlad.evaluation.targets import TargetRun
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.svm.invariance import Nuisance
from medvlad.svm.targets import names_of_targets

__all__ = ["TrainingImages", "describe_training_images", "fit_steps", "fit_targets", "label_run"]


@dataclass(frozen=True)
class TrainingImages:
    """Training images that could be read.

    Attributes
    ----------
    descriptors : Descriptors or DescriptorBlocks, n
    labels : ndarray of shape (n,)
        Class of each image.
    groups : ndarray of shape (n,), or None
        Patient of each image. None: not known.
    network : CNNDescriptors
        Built.
    skipped : list of (int, str)
        Index and reason of each image that was left out.
    nuisance : Nuisance or None
        Which of the rows are shifted copies. None: there are no copies.
    """

    descriptors: Descriptors | DescriptorBlocks
    labels: NDArray[Any]
    groups: NDArray[Any] | None
    network: CNNDescriptors
    skipped: list[tuple[int, str]]
    nuisance: Nuisance | None = None


def describe_training_images(steps: ClassifierSteps, images: Any, y: Any, groups: Any) -> TrainingImages:
    """Extract training images, and leave out those that cannot be read if the parameters say so.

    Raises
    ------
    InputError
        If a parameter is wrong, an image cannot be read and must be, or a class has no image left.
    """
    labels, patients = checked_columns(len(images), y, groups)
    if labels.ndim == 2:
        label_run(steps, labels, patients, y)
    else:
        check_two_class_settings(np.unique(labels), positive=steps.positive, threshold=_target(steps))
        _check_augment(steps)
    network = steps.make_network()
    steps.make_encoders(network)  # mistakes are found before the extraction
    if steps.dtype in ("auto", "int8"):
        network.fit(images)
    descriptors, report = network.transform_with_report(images)
    bad = {i for i, _ in report.skipped}
    if bad:
        kept = np.array([i for i in range(len(images)) if i not in bad], np.intp)
        check_classes_left(labels, kept)
        descriptors, labels = descriptors.take(kept), labels[kept]
        patients = None if patients is None else patients[kept]
    nuisance = None
    if settle(steps).augment:
        used = [images[i] for i in range(len(images)) if i not in bad]
        every = np.arange(len(used))
        descriptors, nuisance = add_copies(network, used, descriptors, every, random_state=steps.random_state)
        labels = labels[nuisance.source]
        patients = None if patients is None else patients[nuisance.source]
    return TrainingImages(descriptors, labels, patients, network, report.skipped, nuisance)


def fit_steps(
    steps: ClassifierSteps,
    descriptors: Descriptors | DescriptorBlocks,
    labels: NDArray[Any],
    groups: NDArray[Any] | None,
    network: CNNDescriptors | None,
    keep: Callable[[Any], None] | None = None,
    nuisance: Nuisance | None = None,
) -> tuple[Pipeline, Choice]:
    """Choose the encoding and C if there is a choice, fit the encoder and the SVM, and calibrate it.

    Parameters
    ----------
    steps : ClassifierSteps
        The parameters.
    descriptors : Descriptors or DescriptorBlocks, n
    labels : ndarray of shape (n,)
        Class of each image.
    groups : ndarray of shape (n,), or None
        Patient of each image. None: not known.
    network : CNNDescriptors or None
        First step of the pipeline. It gets no store. None: the pipeline takes descriptors.
    keep : callable or None, default=None
        Called with the encoded training images (n, D). None: they are dropped.
    nuisance : Nuisance or None, default=None
        Which of the images are shifted copies. None: there are no copies.

    Returns
    -------
    pipeline : sklearn.pipeline.Pipeline
    choice : Choice

    Raises
    ------
    InputError
        If there is a single class, a class has too few images (patients) for a choice, or copies are missing
        that the parameters ask for.
    """
    _check_augment(steps, bags=None if nuisance is not None else "there are only descriptors")
    settled, encoders = settle(steps), steps.make_encoders(network)
    encoder, classifier, choice = train_classifier(
        descriptors,
        labels,
        groups,
        encoders,
        steps.make_svm(),
        penalties=PENALTIES if settled.C is None else None,
        folds=steps.folds,
        calibration=settled.calibration,
        target=_target(steps),
        positive=steps.positive,
        random_state=steps.random_state,
        keep=keep,
        nuisance=nuisance,
    )
    return _pipeline(network, encoder, classifier), choice


def fit_targets(
    steps: ClassifierSteps,
    run: TargetRun,
    descriptors: Descriptors | DescriptorBlocks,
    network: CNNDescriptors | None,
) -> tuple[Pipeline, Choice]:
    """Do the same for several labels or numbers, see :class:`medvlad.evaluation.targets.TargetRun`."""
    encoder, head, choice = run.train(descriptors, steps.make_encoders(network))
    return _pipeline(network, encoder, head), choice


def label_run(
    steps: ClassifierSteps, targets: NDArray[np.float64], groups: NDArray[Any] | None, y: Any
) -> TargetRun:
    """Return the run on several labels (n, n_labels) without a data set of files.

    Raises
    ------
    InputError
        If a parameter is for classes only, or a label is known for too few patients.
    """
    settled = settle(steps)
    _check_augment(steps, targets="y holds labels")
    if steps.memory is not None:
        raise InputError(
            f"memory={steps.memory!r} is for one class an image, and y holds labels: leave it out"
        )
    names = names_of_targets(None, y, targets.shape[1], "y").tolist()
    dataset = ImageFolder(
        paths=[Path(str(i)) for i in range(len(targets))],
        labels=np.zeros(len(targets), np.int64),
        class_names=names,
        groups=groups,
        task="labels",
        targets=targets,
    )
    c, penalties = (1.0, PENALTIES) if settled.C is None else (settled.C, None)
    run = TargetRun(dataset, c, penalties, settled.class_weight, steps.folds, steps.random_state)
    run.check(settled.calibration, steps.positive, steps.threshold)
    return run


def _check_augment(steps: ClassifierSteps, **has: str | None) -> None:
    """Raise InputError if shifted copies do not fit, see :func:`check_copies`."""
    check_copies(steps.augment, steps.memory, settle(steps).recipe, **has)


def _target(steps: ClassifierSteps) -> Target | None:
    """Return the wanted operating point."""
    return None if steps.threshold is None else read_target(steps.threshold)


def _pipeline(network: CNNDescriptors | None, encoder: Any, head: Any) -> Pipeline:
    """Join the fitted steps. The network gets no store."""
    first = [] if network is None else [("features", network.with_parameters(output="host", store=None))]
    return Pipeline([*first, *encoder_steps(encoder), ("classify", head)])
