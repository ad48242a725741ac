"""Fit an encoding and a calibrated classifier on training images.

Folds inside the training images choose the encoding and C. The same folds give the held-out decision values
from which the final classifier learns probabilities and the rest, see :mod:`medvlad.decisions`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.datasets.folders import ImageFolder
from medvlad.decisions.calibrated_svc import CalibratedSVC, calibrate_on
from medvlad.decisions.calibration import AUTO
from medvlad.decisions.novelty import make_references, mean_descriptors
from medvlad.decisions.operating_point import Target
from medvlad.descriptors.ragged import Descriptors
from medvlad.evaluation.choice import Choice, choose_encoding, has_folds
from medvlad.evaluation.class_counts import absent_classes
from medvlad.evaluation.cross_validation import InnerFolds
from medvlad.store.stored_descriptors import StoredDescriptors
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["positive_index", "train_classifier"]

logger = logging.getLogger(__name__)


def train_classifier(
    descriptors: Descriptors | StoredDescriptors,
    dataset: ImageFolder,
    encoders: Mapping[str, Any],
    classifier: WideLinearSVC,
    *,
    penalties: Sequence[float] | None = None,
    folds: int = 5,
    calibration: str | None = AUTO,
    target: Target | None = None,
    positive: str | None = None,
    random_state: int = 0,
    keep: Callable[[Any, ImageFolder], None] | None = None,
) -> tuple[Any, WideLinearSVC | CalibratedSVC, Choice]:
    """Choose an encoding and C, fit them on all training images, and calibrate the classifier.

    Parameters
    ----------
    descriptors : Descriptors or StoredDescriptors
        Descriptors of the training images.
    dataset : ImageFolder
        The training images, in the same order.
    encoders, classifier, penalties, folds, random_state
        See :func:`medvlad.evaluation.choice.choose_encoding`. The chosen encoder and the classifier are
        fitted.
    calibration : {"auto", "platt", "isotonic"} or None, default="auto"
        None: no calibration, unless `target` is given. "auto" leaves it out, with a warning, if a class has
        too few images (patients) for two folds.
    target : Target or None, default=None
        Wanted operating point, for two classes. None: decide at 0.
    positive : str or None, default=None
        The class whose detection rate is the sensitivity. None: the last in alphabetical order.
    keep : callable or None, default=None
        Called with the encoded training images and `dataset`. None: they are not kept.

    Returns
    -------
    encoder : estimator
        The chosen one, fitted.
    classifier : CalibratedSVC, or WideLinearSVC without calibration
        Fitted; its classes are the class names.
    choice : Choice
        The encoding, and how good each one was.

    Raises
    ------
    InputError
        If a class has no image, or too few images (patients) for what was asked for.
    """
    missing = absent_classes(dataset.labels, dataset.class_names)
    if missing:
        raise InputError(
            f"no usable training image is left of {', '.join(missing)}: add some or remove the class"
        )
    hold_out = _can_calibrate(dataset, calibration, target, folds=folds)
    means = mean_descriptors(descriptors) if hold_out else None
    choice = choose_encoding(
        descriptors,
        dataset.labels,
        dataset.groups,
        encoders,
        classifier,
        penalties=penalties,
        folds=folds,
        random_state=random_state,
        means=means,
        hold_out=hold_out,
    )
    classifier.set_params(C=choice.penalty)
    encoder = encoders[choice.encoding]
    encoded = encoder.fit_transform(descriptors)
    if keep is not None:
        keep(encoded, dataset)
    classifier.fit(encoded, np.array(dataset.class_names)[dataset.labels])
    if means is None or choice.inner is None:
        return encoder, classifier, choice
    calibrated = _calibrated(
        classifier,
        choice.inner,
        dataset,
        means,
        calibration=calibration,
        target=target,
        positive=positive,
        random_state=random_state,
    )
    return encoder, calibrated, choice


def _can_calibrate(
    dataset: ImageFolder, calibration: str | None, target: Target | None, *, folds: int
) -> bool:
    """Return whether a classifier is to be calibrated. Warn if "auto" has too few images for it."""
    if calibration is None and target is None:
        return False
    if calibration != AUTO or target is not None or has_folds(dataset.labels, dataset.groups, folds):
        return True
    logger.warning(
        "too few training images (patients, if known) of a class to learn probabilities: the model gives "
        "labels and scores only"
    )
    return False


def positive_index(class_names: Any, positive: str | None) -> int:
    """Return the index of the positive class. None: the second one."""
    return 1 if positive is None else list(class_names).index(positive)


def _calibrated(
    svm: WideLinearSVC,
    inner: InnerFolds,
    dataset: ImageFolder,
    means: NDArray[np.float32],
    *,
    calibration: str | None,
    target: Target | None,
    positive: str | None,
    random_state: int,
) -> CalibratedSVC:
    """Calibrate a fitted classifier on the held-out decision values of its training images."""
    # The classifier sorts the class names, the data set need not.
    order = np.searchsorted(svm.classes_, np.array(dataset.class_names))
    decision = np.empty_like(inner.decision)
    decision[:, order] = inner.decision
    return calibrate_on(
        svm,
        decision,
        order[dataset.labels],
        references=make_references(means, n_references=inner.n_references, random_state=random_state),
        novelty=inner.novelty,
        calibration=calibration or AUTO,
        target=target,
        positive=positive_index(svm.classes_, positive),
        random_state=random_state,
    )
