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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from medvlad._util.validate import InputError
from medvlad.datasets.folders import ImageFolder
from medvlad.evaluation.choice import Choice, best_encoding, first_encoding
from medvlad.evaluation.comparison import auc_difference
from medvlad.evaluation.cross_validation import (
    Decided,
    FittedFold,
    Images,
    InnerFolds,
    Stopwatch,
    smallest_good_penalty,
)
from medvlad.evaluation.folds import parts_by_fold
from medvlad.evaluation.label_metrics import label_aucs, label_scores, macro_auc
from medvlad.evaluation.target_folds import balanced_folds, target_parts, targets_of
from medvlad.svm.multi_label import MultiLabelSVC

__all__ = [
    "HeldOutLabels",
    "choose_label_encoding",
    "compare_labels",
    "held_out_label_metrics",
    "held_out_labels",
    "inner_label_folds",
]

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class HeldOutLabels(Decided):
    """Held-out predictions of several labels.

    Attributes
    ----------
    tested, fitted, protocol, seconds
        See `medvlad.evaluation.cross_validation.Decided`.
    decision, probability : ndarray of float, shape (n, n_labels)
    predicted : ndarray of bool, shape (n, n_labels)
        Whether the decision value is above the threshold of its fold.
    penalties, inner_auc : list of float
        C of each fold, and the mean AUC with that C inside the training images.
    """

    decision: Matrix
    probability: Matrix
    predicted: NDArray[np.bool_]
    penalties: list[float]
    inner_auc: list[float]


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
    targets = targets_of(dataset, "labels")
    parts, protocol = target_parts(dataset, folds, random_state)
    decision, probability = np.full(targets.shape, np.nan), np.full(targets.shape, np.nan)
    predicted = np.zeros(targets.shape, bool)
    chosen, inside, fitted = [], [], []
    for train, test in parts:
        own = descriptors.take(train)
        with watch.stage("inner_folds"):
            inner = inner_label_folds(
                own,
                targets[train],
                dataset.groups_of(train),
                encoder,
                classifier,
                [classifier.C] if penalties is None else penalties,
                folds=folds,
                random_state=random_state,
            )
        svms = clone(classifier).set_params(C=inner.penalty)
        fold = FittedFold(train, test, clone(encoder), svms)
        x_train, x_test = fold.encode(own, descriptors.take(test), watch)
        with watch.stage("fit_classifier"):
            svms.fit(x_train, targets[train]).calibrate(inner.decision, targets[train])
        with watch.stage("predict"):
            decision[test] = svms.decision_function(x_test)
            probability[test] = svms.predict_proba(x_test)
            predicted[test] = decision[test] > svms.thresholds_
        chosen.append(inner.penalty)
        inside.append(inner.mean_score)
        fitted.append(fold)
    tested = np.concatenate([test for _, test in parts])
    return HeldOutLabels(
        tested=tested,
        decision=decision[tested],
        probability=probability[tested],
        predicted=predicted[tested],
        penalties=chosen,
        inner_auc=inside,
        fitted=fitted,
        protocol=protocol,
        seconds=watch.seconds,
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
) -> InnerFolds:
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
    parts = parts_by_fold(balanced_folds(targets, groups, folds, random_state))
    decision = np.full((len(ordered), *targets.shape), np.nan)
    scores = np.full((len(parts), len(ordered)), np.nan)
    for k, (train, test) in enumerate(parts):
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
        chosen = smallest_good_penalty(ordered, scores, "mean AUC")
    auc = float(scores[:, chosen].mean()) if len(scores) else float("nan")
    return InnerFolds(float(ordered[chosen]), auc, decision[chosen], scores[:, chosen])


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
        targets_of(dataset, "labels")[decided.tested],
        decided.decision,
        decided.probability,
        decided.predicted,
        dataset.class_names,
        groups=dataset.groups_of(decided.tested),
    )
    for k, one in enumerate(found["labels"]):
        one["threshold"] = [float(fold.head.thresholds_[k]) for fold in decided.fitted]
    inside = [None if np.isnan(value) else value for value in decided.inner_auc]
    return {"task": "labels", **found, "C": decided.penalties, "inner_auc": inside, **decided.facts()}


def compare_labels(dataset: ImageFolder, first: HeldOutLabels, second: HeldOutLabels) -> dict[str, Any]:
    """Compare the macro AUC of two sets of held-out predictions on the same images.

    Returns
    -------
    dict
        difference (second minus first) and difference_ci95, each with the key auc, and None if there is none.
        difference_ci95_missing: the reason for a missing interval, with the same key. The interval is that of
        ``auc_difference`` in :mod:`medvlad.evaluation.comparison`.
    """
    targets = targets_of(dataset, "labels")[first.tested]
    one, two = (macro_auc(targets, of.decision, dataset.groups_of(first.tested)) for of in (first, second))
    found = auc_difference(one, two)
    return {
        "difference": {"auc": found.value},
        "difference_ci95": {"auc": None if found.ends is None else list(found.ends)},
        "difference_ci95_missing": {} if found.reason is None else {"auc": found.reason},
    }


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
) -> Choice:
    """Choose one of several encodings and C by mean AUC. Inner folds are always used.

    Parameters are those of :func:`medvlad.evaluation.choice.choose_encoding`.
    """
    first_encoding(encoders)
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
    return best_encoding(found, "mean AUC")


def _with_both(targets: Matrix) -> NDArray[np.intp]:
    """Return the labels that some images have and other images do not have."""
    return np.flatnonzero((targets == 1).any(axis=0) & (targets == 0).any(axis=0))
