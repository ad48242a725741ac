"""How well a representation classifies: fitted on training images, scored on images it has never seen.

Where the images come with a test part (root/train, root/test) the encoder and the classifier are fitted on
the training part and scored once on the test part. Elsewhere they are scored by stratified k-fold
cross-validation; everything that is fitted (codebook and SVM) is fitted inside the training folds, and
images of one patient never stand on both sides.

accuracy_ci95 takes images for independent. It is Wilson's score interval of a proportion p = k / n, z = 1.96:

    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)        (Wilson, JASA 1927)

bootstrap_ci95 draws patients where they are known; see :mod:`medvlad.significance`.
"""

from __future__ import annotations

import logging
import math
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from medvlad._validate import InputError, check_choice, check_positive_int
from medvlad.classify import WideLinearSVC
from medvlad.datasets import ImageFolder
from medvlad.descriptors import Descriptors
from medvlad.encoding import VLAD
from medvlad.pooling import GlobalPool
from medvlad.significance import bootstrap_intervals, compare
from medvlad.stored import StoredDescriptors
from medvlad.threshold import mixture_threshold

__all__ = [
    "HeldOut",
    "Stopwatch",
    "compare_decisions",
    "evaluate_encoder",
    "figures",
    "held_out",
    "score_table",
    "scores",
    "versions",
    "wilson_interval",
]

logger = logging.getLogger(__name__)

_Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson_interval(n_correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion.

    Parameters
    ----------
    n_correct, n : int
        Successes out of `n` >= 1 trials.

    Returns
    -------
    low, high : float
        Within [0, 1].
    """
    p = n_correct / n
    center = p + _Z95**2 / (2 * n)
    half = _Z95 * math.sqrt(p * (1 - p) / n + _Z95**2 / (4 * n**2))
    scale = 1 + _Z95**2 / n
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


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


def scores(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    decision: NDArray[np.float64],
    class_names: list[str],
    *,
    positive: str | None = None,
) -> dict[str, Any]:
    """Figures of merit of predictions on images not trained on.

    Parameters
    ----------
    labels, predicted : ndarray of int, shape (n,)
        Indices into `class_names`.
    decision : ndarray of float, shape (n, n_classes)
        Larger means more likely that class.
    class_names : list of str
    positive : str or None
        With two classes, the one whose detection sensitivity and specificity speak of; None: the last.

    Returns
    -------
    dict
        accuracy, accuracy_ci95, balanced_accuracy, auc, sensitivity, specificity (with two classes those of
        positive_class, with more the mean over classes of one against the rest), per_class (n, sensitivity,
        specificity, auc), confusion_matrix (rows: truth). A figure that is undefined because a class has no
        test image, or is the only one, is None.
    """
    n_classes = len(class_names)
    table = confusion_matrix(labels, predicted, labels=np.arange(n_classes))
    correct, n = int(np.trace(table)), int(table.sum())
    per_class: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(class_names):
        own, others = int(table[k].sum()), n - int(table[k].sum())
        false_alarms = int(table[:, k].sum() - table[k, k])
        per_class[name] = {
            "n": own,
            "sensitivity": int(table[k, k]) / own if own else None,
            "specificity": 1 - false_alarms / others if others else None,
            "auc": float(roc_auc_score(labels == k, decision[:, k])) if own and others else None,
        }
    aucs = [c["auc"] for c in per_class.values()]
    result: dict[str, Any] = {
        "accuracy": correct / n,
        "accuracy_ci95": list(wilson_interval(correct, n)),
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
        "auc": None if None in aucs else sum(aucs) / n_classes,
    }
    chosen = class_names
    if n_classes == 2:
        chosen = [check_choice(positive or class_names[-1], "the positive class", class_names)]
        result["positive_class"] = chosen[0]
    for figure in ("sensitivity", "specificity"):
        values = [per_class[name][figure] for name in chosen]
        result[figure] = None if None in values else sum(values) / len(values)
    result["per_class"] = per_class
    result["confusion_matrix"] = table.tolist()
    return result


@dataclass(frozen=True)
class HeldOut:
    """Decisions on images that were not trained on.

    Attributes
    ----------
    tested : ndarray of int, shape (n,)
        Indices into the data set.
    decision : ndarray of float, shape (n, n_classes)
        Of these images.
    n_train : int
        Training images of the first fold.
    protocol : str
    seconds : dict
        Of each stage.
    """

    tested: NDArray[np.intp]
    decision: NDArray[np.float64]
    n_train: int
    protocol: str
    seconds: dict[str, float]


def evaluate_encoder(
    descriptors: Descriptors | StoredDescriptors,
    dataset: ImageFolder,
    encoder: VLAD | GlobalPool,
    classifier: WideLinearSVC,
    *,
    folds: int = 5,
    random_state: int = 0,
    positive: str | None = None,
) -> dict[str, Any]:
    """Fit and score one encoder on one data set: :func:`held_out` and :func:`figures`; see there."""
    decided = held_out(descriptors, dataset, encoder, classifier, folds=folds, random_state=random_state)
    return figures(dataset, decided, positive=positive, random_state=random_state)


def figures(
    dataset: ImageFolder,
    decided: HeldOut,
    *,
    positive: str | None = None,
    random_state: int = 0,
    adapt_threshold: bool = False,
) -> dict[str, Any]:
    """Figures of merit of decisions.

    Parameters
    ----------
    dataset : ImageFolder
    decided : HeldOut
    positive : str or None
        See :func:`scores`.
    random_state : int, default=0
        Seed of the bootstrap.
    adapt_threshold : bool, default=False
        For two classes: whether to decide besides by a threshold found in the test images' decision values,
        without their labels; see :mod:`medvlad.threshold`.

    Returns
    -------
    dict
        What :func:`scores` returns over all test images (those of all folds pooled), with bootstrap_ci95 (see
        :func:`medvlad.significance.bootstrap_intervals`) and what it draws, n_train, n_test, protocol and
        seconds by stage; with `adapt_threshold` also adapted: threshold (None where there is none) and, for
        it, the same figures.
    """
    labels, groups = dataset.labels[decided.tested], _groups_of(dataset, decided)
    result = scores(
        labels, decided.decision.argmax(axis=1), decided.decision, dataset.class_names, positive=positive
    )
    result["bootstrap_ci95"] = bootstrap_intervals(
        labels, decided.decision, groups=groups, random_state=random_state
    )
    result["bootstrap_of"] = "images" if groups is None else "patients"
    if adapt_threshold:
        cut = mixture_threshold(decided.decision[:, 1], random_state=random_state)
        result["adapted"] = {"threshold": cut}
        if cut is not None:
            moved = (decided.decision[:, 1] - cut)[:, None] * [-1, 1]
            result["adapted"] |= scores(
                labels, moved.argmax(axis=1), moved, dataset.class_names, positive=positive
            )
            result["adapted"]["bootstrap_ci95"] = bootstrap_intervals(
                labels, moved, groups=groups, random_state=random_state
            )
    result["n_test"], result["n_train"] = len(labels), decided.n_train
    result["protocol"] = decided.protocol
    result["seconds"] = {name: round(seconds, 4) for name, seconds in decided.seconds.items()}
    return result


def compare_decisions(
    dataset: ImageFolder, first: HeldOut, second: HeldOut, *, random_state: int = 0
) -> dict[str, Any]:
    """Whether one of two is better on the same images: see :func:`medvlad.significance.compare`."""
    return compare(
        dataset.labels[first.tested],
        first.decision,
        second.decision,
        groups=_groups_of(dataset, first),
        random_state=random_state,
    )


def _groups_of(dataset: ImageFolder, decided: HeldOut) -> NDArray[Any] | None:
    return None if dataset.groups is None else dataset.groups[decided.tested]


def held_out(
    descriptors: Descriptors | StoredDescriptors,
    dataset: ImageFolder,
    encoder: VLAD | GlobalPool,
    classifier: WideLinearSVC,
    *,
    folds: int = 5,
    random_state: int = 0,
) -> HeldOut:
    """Fit one encoder and classifier on training images and decide on the others.

    Parameters
    ----------
    descriptors : Descriptors or StoredDescriptors
        Of the images of `dataset`, in its order.
    dataset : ImageFolder
        With a test part, or without: then cross-validation.
    encoder : VLAD or GlobalPool
        Cloned, never fitted itself.
    classifier : WideLinearSVC
        Cloned, never fitted itself.
    folds : int, default=5
        Folds of the cross-validation.
    random_state : int, default=0
        Seed of the folds.

    Returns
    -------
    HeldOut
        Over all test images, those of all folds pooled.

    Raises
    ------
    InputError
        If a class has too few images for the folds, or no training image.
    """
    watch = Stopwatch()
    parts = list(_parts(dataset, folds, random_state))
    for train, test in parts:
        _check_part(dataset, train, test)
    n_classes = len(dataset.class_names)
    decision = np.full((len(dataset.labels), n_classes), np.nan)
    for train, test in parts:
        train_images, test_images = descriptors.take(train), descriptors.take(test)
        fitted = clone(encoder)
        with watch.stage("fit_encoder"):
            fitted.fit(train_images)
        with watch.stage("encode"):
            x_train, x_test = fitted.transform(train_images), fitted.transform(test_images)
        with watch.stage("fit_classifier"):
            svm = clone(classifier).fit(x_train, dataset.labels[train])
        with watch.stage("predict"):
            values = svm.decision_function(x_test)
        decision[test] = np.column_stack([-values, values]) if n_classes == 2 else values
    tested = np.concatenate([test for _, test in parts])
    protocol = "train and test part" if dataset.splits is not None else f"{folds}-fold cross-validation"
    return HeldOut(tested, decision[tested], len(parts[0][0]), protocol, watch.seconds)


def _parts(
    dataset: ImageFolder, folds: int, random_state: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield indices of training and test images."""
    if dataset.splits is not None:
        train, test = (np.flatnonzero(dataset.splits == part) for part in ("train", "test"))
        yield train, test
        return
    check_positive_int(folds, "folds")
    units = dataset.labels
    if dataset.groups is not None:
        _, patients = np.unique(dataset.groups.astype(str), return_inverse=True)
        units = np.unique(np.column_stack([dataset.labels, patients]), axis=0)[:, 0]
    smallest = int(np.bincount(units, minlength=len(dataset.class_names)).min())
    if not 2 <= folds <= smallest:
        what = "images" if dataset.groups is None else "patients"
        raise InputError(
            f"folds={folds} must be at least 2 and at most the {what} of the smallest class, {smallest}: "
            "choose fewer folds or give a train and a test folder"
        )
    splitter = StratifiedKFold if dataset.groups is None else StratifiedGroupKFold
    folded = splitter(folds, shuffle=True, random_state=random_state)
    yield from folded.split(np.zeros(len(dataset.labels)), dataset.labels, dataset.groups)


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


def score_table(results: list[Mapping[str, Any]]) -> str:
    """Plain-text table of the results of several encoders, one line each."""
    two_classes = all("positive_class" in r for r in results)
    header = ["encode", "scale", "accuracy", "95 % interval", "balanced"]
    header += ["sensitivity", "specificity"] if two_classes else []
    rows = [[*header, "AUC"]]
    for r in results:
        low, high = r["accuracy_ci95"]
        row = [
            str(r["encode"]),
            ",".join(map(str, r["scales"])),
            f"{r['accuracy']:.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{r['balanced_accuracy']:.3f}",
        ]
        figures = ["sensitivity", "specificity", "auc"] if two_classes else ["auc"]
        row += ["-" if r[name] is None else f"{r[name]:.3f}" for name in figures]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def versions() -> dict[str, str]:
    """Versions of what a result depends on; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in (
        "medvlad",
        "numpy",
        "scipy",
        "scikit-learn",
        "pillow",
        "keras",
        "tensorflow",
        "jax",
        "torch",
        "openvino",
        "pydicom",
        "nibabel",
        "tifffile",
        "imagecodecs",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
