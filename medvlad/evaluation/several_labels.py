"""Held-out predictions of several labels.

The protocol is that of :mod:`medvlad.evaluation.cross_validation`: everything is fitted on the training
images of a fold, patients stay together, and the codebook is fitted again in each inner fold. The folds
are those of :mod:`medvlad.evaluation.target_folds`.

Inner folds are always used, because three things are learned from held-out decision values of the training
images: C (if it is not given), the threshold of each label, and its probabilities. The threshold 0 of an SVM
gives a rare label to almost no image.

**One C for all labels.** It is the smallest C whose mean AUC over the labels is within one standard error of
the best. In an inner fold a rare label has few images, so its AUC is too noisy to choose C for each label.
The metric is AUC because the thresholds are learned separately.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.base import clone

from medvlad._util.validate import InputError
from medvlad.datasets.folders import ImageFolder
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors
from medvlad.evaluation.choice import Choice, clearly_best
from medvlad.evaluation.cross_validation import Stopwatch
from medvlad.evaluation.label_metrics import label_aucs, label_scores, macro_auc
from medvlad.evaluation.target_folds import balanced_folds, target_parts
from medvlad.svm.multi_label import MultiLabelSVC

__all__ = [
    "FittedLabels",
    "HeldOutLabels",
    "InnerLabels",
    "choose_label_encoding",
    "compare_labels",
    "held_out_label_metrics",
    "held_out_labels",
    "inner_label_folds",
]

logger = logging.getLogger(__name__)

Images = Descriptors | DescriptorBlocks
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class FittedLabels:
    """The steps that were fitted on the training images of one fold.

    Attributes
    ----------
    train, test : ndarray of int
        Indices of the images in the data set.
    encoder : estimator
        Fitted; from descriptors to vectors.
    classifier : MultiLabelSVC
        Fitted and calibrated.
    """

    train: NDArray[np.intp]
    test: NDArray[np.intp]
    encoder: Any
    classifier: MultiLabelSVC


@dataclass(frozen=True)
class HeldOutLabels:
    """Held-out predictions of several labels.

    Attributes
    ----------
    tested : ndarray of int, shape (n,)
        Indices of the test images in the data set.
    decision, probability : ndarray of float, shape (n, n_labels)
    predicted : ndarray of bool, shape (n, n_labels)
        Whether the decision value is above the threshold of its fold.
    penalties, inner_auc : list of float
        C of each fold, and the mean AUC with that C inside the training images.
    fitted : list of FittedLabels
        One for each fold.
    protocol : str
    seconds : dict of str to float
        Seconds of each stage.
    """

    tested: NDArray[np.intp]
    decision: Matrix
    probability: Matrix
    predicted: NDArray[np.bool_]
    penalties: list[float]
    inner_auc: list[float]
    fitted: list[FittedLabels]
    protocol: str
    seconds: dict[str, float]


@dataclass(frozen=True)
class InnerLabels:
    """Result of the cross-validation inside the training images.

    Attributes
    ----------
    penalty, auc : float
        The chosen C, and its mean AUC over labels and folds.
    decision : ndarray of float, shape (n, n_labels)
        Held-out decision values with that C. NaN if a label could not be fitted in a fold.
    scores : ndarray of float, shape (n_folds,)
        Mean AUC of each inner fold with that C.
    """

    penalty: float
    auc: float
    decision: Matrix
    scores: Matrix


def held_out_labels(
    descriptors: Images,
    dataset: ImageFolder,
    encoder: Any,
    classifier: MultiLabelSVC,
    *,
    folds: int = 5,
    random_state: int = 0,
    penalties: Sequence[float] | None = None,
) -> HeldOutLabels:
    """Return held-out predictions of several labels.

    Parameters are those of :func:`medvlad.evaluation.cross_validation.held_out`; the task of `dataset` is
    "labels".

    Raises
    ------
    InputError
        If a fold has no training image with, or without, one of the labels.
    """
    watch = Stopwatch()
    targets = _labels_of(dataset)
    parts, protocol = target_parts(dataset, folds, random_state)
    decision, probability = np.full(targets.shape, np.nan), np.full(targets.shape, np.nan)
    predicted = np.zeros(targets.shape, bool)
    chosen, inside, fitted = [], [], []
    for train, test in parts:
        if len(test) == 0:
            raise InputError("the test part has no usable image: add some, or give no test part")
        own = descriptors.take(train)
        with watch.stage("inner_folds"):
            inner = inner_label_folds(
                own,
                targets[train],
                None if dataset.groups is None else dataset.groups[train],
                encoder,
                classifier,
                [classifier.C] if penalties is None else penalties,
                folds=folds,
                random_state=random_state,
            )
        fold = FittedLabels(train, test, clone(encoder), clone(classifier).set_params(C=inner.penalty))
        with watch.stage("fit_encoder"):
            fold.encoder.fit(own)
        with watch.stage("encode"):
            x_train = fold.encoder.transform(own)
            x_test = fold.encoder.transform(descriptors.take(test))
        with watch.stage("fit_classifier"):
            fold.classifier.fit(x_train, targets[train]).calibrate(inner.decision, targets[train])
        with watch.stage("predict"):
            decision[test] = fold.classifier.decision_function(x_test)
            probability[test] = fold.classifier.predict_proba(x_test)
            predicted[test] = decision[test] > fold.classifier.thresholds_
        chosen.append(inner.penalty)
        inside.append(inner.auc)
        fitted.append(fold)
    tested = np.concatenate([test for _, test in parts])
    return HeldOutLabels(
        tested,
        decision[tested],
        probability[tested],
        predicted[tested],
        chosen,
        inside,
        fitted,
        protocol,
        watch.seconds,
    )


def inner_label_folds(
    descriptors: Images,
    targets: Matrix,
    groups: NDArray[Any] | None,
    encoder: Any,
    classifier: MultiLabelSVC,
    penalties: Sequence[float],
    *,
    folds: int = 5,
    random_state: int = 0,
) -> InnerLabels:
    """Choose C by cross-validation, and return held-out decision values for that C.

    Parameters
    ----------
    descriptors : Descriptors or DescriptorBlocks
        Descriptors of n training images.
    targets : ndarray of float, shape (n, n_labels)
        1, 0, or NaN.
    groups : ndarray of shape (n,), or None
        Patient of each image.
    encoder, classifier : estimators
        They are cloned before they are fitted.
    penalties : sequence of float
        Values of C to choose from.
    folds, random_state
        See :func:`medvlad.evaluation.cross_validation.held_out`.

    Raises
    ------
    InputError
        If there is no C.
    """
    if len(penalties) == 0:
        raise InputError("there is no C to choose from: give at least one")
    ordered = sorted(penalties)
    fold = balanced_folds(targets, groups, folds, random_state)
    n_folds = int(fold.max()) + 1
    decision = np.full((len(ordered), *targets.shape), np.nan)
    scores = np.full((n_folds, len(ordered)), np.nan)
    for k in range(n_folds):
        train, test = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        columns = _with_both(targets[train])
        if len(columns) == 0:
            continue
        own = descriptors.take(train)
        fitted = clone(encoder).fit(own)
        names = None if classifier.label_names is None else [classifier.label_names[i] for i in columns]
        part = clone(classifier).set_params(label_names=names)
        path = part.fit_path(fitted.transform(own), targets[np.ix_(train, columns)], ordered)
        x_test = fitted.transform(descriptors.take(test))
        for i, svm in enumerate(path):
            decision[i][np.ix_(test, columns)] = svm.decision_function(x_test)
            aucs = label_aucs(targets[test], decision[i][test])
            scores[k, i] = aucs[~np.isnan(aucs)].mean() if not np.isnan(aucs).all() else np.nan
    scores = scores[~np.isnan(scores).any(axis=1)]
    chosen = 0
    if len(scores) and len(ordered) > 1:
        means = scores.mean(axis=0)
        best = int(means.argmax())
        error = float(scores[:, best].std(ddof=1)) / np.sqrt(len(scores)) if len(scores) > 1 else 0.0
        chosen = int(np.argmax(means >= means[best] - error))
        logger.info(
            "C = %g of %s: mean AUC %.3f inside the training images, the best is %.3f +- %.3f",
            ordered[chosen],
            ", ".join(f"{c:g}" for c in ordered),
            means[chosen],
            means[best],
            error,
        )
    auc = float(scores[:, chosen].mean()) if len(scores) else float("nan")
    return InnerLabels(float(ordered[chosen]), auc, decision[chosen], scores[:, chosen])


def held_out_label_metrics(dataset: ImageFolder, decided: HeldOutLabels) -> dict[str, Any]:
    """Return the entry of results.json for one encoding: the metrics of held-out predictions.

    Returns
    -------
    dict
        task ("labels"), the dict of :func:`medvlad.evaluation.label_metrics.label_scores`, in which each
        label also has threshold (decision value, a list over the folds), C and inner_auc of each fold,
        n_train (of the first fold), n_test, protocol, and seconds by stage.
    """
    found = label_scores(
        _labels_of(dataset)[decided.tested],
        decided.decision,
        decided.probability,
        decided.predicted,
        dataset.class_names,
        groups=None if dataset.groups is None else dataset.groups[decided.tested],
    )
    for k, one in enumerate(found["labels"]):
        one["threshold"] = [float(fold.classifier.thresholds_[k]) for fold in decided.fitted]
    inside = [None if np.isnan(value) else value for value in decided.inner_auc]
    return {
        "task": "labels",
        **found,
        "C": decided.penalties,
        "inner_auc": inside,
        "n_test": len(decided.tested),
        "n_train": len(decided.fitted[0].train),
        "protocol": decided.protocol,
        "seconds": {name: round(seconds, 4) for name, seconds in decided.seconds.items()},
    }


def compare_labels(dataset: ImageFolder, first: HeldOutLabels, second: HeldOutLabels) -> dict[str, Any]:
    """Compare the macro AUC of two sets of held-out predictions on the same images.

    Returns
    -------
    dict
        difference (second minus first) and difference_ci95, each with the key auc. The interval is
        normal, with the variance of the difference between patients; None if the AUC has none.
    """
    groups = None if dataset.groups is None else dataset.groups[first.tested]
    targets = _labels_of(dataset)[first.tested]
    one, two = (macro_auc(targets, of.decision, groups) for of in (first, second))
    if one.value is None or two.value is None:
        return {"difference": {"auc": None}, "difference_ci95": {"auc": None}}
    difference = two.value - one.value
    ends = None
    n = len(one.influence)
    if one.reason is None and n > 1:
        spread = float(np.sqrt(n / (n - 1) * ((two.influence - one.influence) ** 2).sum()))
        ends = [difference + sign * float(norm.ppf(0.975)) * spread for sign in (-1, 1)]
    return {"difference": {"auc": difference}, "difference_ci95": {"auc": ends}}


def choose_label_encoding(
    descriptors: Images,
    targets: Matrix,
    groups: NDArray[Any] | None,
    encoders: Mapping[str, Any],
    classifier: MultiLabelSVC,
    *,
    penalties: Sequence[float] | None,
    folds: int = 5,
    random_state: int = 0,
) -> tuple[Choice, InnerLabels]:
    """Choose one of several encodings and C by mean AUC.

    Parameters are those of :func:`medvlad.evaluation.choice.choose_encoding`.

    Returns
    -------
    Choice
        Its `balanced_accuracy` holds mean AUCs.
    InnerLabels
        Result of the inner folds with the chosen encoding.
    """
    if not encoders:
        raise InputError("there is no encoding to choose from: name at least one")
    found = {
        name: inner_label_folds(
            descriptors,
            targets,
            groups,
            encoder,
            classifier,
            [classifier.C] if penalties is None else penalties,
            folds=folds,
            random_state=random_state,
        )
        for name, encoder in encoders.items()
    }
    chosen = clearly_best({name: one.scores for name, one in found.items()})
    means = {name: one.auc for name, one in found.items()}
    inner = found[chosen]
    return Choice(chosen, inner.penalty, means, len(inner.scores), metric="mean AUC"), inner


def _labels_of(dataset: ImageFolder) -> Matrix:
    if dataset.targets is None or dataset.task != "labels":
        raise InputError(f"the data set has the task {dataset.task!r} and not 'labels': give its columns")
    return dataset.targets


def _with_both(targets: Matrix) -> NDArray[np.intp]:
    """Return the labels that some images have and other images do not have."""
    return np.flatnonzero((targets == 1).any(axis=0) & (targets == 0).any(axis=0))
