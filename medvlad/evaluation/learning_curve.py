r"""Learning curve: metrics over the number of training images.

The patients of each class are subsampled to a half, a quarter, ... as long as every class keeps two patients.
The subsets are nested: each one contains the smaller ones. Encoder and classifier are fitted again on each
subset, and measured on the same test images. Each repetition draws other patients. Without a test part,
repetition :math:`r` uses fold :math:`r` of the cross-validation.

If the curve still rises at its end, more images will probably help. If it is flat, they probably will not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from medvlad._util.validate import InputError, check_positive_int, further_seed
from medvlad.datasets.folders import ImageFolder
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors
from medvlad.evaluation.cross_validation import HeldOut
from medvlad.evaluation.encoded import encoded, fit_encoder
from medvlad.evaluation.metrics import balanced_accuracy, class_aucs
from medvlad.svm.decision import decision_columns

__all__ = ["add_learning_curves", "check_for_curve", "learning_curve", "nested_subsets"]

logger = logging.getLogger(__name__)

_MOST_SIZES = 6
_LEAST_PATIENTS = 2  # of each class


def check_for_curve(dataset: ImageFolder) -> None:
    """Raise InputError unless each image of a data set has one class."""
    if dataset.task != "classes":
        raise InputError(
            f"a learning curve needs one class an image, and the data set has the task {dataset.task!r}: "
            "leave the learning curve out"
        )


def add_learning_curves(
    results: dict[str, Any],
    descriptors: Descriptors | DescriptorBlocks,
    dataset: ImageFolder,
    decided: Mapping[str, HeldOut],
    *,
    random_state: int = 0,
) -> None:
    """Add learning_curve to each result of an evaluation, see :func:`learning_curve`.

    Parameters
    ----------
    results : dict
        Attributes of :class:`medvlad.experiment.Evaluation`, as the other parameters.
    descriptors : Descriptors or DescriptorBlocks
    dataset : ImageFolder
    decided : mapping of str to HeldOut
    random_state : int, default=0
        Seed of the draws.

    Raises
    ------
    InputError
        If the data set has several labels or numbers.
    """
    check_for_curve(dataset)
    for one in results["results"]:
        own = decided[one["encode"]]
        one["learning_curve"] = learning_curve(descriptors, dataset, own, random_state=random_state)


def learning_curve(
    descriptors: Descriptors | DescriptorBlocks,
    dataset: ImageFolder,
    decided: HeldOut,
    *,
    n_repeats: int = 5,
    random_state: int = 0,
) -> list[dict[str, Any]]:
    """Return metrics on the test images for nested subsets of the training images.

    Parameters
    ----------
    descriptors : Descriptors or DescriptorBlocks
        Descriptors of the images of `dataset`, in the same order.
    dataset : ImageFolder
    decided : HeldOut
        Held-out predictions, whose folds, encoder and classifier are used. C is that of each fold.
    n_repeats : int, default=5
        Number of repetitions.
    random_state : int, default=0
        Seed of the draws.

    Returns
    -------
    list of dict
        One for each size and repetition, smaller sizes first: repeat (from 0), share (of the patients of each
        class: 1, 0.5, 0.25, ...), n_images, n_patients (None: unknown) and the metrics accuracy,
        balanced_accuracy and auc (None: undefined).

    Raises
    ------
    InputError
        If `n_repeats` is out of range, or the data set has several labels or numbers.
    """
    check_for_curve(dataset)
    check_positive_int(n_repeats, "n_repeats")
    found = []
    for repeat in range(n_repeats):
        seed = further_seed(random_state, repeat)
        fold = decided.fitted[repeat % len(decided.fitted)]
        test_images = descriptors.take(fold.test)
        groups = dataset.groups_of(fold.train)
        subsets = nested_subsets(dataset.labels[fold.train], groups, seed)
        for halvings, subset in zip(reversed(range(len(subsets))), subsets, strict=True):
            rows = fold.train[subset]
            logger.info("learning curve: repetition %d, %d images", repeat + 1, len(rows))
            encoder = clone(fold.encoder)
            _set_seed(encoder, seed)
            own, labels = descriptors.take(rows), dataset.labels[rows]
            fit_encoder(encoder, own, fold.head)
            classifier = clone(fold.head).fit(encoded(encoder, own, fold.head), labels)
            x_test = encoded(encoder, test_images, fold.head)
            decision = decision_columns(classifier.decision_function(x_test))
            truth = dataset.labels[fold.test]
            aucs = class_aucs(truth, decision)
            defined = [area for area in aucs if area is not None]
            said = decision.argmax(axis=1)
            found.append(
                {
                    "repeat": repeat,
                    "share": 0.5**halvings,
                    "n_images": len(rows),
                    "n_patients": None if groups is None else len(np.unique(groups[subset])),
                    "accuracy": float((said == truth).mean()),
                    "balanced_accuracy": balanced_accuracy(truth, said),
                    "auc": float(np.mean(defined)) if len(defined) == len(aucs) else None,
                }
            )
    return sorted(found, key=lambda one: (one["n_images"], one["repeat"]))


def nested_subsets(
    labels: NDArray[np.int64], groups: NDArray[Any] | None, random_state: int
) -> list[NDArray[np.intp]]:
    """Draw nested subsets of training images. Images of a patient stay together.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
    groups : ndarray of shape (n,), or None
        Patient of each image. None: each image is a patient of its own.
    random_state : int
        Seed of the draw.

    Returns
    -------
    list of ndarray of int
        Sorted positions of the images, from the smallest subset to all images, each with half the patients of
        the next one. At most six. A patient with images of several classes counts for the class of the first
        one.
    """
    names = np.arange(len(labels)).astype(str) if groups is None else groups.astype(str)
    _, first, patient = np.unique(names, return_index=True, return_inverse=True)
    patient_class = labels[first]
    rng = np.random.default_rng(random_state)
    rank = np.empty(len(first))
    for k in np.unique(patient_class):
        own = np.flatnonzero(patient_class == k)
        rank[own] = (rng.permutation(len(own)) + 1) / len(own)
    smallest = int(np.bincount(patient_class)[np.unique(patient_class)].min())
    subsets = []
    for halvings in reversed(range(_MOST_SIZES)):
        share = 0.5**halvings
        if halvings and smallest * share < _LEAST_PATIENTS:
            continue
        chosen = np.flatnonzero(rank[patient] <= share + 1e-9)
        if len(np.unique(labels[chosen])) == len(np.unique(labels)):
            subsets.append(chosen)
    return subsets


def _set_seed(encoder: Any, seed: int) -> None:
    """Give the steps of an encoder another seed, so that repetitions also vary in k-means."""
    seeded = {name: seed for name in encoder.get_params() if name.split("__")[-1] == "random_state"}
    encoder.set_params(**seeded)
