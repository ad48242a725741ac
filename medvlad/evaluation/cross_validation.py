"""Held-out predictions by cross-validation or on a test part, with a nested choice of C and calibration.

If the data set has a test part (root/train, root/test), everything is fitted on the training part, and the
test part is predicted once. If it names folds, such as the sites of a study, each fold is predicted by a
classifier that was trained on the others. Otherwise, stratified k-fold cross-validation is used. Every fitted
step (PCA, codebook, C, SVM, calibration) is fitted on the training images of a fold only. Images of one
patient are never on both sides of a fold. If a given train and test part share patients, a warning is logged.

**Choice of C.** C is chosen by cross-validation inside the training images, by balanced accuracy, with the
images of a patient kept together. The codebook is fitted again in each inner fold. The reason: centres are
means of the descriptors that they were fitted on, so these images have shorter residuals than others, and
with few images an SVM learns this difference. The chosen C is the smallest one whose mean over the inner
folds is within one standard error of the best (Breiman, Friedman, Olshen & Stone 1984, section 3.4.3).

**Calibration.** The same inner folds give held-out decision values on the training images. Probabilities
(:mod:`medvlad.decisions.calibration`) and an operating point (:mod:`medvlad.decisions.operating_point`) are
learned from them.
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

from medvlad._util.counters import stage
from medvlad._util.validate import InputError
from medvlad.datasets.folders import ImageFolder
from medvlad.decisions.calibration import calibrator, method_for
from medvlad.decisions.novelty import MAX_REFERENCES, make_references, novelty_of
from medvlad.decisions.operating_point import Target, operating_threshold
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors
from medvlad.evaluation.class_counts import units_per_class
from medvlad.evaluation.encoded import encoded, fit_encoder, runner_for
from medvlad.evaluation.folds import check_part, how_to_add, parts_of, protocol_of, stratified_folds
from medvlad.evaluation.metrics import balanced_accuracy
from medvlad.svm.decision import decision_columns
from medvlad.svm.invariance import Nuisance, fit_invariant, fit_invariant_path
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = [
    "Decided",
    "FittedFold",
    "HeldOut",
    "InnerFolds",
    "Stopwatch",
    "held_out",
    "inner_folds",
    "smallest_good_penalty",
]

logger = logging.getLogger(__name__)

Images = Descriptors | DescriptorBlocks


@dataclass
class Stopwatch:
    """Add up wall-clock seconds by stage, also in the counters of :mod:`medvlad._util.counters`.

    Attributes
    ----------
    seconds : dict of str to float
        Seconds of each stage so far.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block and add it to stage `name`."""
        start = time.perf_counter()
        try:
            with stage(name):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class FittedFold:
    """The steps that were fitted on the training images of one fold.

    Attributes
    ----------
    train, test : ndarray of int
        Indices of the images in the data set.
    encoder : estimator
        Fitted; from descriptors to vectors.
    head : WideLinearSVC, MultiLabelSVC or WideRidge
        Fitted; the last step. The classes of a WideLinearSVC are indices into the class names.
    """

    train: NDArray[np.intp]
    test: NDArray[np.intp]
    encoder: Any
    head: Any

    def encode(
        self, train_images: Images, test_images: Images, watch: Stopwatch
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Fit the encoder on the training images. Return the vectors of training and test images."""
        with watch.stage("fit_encoder"):
            fit_encoder(self.encoder, train_images, self.head)
        with watch.stage("encode"):
            return (
                encoded(self.encoder, train_images, self.head),
                encoded(self.encoder, test_images, self.head),
            )


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What held-out predictions of all tasks have.

    Attributes
    ----------
    tested : ndarray of int, shape (n,)
        Indices of the test images in the data set.
    fitted : list of FittedFold
        One for each fold.
    protocol : str
        "train and test part" or, for example, "5-fold cross-validation".
    seconds : dict of str to float
        Seconds of each stage.
    """

    tested: NDArray[np.intp]
    fitted: list[FittedFold]
    protocol: str
    seconds: dict[str, float]

    def facts(self) -> dict[str, Any]:
        """Return n_test, n_train (of the first fold), protocol and seconds, as in results.json."""
        return {
            "n_test": len(self.tested),
            "n_train": len(self.fitted[0].train),
            "protocol": self.protocol,
            "seconds": {name: round(seconds, 4) for name, seconds in self.seconds.items()},
        }


@dataclass(frozen=True, kw_only=True)
class HeldOut(Decided):
    """Held-out predictions: decisions on images that were not used for training.

    Attributes
    ----------
    tested, fitted, protocol, seconds
        See `Decided`.
    decision : ndarray of float, shape (n, n_classes)
        Decision values of the test images. The largest of a row is the decided class.
    probability : ndarray of float, shape (n, n_classes), or None
        Calibrated probabilities. Rows add up to 1. None: without calibration.
    penalties : list of float
        C of each fold.
    inner_balanced_accuracy : list of float, or None
        Balanced accuracy of each fold with that C inside the training images. None: without inner folds.
    thresholds : ndarray of float, shape (n,), or None
        Threshold of the decision value of the second class that was chosen inside the training images of the
        fold of each test image. None: without an operating point.
    """

    decision: NDArray[np.float64]
    probability: NDArray[np.float64] | None
    penalties: list[float]
    inner_balanced_accuracy: list[float] | None
    thresholds: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class InnerFolds:
    """Result of the cross-validation inside the training images.

    Attributes
    ----------
    penalty : float
        The chosen C.
    mean_score : float
        Mean of `scores`.
    decision : ndarray of float, shape (n, n_classes) or (n, n_labels)
        Held-out decision values of the training images with that C. NaN if a fold could not fit the label.
    scores : ndarray of float, shape (n_folds,)
        Balanced accuracy of each inner fold with that C. For several labels the mean AUC.
    novelty : ndarray of float, shape (n,), or None
        Novelty of each training image among the images of the other folds, see
        :mod:`medvlad.decisions.novelty`. None: not measured.
    n_references : int
        Number of images that each fold compared with.
    """

    penalty: float
    mean_score: float
    decision: NDArray[np.float64]
    scores: NDArray[np.float64]
    novelty: NDArray[np.float64] | None = None
    n_references: int = 0


def held_out(
    descriptors: Images,
    dataset: ImageFolder,
    encoder: Any,
    classifier: WideLinearSVC,
    *,
    folds: int = 5,
    random_state: int = 0,
    penalties: Sequence[float] | None = None,
    calibration: str | None = None,
    target: Target | None = None,
    positive: int = 1,
    nuisance: Nuisance | None = None,
) -> HeldOut:
    """Return held-out predictions of one encoder and classifier.

    Parameters
    ----------
    descriptors : Descriptors or DescriptorBlocks
        Descriptors of the images of `dataset`, in the same order.
    dataset : ImageFolder
        With a test part, or without one for cross-validation.
    encoder : estimator
        From descriptors to vectors. It is cloned before it is fitted.
    classifier : WideLinearSVC
        It is cloned before it is fitted.
    folds : int, default=5
        Number of folds of the cross-validation, and of the inner one.
    random_state : int, default=0
        Seed of the folds.
    penalties : sequence of float, or None
        Values of C to choose from. None: use the C of `classifier`.
    calibration : {"auto", "platt", "isotonic"} or None
        Calibration method, see :mod:`medvlad.decisions.calibration`. None: no probabilities.
    target : Target or None
        Wanted sensitivity or specificity, for two classes. None: no operating point.
    positive : {0, 1}, default=1
        The class whose detection rate is the sensitivity.
    nuisance : Nuisance or None
        Shifted copies of training images, whose descriptors follow those of the data set, and the looks of
        the images. Copies of the training images of a fold are trained on, and C and probabilities are
        learned from images and copies. Thresholds are learned from images only, and only images are
        predicted. None: no copies.

    Returns
    -------
    HeldOut
        Predictions for all test images, with the folds pooled. If the folds chose different C, their decision
        values have different scales, which makes a pooled AUC slightly too low.

    Raises
    ------
    InputError
        If a class has too few images for the folds or for `target`, or no training image.
    """
    watch = Stopwatch()
    parts = list(parts_of(dataset, folds, random_state))
    for train, test in parts:
        check_part(dataset, train, test)
    shape = (len(dataset.labels), len(dataset.class_names))
    decision, probability = np.full(shape, np.nan), np.full(shape, np.nan)
    thresholds = np.full(len(dataset.labels), np.nan)
    chosen, inside, fitted = [], [], []
    for train, test in parts:
        rows = train if nuisance is None else nuisance.rows_of(train)
        shown = None if nuisance is None else nuisance.take(rows)
        source = train if shown is None else shown.source
        train_images, labels = descriptors.take(rows), dataset.labels[source]
        fold_classifier, inner = clone(classifier), None
        if penalties is not None or calibration is not None or target is not None:
            with watch.stage("inner_folds"):
                inner = inner_folds(
                    train_images,
                    labels,
                    dataset.groups_of(source),
                    encoder,
                    classifier,
                    [classifier.C] if penalties is None else penalties,
                    folds=folds,
                    random_state=random_state,
                    nuisance=shown,
                )
            fold_classifier.set_params(C=inner.penalty)
            inside.append(inner.mean_score)
        chosen.append(float(fold_classifier.C))
        fold = FittedFold(train, test, clone(encoder), fold_classifier)
        x_train, x_test = fold.encode(train_images, descriptors.take(test), watch)
        with watch.stage("fit_classifier"):
            runner = runner_for(x_train, train_images)
            fit_invariant(fold_classifier, x_train, labels, shown, runner=runner)
        with watch.stage("predict"):
            decision[test] = decision_columns(fold_classifier.decision_function(x_test))
        fitted.append(fold)
        if inner is not None and calibration is not None:
            method = method_for(calibration, len(train))  # train has no copies
            probability[test] = calibrator(method, inner.decision, labels)(decision[test])
        if inner is not None and target is not None:
            own = slice(None) if shown is None else ~shown.is_copy
            found = operating_threshold(target, inner.decision[own], labels[own], positive=positive)
            thresholds[test] = found
    tested = np.concatenate([test for _, test in parts])
    return HeldOut(
        tested=tested,
        decision=decision[tested],
        probability=None if calibration is None else probability[tested],
        penalties=chosen,
        inner_balanced_accuracy=inside or None,
        fitted=fitted,
        protocol=protocol_of(dataset, folds),
        seconds=watch.seconds,
        thresholds=None if target is None else thresholds[tested],
    )


def inner_folds(
    descriptors: Images,
    labels: NDArray[np.int64],
    groups: NDArray[Any] | None,
    encoder: Any,
    classifier: WideLinearSVC,
    penalties: Sequence[float],
    *,
    folds: int = 5,
    random_state: int = 0,
    means: NDArray[np.float32] | None = None,
    nuisance: Nuisance | None = None,
) -> InnerFolds:
    """Choose C by cross-validation, and return held-out decision values for that C.

    Parameters
    ----------
    descriptors : Descriptors or DescriptorBlocks
        Descriptors of n training images.
    labels : ndarray of int, shape (n,)
        From 0 to n_classes - 1. Every class must be present.
    groups : ndarray of shape (n,), or None
        Patient of each image. None: patients are unknown.
    encoder, classifier : estimators
        They are cloned before they are fitted.
    penalties : sequence of float
        Values of C to choose from.
    folds : int, default=5
        Maximum number of folds. It is reduced to the number of images (patients) of the smallest class.
    random_state : int, default=0
        Seed of the folds.
    means : ndarray of float32, shape (n, D), or None
        Mean descriptors of the images, see :func:`medvlad.decisions.mean_descriptors`. None: novelty is not
        measured.
    nuisance : Nuisance or None
        Which images are shifted copies of others, and the looks of the images. Copies are trained on and
        scored like images, but novelty is measured among images only. None: there are no copies.

    Returns
    -------
    InnerFolds

    Raises
    ------
    InputError
        If there is no C, if a class has fewer than two images (patients), or if a fold leaves a class without
        training images.
    """
    if nuisance is not None and groups is None:
        groups = nuisance.source
    if len(penalties) == 0:
        raise InputError("there is no C to choose from: give at least one")
    ordered = sorted(penalties)
    n_classes = int(labels.max()) + 1
    n_folds = min(folds, int(units_per_class(labels, groups, n_classes).min()))
    if folds < 2:
        raise InputError(
            f"choosing C, calibration and a threshold need folds=2 or more, got {folds}: use a number for C, "
            "no calibration and no threshold otherwise"
        )
    if n_folds < 2:
        what = "images" if groups is None else "patients"
        raise InputError(
            f"choosing C, calibration and a threshold need at least 2 training {what} of each class, but a "
            f"class has one: {how_to_add(groups)}, or use a number for C, no calibration and no threshold"
        )
    decision = np.empty((len(ordered), len(labels), n_classes))
    scores = np.empty((n_folds, len(ordered)))
    parts = list(stratified_folds(labels, groups, n_folds, random_state))
    is_image = np.ones(len(labels), bool) if nuisance is None else ~nuisance.is_copy
    n_references = min(MAX_REFERENCES, *(int(is_image[train].sum()) for train, _ in parts))
    novelty = None if means is None else np.empty(len(labels))
    for fold, (train, test) in enumerate(parts):
        if len(np.unique(labels[train])) < n_classes:
            raise InputError(
                "a fold inside the training images has no image of one class, because folds keep the images "
                "of a patient together: use a number for C, no calibration and no threshold"
            )
        own = descriptors.take(train)
        fitted = fit_encoder(clone(encoder), own, classifier)
        x_train = encoded(fitted, own, classifier)
        shown = None if nuisance is None else nuisance.take(train)
        runner = runner_for(x_train, own)
        path = fit_invariant_path(classifier, x_train, labels[train], ordered, shown, runner=runner)
        del x_train  # with its file, before the next one is written
        x_test = encoded(fitted, descriptors.take(test), classifier)
        for i, svm in enumerate(path):
            decision[i, test] = decision_columns(svm.decision_function(x_test))
            scores[fold, i] = balanced_accuracy(labels[test], decision[i, test].argmax(axis=1))
        if means is not None and novelty is not None:
            own_means = means[train[is_image[train]]]
            compared = make_references(own_means, n_references=n_references, random_state=random_state)
            novelty[test] = novelty_of(compared, means[test])
    chosen = smallest_good_penalty(ordered, scores, "balanced accuracy")
    return InnerFolds(
        float(ordered[chosen]),
        float(scores.mean(axis=0)[chosen]),
        decision[chosen],
        scores[:, chosen],
        novelty,
        n_references,
    )


def smallest_good_penalty(ordered: Sequence[float], scores: NDArray[np.float64], metric: str) -> int:
    """Return the position of the smallest C whose mean is within one standard error of the best, and log it.

    Parameters
    ----------
    ordered : sequence of float
        Values of C in ascending order.
    scores : ndarray of float, shape (n_folds, n_values)
    metric : str
        What `scores` are.
    """
    means = scores.mean(axis=0)
    best = int(means.argmax())
    error = float(scores[:, best].std(ddof=1)) / np.sqrt(len(scores)) if len(scores) > 1 else 0.0
    chosen = int(np.argmax(means >= means[best] - error))
    logger.info(
        "C = %g of %s: %s %.3f inside the training images, the best is %.3f +- %.3f",
        ordered[chosen],
        ", ".join(f"{c:g}" for c in ordered),
        metric,
        means[chosen],
        means[best],
        error,
    )
    return chosen
