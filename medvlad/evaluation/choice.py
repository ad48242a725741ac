"""Choose an encoding by cross-validation inside the training images.

Each encoding is fitted and measured on the same inner folds, see :mod:`medvlad.evaluation.cross_validation`.
Images of a patient stay together. The metric is balanced accuracy.

The first encoding whose mean over the folds is within one standard error of the best is chosen, so name the
cheapest one first: average pooling before VLAD. The standard error is that of the differences, fold by fold.
One standard error is weak evidence of a real difference. No test image is used.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors
from medvlad.evaluation.class_counts import units_per_class
from medvlad.evaluation.cross_validation import InnerFolds, inner_folds
from medvlad.svm.invariance import Nuisance
from medvlad.svm.wide_linear_svc import WideLinearSVC

__all__ = ["Choice", "best_encoding", "choose_encoding", "first_encoding", "first_near_best", "has_folds"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """The encoding that was chosen, and why.

    Attributes
    ----------
    encoding : str
        Name of the encoding.
    penalty : float
        C of the classifier.
    balanced_accuracy : dict of str to float
        Mean over the inner folds, of each encoding. Empty if there was nothing to choose.
    n_folds : int
        Number of inner folds. 0: none.
    metric : str
        What `balanced_accuracy` holds: another metric for several labels and for numbers.
    inner : InnerFolds or None
        Held-out decision values of the training images with the chosen encoding and C. None: without inner
        folds.
    """

    encoding: str
    penalty: float
    balanced_accuracy: dict[str, float]
    n_folds: int
    metric: str = "balanced accuracy"
    inner: InnerFolds | None = None


def choose_encoding(
    descriptors: Descriptors | DescriptorBlocks,
    labels: NDArray[np.int64],
    groups: NDArray[Any] | None,
    encoders: Mapping[str, Any],
    classifier: WideLinearSVC,
    *,
    penalties: Sequence[float] | None,
    folds: int = 5,
    random_state: int = 0,
    means: NDArray[np.float32] | None = None,
    hold_out: bool = False,
    nuisance: Nuisance | None = None,
) -> Choice:
    """Choose one of several encodings, and C.

    Parameters
    ----------
    descriptors, labels, groups, folds, random_state, means, nuisance
        See `inner_folds` of :mod:`medvlad.evaluation.cross_validation`.
    encoders : dict of str to estimator
        Encodings by name, the cheapest first. They are cloned before they are fitted.
    classifier : WideLinearSVC
        It is cloned before it is fitted.
    penalties : sequence of float, or None
        Values of C to choose from. None: the C of `classifier`.
    hold_out : bool, default=False
        Return held-out decision values even if there is nothing to choose.

    Returns
    -------
    Choice
        Without `penalties` and `hold_out`: the first encoding if it is the only one, or if a class has too
        few images (patients) for two folds, which is logged.

    Raises
    ------
    InputError
        If there is no encoding, if `penalties` or `hold_out` need folds for which a class has too few images
        (patients), or for the other reasons given in
        `inner_folds` of :mod:`medvlad.evaluation.cross_validation`.
    """
    first = first_encoding(encoders)
    can_do_without = penalties is None and not hold_out
    if can_do_without and len(encoders) > 1 and not has_folds(labels, groups, folds):
        logger.warning(
            "too few training images (patients, if known) of a class to choose between %s: %s is used",
            ", ".join(encoders),
            first,
        )
        return Choice(first, float(classifier.C), {}, 0)
    if can_do_without and len(encoders) == 1:
        return Choice(first, float(classifier.C), {}, 0)
    found = {
        name: inner_folds(
            descriptors,
            labels,
            groups,
            encoder,
            classifier,
            [classifier.C] if penalties is None else penalties,
            folds=folds,
            random_state=random_state,
            means=means,
            nuisance=nuisance,
        )
        for name, encoder in encoders.items()
    }
    return best_encoding(found, "balanced accuracy")


def first_encoding(encoders: Mapping[str, Any]) -> str:
    """Return the name of the first encoding. Raise InputError if there is none."""
    if not encoders:
        raise InputError("there is no encoding to choose from: name at least one")
    return next(iter(encoders))


def best_encoding(found: Mapping[str, InnerFolds], metric: str) -> Choice:
    """Choose an encoding by the scores of its inner folds. `metric` names them."""
    chosen = first_near_best({name: one.scores for name, one in found.items()})
    means = {name: one.mean_score for name, one in found.items()}
    best = found[chosen]
    return Choice(chosen, best.penalty, means, len(best.scores), metric, best)


def has_folds(labels: NDArray[np.int64], groups: NDArray[Any] | None, folds: int) -> bool:
    """Return whether every class has images (patients) for two folds inside the training images."""
    return min(folds, int(units_per_class(labels, groups, int(labels.max()) + 1).min())) >= 2


def first_near_best(scores: Mapping[str, NDArray[np.float64]]) -> str:
    """Return the first name whose mean is within one standard error of the best.

    Without two folds there is no standard error, and the first name is returned.
    """
    first, values = next(iter(scores.items()))
    if len(scores) == 1 or len(values) < 2:
        return first
    best = max(scores.values(), key=lambda one: float(one.mean()))
    for name, one in scores.items():
        difference = best - one
        if difference.mean() <= difference.std(ddof=1) / np.sqrt(len(one)):
            return name
    raise AssertionError("the best encoding is within one standard error of itself")
