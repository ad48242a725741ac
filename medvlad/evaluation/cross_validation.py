"""Decisions on images that were not trained on.

Where the images come with a test part (root/train, root/test) everything is fitted on the training part and
the test part is decided once. Elsewhere it is stratified k-fold cross-validation. Whatever is fitted (PCA,
codebook, penalty, SVM, calibration) is fitted inside the training images of a fold, and images of one patient
never stand on both sides of a fold; of a train and a test part that share patients there is a warning.

**Penalty.** A C that is to be chosen is chosen by cross-validation inside the training images, by balanced
accuracy, patients kept together. The codebook is fitted anew in each inner fold: centres are means of the
descriptors they were made from, so images that a codebook has seen have shorter residuals than others, and
with few images an SVM learns that. Of several C the smallest is taken whose mean over the folds is within one
standard error of the best (Breiman, Friedman, Olshen & Stone 1984, section 3.4.3): in doubt the wider margin.

**Calibration.** The same inner folds give decisions on training images that did not see them; a calibrator
learns from these what a decision value is worth as a probability; see :mod:`medvlad.evaluation.calibration`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from medvlad._util.validate import InputError, check_positive_int
from medvlad.datasets.folders import ImageFolder
from medvlad.descriptors.ragged import Descriptors
from medvlad.evaluation.calibration import calibrator
from medvlad.store.stored_descriptors import StoredDescriptors
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["FittedFold", "HeldOut", "InnerFolds", "Stopwatch", "held_out", "inner_folds"]

logger = logging.getLogger(__name__)

Part = tuple[NDArray[np.intp], NDArray[np.intp]]


@dataclass
class Stopwatch:
    """Adds up wall-clock seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block and add it to stage `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class FittedFold:
    """What was fitted on the training images of a fold.

    Attributes
    ----------
    train, test : ndarray of int
        Indices into the data set.
    encoder : estimator
        From descriptors to vectors.
    classifier : WideLinearSVC
    """

    train: NDArray[np.intp]
    test: NDArray[np.intp]
    encoder: Any
    classifier: WideLinearSVC


@dataclass(frozen=True)
class HeldOut:
    """Decisions on images that were not trained on.

    Attributes
    ----------
    tested : ndarray of int, shape (n,)
        Indices into the data set.
    decision : ndarray of float, shape (n, n_classes)
        Of these images.
    probability : ndarray of float, shape (n, n_classes), or None
        Calibrated, where that was asked for; rows add up to 1.
    penalties : list of float
        C of each fold.
    inner_balanced_accuracy : list of float, or None
        Of each fold with that C, inside the training images, where that was looked at.
    fitted : list of FittedFold
        One a fold.
    protocol : str
    seconds : dict
        Of each stage.
    """

    tested: NDArray[np.intp]
    decision: NDArray[np.float64]
    probability: NDArray[np.float64] | None
    penalties: list[float]
    inner_balanced_accuracy: list[float] | None
    fitted: list[FittedFold]
    protocol: str
    seconds: dict[str, float]


@dataclass(frozen=True)
class InnerFolds:
    """What cross-validation inside training images found.

    Attributes
    ----------
    penalty : float
        The C that was chosen.
    balanced_accuracy : float
        With it, mean over the inner folds.
    decision : ndarray of float, shape (n, n_classes)
        Of each image, with that C, by a classifier that did not see it.
    """

    penalty: float
    balanced_accuracy: float
    decision: NDArray[np.float64]


def held_out(
    descriptors: Descriptors | StoredDescriptors,
    dataset: ImageFolder,
    encoder: Any,
    classifier: WideLinearSVC,
    *,
    folds: int = 5,
    random_state: int = 0,
    penalties: Sequence[float] | None = None,
    calibration: str | None = None,
) -> HeldOut:
    """Fit one encoder and classifier on training images and decide on the others.

    Parameters
    ----------
    descriptors : Descriptors or StoredDescriptors
        Of the images of `dataset`, in its order.
    dataset : ImageFolder
        With a test part, or without: then cross-validation.
    encoder : estimator
        From descriptors to vectors. Cloned, never fitted itself.
    classifier : WideLinearSVC
        Cloned, never fitted itself.
    folds : int, default=5
        Folds of the cross-validation, and of that inside the training images.
    random_state : int, default=0
        Seed of the folds.
    penalties : sequence of float, or None
        The C to choose from; None: that of `classifier`.
    calibration : {"platt", "isotonic"} or None
        See :mod:`medvlad.evaluation.calibration`.

    Returns
    -------
    HeldOut
        Over all test images, those of all folds pooled: where folds chose another C each, their decision
        values are of other scales, which makes a pooled AUC a little too low.

    Raises
    ------
    InputError
        If a class has too few images for the folds, or no training image.
    """
    watch = Stopwatch()
    parts = list(_parts(dataset, folds, random_state))
    for train, test in parts:
        _check_part(dataset, train, test)
    shape = (len(dataset.labels), len(dataset.class_names))
    decision, probability = np.full(shape, np.nan), np.full(shape, np.nan)
    chosen, inside, folded = [], [], []
    for train, test in parts:
        train_images, test_images = descriptors.take(train), descriptors.take(test)
        labels = dataset.labels[train]
        fold_classifier, inner = clone(classifier), None
        if penalties is not None or calibration is not None:
            with watch.stage("inner_folds"):
                inner = inner_folds(
                    train_images,
                    labels,
                    None if dataset.groups is None else dataset.groups[train],
                    encoder,
                    classifier,
                    [classifier.C] if penalties is None else penalties,
                    folds=folds,
                    random_state=random_state,
                )
            fold_classifier.set_params(C=inner.penalty)
            inside.append(inner.balanced_accuracy)
        chosen.append(float(fold_classifier.C))
        with watch.stage("fit_encoder"):
            fitted = clone(encoder).fit(train_images)
        with watch.stage("encode"):
            x_train, x_test = fitted.transform(train_images), fitted.transform(test_images)
        with watch.stage("fit_classifier"):
            svm = fold_classifier.fit(x_train, labels)
        with watch.stage("predict"):
            decision[test] = _columns(svm.decision_function(x_test))
        folded.append(FittedFold(train, test, fitted, svm))
        if inner is not None and calibration is not None:
            probability[test] = calibrator(calibration, inner.decision, labels)(decision[test])
    tested = np.concatenate([test for _, test in parts])
    return HeldOut(
        tested,
        decision[tested],
        None if calibration is None else probability[tested],
        chosen,
        inside or None,
        folded,
        "train and test part" if dataset.splits is not None else f"{folds}-fold cross-validation",
        watch.seconds,
    )


def inner_folds(
    descriptors: Descriptors | StoredDescriptors,
    labels: NDArray[np.int64],
    groups: NDArray[Any] | None,
    encoder: Any,
    classifier: WideLinearSVC,
    penalties: Sequence[float],
    *,
    folds: int = 5,
    random_state: int = 0,
) -> InnerFolds:
    """Choose C by cross-validation, and decide on each image without having seen it.

    Parameters
    ----------
    descriptors : Descriptors or StoredDescriptors
        Of training images, n of them.
    labels : ndarray of int, shape (n,)
        From 0 to n_classes - 1, each of them there.
    groups : ndarray of shape (n,), or None
        Patient of each image.
    encoder, classifier : estimators
        Cloned, never fitted themselves.
    penalties : sequence of float
        The C to choose from.
    folds : int, default=5
        Fewer, where a class has fewer images or patients.
    random_state : int, default=0

    Returns
    -------
    InnerFolds

    Raises
    ------
    InputError
        If a class has fewer than two images or patients.
    """
    if len(penalties) == 0:
        raise InputError("there is no C to choose from: give at least one")
    ordered = sorted(penalties)
    n_folds = min(folds, _smallest_class(labels, groups))
    if n_folds < 2:
        raise InputError(
            "choosing C and calibration take two folds, and two training images (or patients) of each class: "
            "give more folds or images, or a number for C and no calibration"
        )
    decision = np.empty((len(ordered), len(labels), int(labels.max()) + 1))
    scores = np.empty((n_folds, len(ordered)))
    for fold, (train, test) in enumerate(_folds(labels, groups, n_folds, random_state)):
        if len(np.unique(labels[train])) < decision.shape[2]:
            raise InputError(
                "a fold inside the training images leaves a class without images, as one patient has most of "
                "them: give a number for C and no calibration"
            )
        own = descriptors.take(train)
        fitted = clone(encoder).fit(own)
        path = classifier.fit_path(fitted.transform(own), labels[train], ordered)
        x_test = fitted.transform(descriptors.take(test))
        for i, svm in enumerate(path):
            decision[i, test] = _columns(svm.decision_function(x_test))
            predicted = decision[i, test].argmax(axis=1)
            right = predicted == labels[test]
            scores[fold, i] = np.mean([right[labels[test] == k].mean() for k in np.unique(labels[test])])
    means = scores.mean(axis=0)
    best = int(means.argmax())
    error = float(scores[:, best].std(ddof=1)) / np.sqrt(n_folds)
    chosen = int(np.argmax(means >= means[best] - error))
    logger.info(
        "C = %g of %s: balanced accuracy %.3f inside the training images, the best is %.3f +- %.3f",
        ordered[chosen],
        ", ".join(f"{c:g}" for c in ordered),
        means[chosen],
        means[best],
        error,
    )
    return InnerFolds(float(ordered[chosen]), float(means[chosen]), decision[chosen])


def _columns(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Decision values (n, n_classes), of two classes as well."""
    return np.column_stack([-values, values]) if values.ndim == 1 else values


def _smallest_class(labels: NDArray[np.int64], groups: NDArray[Any] | None, n_classes: int = 0) -> int:
    """Images, or patients where they are known, of the class that has fewest."""
    units = labels
    if groups is not None:
        _, patients = np.unique(groups.astype(str), return_inverse=True)
        units = np.unique(np.column_stack([labels, patients]), axis=0)[:, 0]
    return int(np.bincount(units, minlength=n_classes).min())


def _folds(
    labels: NDArray[np.int64], groups: NDArray[Any] | None, folds: int, random_state: int
) -> Iterator[Part]:
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    folded = splitter(folds, shuffle=True, random_state=random_state)
    yield from folded.split(np.zeros(len(labels)), labels, groups)


def _parts(dataset: ImageFolder, folds: int, random_state: int) -> Iterator[Part]:
    """Yield indices of training and test images."""
    if dataset.splits is not None:
        train, test = (np.flatnonzero(dataset.splits == part) for part in ("train", "test"))
        yield train, test
        return
    check_positive_int(folds, "folds")
    smallest = _smallest_class(dataset.labels, dataset.groups, len(dataset.class_names))
    if not 2 <= folds <= smallest:
        what = "images" if dataset.groups is None else "patients"
        raise InputError(
            f"folds={folds} must be at least 2 and at most the {what} of the smallest class, {smallest}: "
            "choose fewer folds or give a train and a test folder"
        )
    yield from _folds(dataset.labels, dataset.groups, folds, random_state)


def _check_part(dataset: ImageFolder, train: NDArray[np.intp], test: NDArray[np.intp]) -> None:
    """Raise InputError unless every class can be learnt and something tested; warn of shared patients."""
    missing = sorted(set(range(len(dataset.class_names))) - set(dataset.labels[train].tolist()))
    if missing:
        absent = ", ".join(dataset.class_names[k] for k in missing)
        where = "the train part has" if dataset.splits is not None else "one fold leaves"
        raise InputError(
            f"{where} no training image of: {absent}; add images, use other folds, or remove the class"
        )
    if len(test) == 0:
        raise InputError("the test part has no usable image: add some, or give a folder without test part")
    if dataset.groups is not None:
        shared = set(dataset.groups[train]) & set(dataset.groups[test])
        if shared:
            logger.warning(
                "%d patients (such as %s) are in both the training and the test part: expect optimism",
                len(shared),
                min(shared),
            )
