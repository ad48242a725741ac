"""Fit an encoding and a calibrated classifier on training images.

The encoding and C are chosen by cross-validation inside the training images. The same folds give held-out
decision values. The final classifier learns probabilities, prediction sets and the test for unusual images
from them, see :mod:`medvlad.decisions`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from medvlad._util.validate import InputError, check_choice
from medvlad.decisions.calibrated_svc import CalibratedSVC, calibrate_on
from medvlad.decisions.calibration import AUTO
from medvlad.decisions.novelty import make_references, mean_descriptors
from medvlad.decisions.operating_point import Target
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors
from medvlad.evaluation.choice import Choice, choose_encoding, has_folds
from medvlad.evaluation.cross_validation import InnerFolds
from medvlad.evaluation.encoded import encoded, fit_encoder, runner_for
from medvlad.svm.invariance import Nuisance, fit_invariant
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["check_two_class_settings", "positive_index", "train_classifier", "weights_by_index"]

logger = logging.getLogger(__name__)


def train_classifier(
    descriptors: Descriptors | DescriptorBlocks,
    y: NDArray[Any],
    groups: NDArray[Any] | None,
    encoders: Mapping[str, Any],
    classifier: WideLinearSVC,
    *,
    penalties: Sequence[float] | None = None,
    folds: int = 5,
    calibration: str | None = AUTO,
    target: Target | None = None,
    positive: str | None = None,
    random_state: int = 0,
    keep: Callable[[Any], None] | None = None,
    nuisance: Nuisance | None = None,
) -> tuple[Any, WideLinearSVC | CalibratedSVC, Choice]:
    """Choose an encoding and C, fit them on all training images, and calibrate the classifier.

    Parameters
    ----------
    descriptors : Descriptors or DescriptorBlocks
        Descriptors of the training images.
    y : ndarray of shape (n,)
        Class of each image.
    groups : ndarray of shape (n,), or None
        Patient of each image. None: the patients are not known.
    encoders, classifier, penalties, folds, random_state
        See :func:`medvlad.evaluation.choice.choose_encoding`. The chosen encoder and the classifier are
        fitted.
    calibration : {"auto", "platt", "isotonic"} or None, default="auto"
        None: no calibration, unless `target` is given. "auto" leaves it out, with a warning, if a class has
        too few images (patients) for two folds.
    target : Target or None, default=None
        Wanted operating point, for two classes. None: decide at 0.
    positive : str or None, default=None
        The class whose detection rate is the sensitivity, as text. None: the last in alphabetical order.
    keep : callable or None, default=None
        Called with the encoded training images. None: they are not kept.
    nuisance : Nuisance or None, default=None
        Which images are shifted copies of others, and the looks of the images. The encoding, C and
        probabilities are learned from images and copies; the threshold, prediction sets, the test for unusual
        images and the number of training images from images only. None: there are no copies.

    Returns
    -------
    encoder : estimator
        The chosen one, fitted.
    classifier : CalibratedSVC, or WideLinearSVC without calibration
        Fitted; its classes are those of `y`, sorted.
    choice : Choice
        The encoding, and how good each one was.

    Raises
    ------
    InputError
        If a class has no image, or too few images (patients) for what was asked for, or `positive`, `target`
        or the class weights do not fit the classes.
    """
    classes, labels = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise InputError("there is a single class, and a classifier needs two: add images of another")
    check_two_class_settings(classes, positive=positive, threshold=target)
    if nuisance is not None and groups is None:
        groups = nuisance.source
    inside = clone(classifier).set_params(class_weight=weights_by_index(classifier.class_weight, classes))
    hold_out = _can_calibrate(labels, groups, calibration, target, folds=folds)
    means = mean_descriptors(descriptors) if hold_out else None
    choice = choose_encoding(
        descriptors,
        labels,
        groups,
        encoders,
        inside,
        penalties=penalties,
        folds=folds,
        random_state=random_state,
        means=means,
        hold_out=hold_out,
        nuisance=nuisance,
    )
    classifier.set_params(C=choice.penalty)
    encoder = encoders[choice.encoding]
    if classifier.memory is None:
        vectors = encoder.fit_transform(descriptors)
    else:
        vectors = encoded(fit_encoder(encoder, descriptors, classifier), descriptors, classifier)
    if keep is not None:
        keep(vectors)
    fit_invariant(classifier, vectors, y, nuisance, runner=runner_for(vectors, descriptors))
    if means is None or choice.inner is None:
        return encoder, classifier, choice
    calibrated = _calibrated(
        classifier,
        choice.inner,
        labels,
        means,
        calibration=calibration,
        target=target,
        positive=positive,
        random_state=random_state,
        is_image=None if nuisance is None else ~nuisance.is_copy,
    )
    return encoder, calibrated, choice


def _can_calibrate(
    labels: NDArray[np.int64],
    groups: NDArray[Any] | None,
    calibration: str | None,
    target: Target | None,
    *,
    folds: int,
) -> bool:
    """Return whether a classifier is to be calibrated. Warn if "auto" has too few images for it."""
    if calibration is None and target is None:
        return False
    if calibration != AUTO or target is not None or has_folds(labels, groups, folds):
        return True
    logger.warning(
        "too few training images (patients, if known) of a class to learn probabilities: the model gives "
        "labels and scores only"
    )
    return False


def check_two_class_settings(
    classes: Sequence[Any] | NDArray[Any], *, positive: str | None, threshold: Any
) -> None:
    """Raise InputError if a setting for two classes does not fit the classes.

    Parameters
    ----------
    classes : sequence or ndarray of shape (n_classes,)
        The classes. Integers are compared as text.
    positive : str or None
        The positive class. None: not given.
    threshold : object or None
        The wanted operating point. None: not given.
    """
    names = [str(name) for name in classes]
    for what, given in (("positive", positive), ("threshold", threshold)):
        if given is not None and len(names) != 2:
            shown = repr(given if isinstance(given, str) else str(given))
            raise InputError(f"{what}={shown} needs two classes, and there are {len(names)}: leave it out")
    if positive is not None:
        check_choice(str(positive), "the positive class", names)


def weights_by_index(
    weights: dict[Any, float] | str | None, classes: NDArray[Any]
) -> dict[Any, float] | str | None:
    """Return class weights whose keys are indices, which the folds use in place of the classes."""
    if not isinstance(weights, dict):
        return weights
    unknown = [key for key in weights if key not in classes.tolist()]
    if unknown:
        raise InputError(
            f"class_weight has the key {unknown[0]!r}, and there is no such class: use "
            f"{', '.join(map(repr, classes.tolist()))}"
        )
    return {k: weights[name] for k, name in enumerate(classes.tolist()) if name in weights}


def positive_index(class_names: Any, positive: str | None) -> int:
    """Return the index of the positive class. None: the second one."""
    return 1 if positive is None else [str(name) for name in class_names].index(str(positive))


def _calibrated(
    svm: WideLinearSVC,
    inner: InnerFolds,
    labels: NDArray[np.int64],
    means: NDArray[np.float32],
    *,
    calibration: str | None,
    target: Target | None,
    positive: str | None,
    random_state: int,
    is_image: NDArray[np.bool_] | None,
) -> CalibratedSVC:
    """Calibrate a fitted classifier on the held-out decision values of its training images."""
    own = means if is_image is None else means[is_image]
    return calibrate_on(
        svm,
        inner.decision,
        labels,
        references=make_references(own, n_references=inner.n_references, random_state=random_state),
        novelty=inner.novelty,
        calibration=calibration or AUTO,
        target=target,
        positive=positive_index(svm.classes_, positive),
        random_state=random_state,
        is_image=is_image,
    )
