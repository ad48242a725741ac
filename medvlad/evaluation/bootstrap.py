"""How sure figures of merit are, and whether one classifier is better than another on the same images.

Bootstrap: patients, not images, are drawn with replacement, as many as there are, because images of one
patient are alike (Field & Welsh, JRSS B 2007). Drawing patient g m_g times gives each of its images the
weight m_g::

    accuracy           sum w_i [correct_i] / sum w_i
    balanced accuracy  the mean over classes of that within the class
    AUC                of a class against the rest: the sum over pairs (i in it, j not in it) of
                       w_i w_j ([s_i > s_j] + [s_i = s_j] / 2), over that of w_i w_j; their mean over classes

The interval goes from the 2.5th to the 97.5th percentile over the draws. In a draw that leaves a class
without an image there is no balanced accuracy and no AUC, and it does not count for those.

Two classifiers are compared by the same draws for both (paired bootstrap), and by McNemar's exact test: of
the images that only one of them gets right, b and c of them, b is binomial with p = 1/2 if neither is better
(McNemar, Psychometrika 1947). The test takes images for independent; with several a patient, look at the
bootstrap's interval instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from medvlad._util.validate import InputError, check_positive_int

__all__ = ["bootstrap_intervals", "compare"]

FIGURES = ("accuracy", "balanced_accuracy", "auc")

_N_RESAMPLES = 2000
_DRAWS_AT_A_TIME = 1 << 22  # weights
_PERCENTILES = (2.5, 97.5)

Weights = NDArray[np.float64]


def bootstrap_intervals(
    labels: NDArray[np.int64],
    decision: NDArray[np.float64],
    *,
    groups: NDArray[Any] | None = None,
    n_resamples: int = _N_RESAMPLES,
    random_state: int = 0,
) -> dict[str, list[float] | None]:
    """95 % intervals of figures of merit.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
        From 0 to n_classes - 1.
    decision : ndarray of float, shape (n, n_classes)
        The largest of a row is the predicted class.
    groups : ndarray of shape (n,), or None
        Patient of each image; None: each image is one.
    n_resamples : int, default=2000
    random_state : int, default=0

    Returns
    -------
    dict
        accuracy, balanced_accuracy, auc: [low, high], or None where no draw has the figure.

    Raises
    ------
    InputError
        If there is no image, or the shapes do not fit.
    """
    figures = _figures_of(labels, decision)
    draws = _draw(len(labels), groups, n_resamples, random_state, figures)
    return {name: _interval(values) for name, values in zip(FIGURES, draws, strict=True)}


def compare(
    labels: NDArray[np.int64],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    groups: NDArray[Any] | None = None,
    n_resamples: int = _N_RESAMPLES,
    random_state: int = 0,
) -> dict[str, Any]:
    """Compare two classifiers on the same images.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
    first, second : ndarray of float, shape (n, n_classes)
        Decision values of both.
    groups, n_resamples, random_state
        See :func:`bootstrap_intervals`.

    Returns
    -------
    dict
        only_first, only_second (images that only one of them gets right), mcnemar_p (two-sided), and for
        accuracy, balanced_accuracy and auc difference, second minus first, and difference_ci95, its 95 %
        interval; None where a figure is not defined.

    Raises
    ------
    InputError
        As :func:`bootstrap_intervals`.
    """
    one, other = _figures_of(labels, first), _figures_of(labels, second)
    right = [decision.argmax(axis=1) == labels for decision in (first, second)]
    only_first, only_second = (int((right[a] & ~right[1 - a]).sum()) for a in (0, 1))
    n = only_first + only_second
    draws = _draw(len(labels), groups, n_resamples, random_state, lambda w: other(w) - one(w))
    each = np.ones((1, len(labels)))
    differences = (other(each) - one(each))[:, 0]
    return {
        "only_first": only_first,
        "only_second": only_second,
        "mcnemar_p": float(binomtest(only_first, n).pvalue) if n else 1.0,
        "difference": {
            name: float(value) if np.isfinite(value) else None
            for name, value in zip(FIGURES, differences, strict=True)
        },
        "difference_ci95": {name: _interval(values) for name, values in zip(FIGURES, draws, strict=True)},
    }


def _draw(
    n: int,
    groups: NDArray[Any] | None,
    n_resamples: int,
    random_state: int,
    figures: Callable[[Weights], Weights],
) -> Weights:
    """Figures (3, n_resamples) of as many draws."""
    check_positive_int(n_resamples, "n_resamples")
    if groups is not None and len(groups) != n:
        raise InputError(f"there are {len(groups)} groups for {n} images: give one an image, or None")
    if groups is None:
        patient = np.arange(n)
    else:
        _, patient = np.unique(np.asarray(groups), return_inverse=True)
    n_patients = int(patient.max()) + 1
    rng = np.random.default_rng(random_state)
    at_a_time = max(1, _DRAWS_AT_A_TIME // max(n, n_patients))
    parts = []
    for start in range(0, n_resamples, at_a_time):
        size = min(at_a_time, n_resamples - start)
        drawn = rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=size)
        parts.append(figures(drawn[:, patient].astype(np.float64)))
    return np.concatenate(parts, axis=1)


def _interval(values: Weights) -> list[float] | None:
    values = values[np.isfinite(values)]
    return [float(end) for end in np.percentile(values, _PERCENTILES)] if len(values) else None


def _figures_of(labels: NDArray[np.int64], decision: NDArray[np.float64]) -> Callable[[Weights], Weights]:
    """Return what turns weights (draws, n) into figures (3, draws); NaN where one is not defined."""
    labels, decision = np.asarray(labels), np.asarray(decision)
    if decision.ndim != 2 or len(labels) != len(decision) or len(labels) == 0:
        raise InputError(
            f"labels of shape {labels.shape} and decision values of shape {decision.shape} do not fit: give "
            "(n,) and (n, n_classes), n at least 1"
        )
    right = decision.argmax(axis=1) == labels
    members = [labels == k for k in range(decision.shape[1])]
    ranked = [_Ranked(decision[:, k], own) for k, own in enumerate(members)]

    def figures(weights: Weights) -> Weights:
        with np.errstate(invalid="ignore", divide="ignore"):
            accuracy = weights @ right / weights.sum(axis=1)
            recalls = [weights @ (right & own) / (weights @ own) for own in members if own.any()]
            aucs = [one.auc(weights) for one in ranked]
        return np.stack([accuracy, np.mean(recalls, axis=0), np.mean(aucs, axis=0)])

    return figures


class _Ranked:
    """Scores of a class in their order, so that each draw costs a pass and no sorting."""

    def __init__(self, scores: NDArray[np.float64], own: NDArray[np.bool_]) -> None:
        self._order = np.argsort(scores, kind="stable")
        ordered = scores[self._order]
        self._starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        self._own = own[self._order]

    def auc(self, weights: Weights) -> Weights:
        """Area under the curve for each row of weights."""
        weights = weights[:, self._order]
        own = np.add.reduceat(weights * self._own, self._starts, axis=1)
        rest = np.add.reduceat(weights * ~self._own, self._starts, axis=1)
        below = np.cumsum(rest, axis=1) - rest
        pairs = own.sum(axis=1) * rest.sum(axis=1)
        area: Weights = (own * (below + rest / 2)).sum(axis=1) / pairs
        return area
