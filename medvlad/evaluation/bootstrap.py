r"""Bootstrap intervals of metrics, and paired comparison of two classifiers on the same images.

**Intervals.** A bootstrap sample draws patients with replacement, as many as there are. It draws patients
and not images, because images of one patient are alike (Field & Welsh, JRSS B 2007). If patient :math:`g`
is drawn :math:`m_g` times, each of its images gets the weight :math:`w_i = m_g`. With the true class
:math:`y_i`, the decided class :math:`d_i` and the score :math:`s_i` of class :math:`k`,

.. math::

   \text{accuracy} &= \frac{\sum_i w_i [d_i = y_i]}{\sum_i w_i}

   \text{recall}_k &= \frac{\sum_{i : y_i = k} w_i [d_i = k]}{\sum_{i : y_i = k} w_i}

   \text{AUC}_k &= \frac{\sum_{i : y_i = k} \sum_{j : y_j \ne k} w_i w_j
   \left( [s_i > s_j] + \tfrac{1}{2} [s_i = s_j] \right)}{\sum_{i : y_i = k} \sum_{j : y_j \ne k} w_i w_j} .

Balanced accuracy is the mean of the recalls, AUC the mean of the :math:`\text{AUC}_k`. The interval goes from
the 2.5th to the 97.5th percentile over all samples. A sample without an image of some class has no balanced
accuracy and no AUC, and does not count for them.

**Comparison.** Two classifiers are compared on the same bootstrap samples (paired bootstrap), and by
McNemar's exact test (McNemar, Psychometrika 1947). Let :math:`b` and :math:`c` be the numbers of images
that only the first and only the second classifier decides correctly. If neither is better, :math:`b` is
binomial with :math:`b + c` trials and :math:`p = 1/2`. The test assumes independent images. If there are
several images of a patient, use the bootstrap interval instead.

**Why the AUC is computed here.** scikit-learn's `roc_auc_score` sorts the scores of every sample, 2000 times
for each class. Here each class is sorted once, and a sample costs one pass. The result is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from medvlad._util.validate import InputError, check_positive_int

__all__ = ["bootstrap_intervals", "compare"]

METRICS = ("accuracy", "balanced_accuracy", "auc")

_N_RESAMPLES = 2000
_WEIGHTS_AT_A_TIME = 1 << 22  # limits the memory for float64 weights to 32 MiB
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
    """Return 95 % intervals of the metrics.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
        True classes, from 0 to n_classes - 1.
    decision : ndarray of float, shape (n, n_classes)
        The largest value of a row is the decided class.
    groups : ndarray of shape (n,), or None
        Patient of each image. None: each image is a patient of its own.
    n_resamples : int, default=2000
        Number of bootstrap samples.
    random_state : int, default=0
        Seed of the bootstrap.

    Returns
    -------
    dict
        accuracy, balanced_accuracy and auc: [low, high], or None if no sample has the metric.

    Raises
    ------
    InputError
        If there is no image, or the shapes do not match.
    """
    metrics = _weighted_metrics(labels, decision)
    sampled = _resample(len(labels), groups, n_resamples, random_state, metrics)
    return {name: _interval(values) for name, values in zip(METRICS, sampled, strict=True)}


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
        True classes, from 0 to n_classes - 1.
    first, second : ndarray of float, shape (n, n_classes)
        Decision values of the two classifiers.
    groups, n_resamples, random_state
        See :func:`bootstrap_intervals`.

    Returns
    -------
    dict
        only_first and only_second: numbers of images that only one of the two decides correctly. mcnemar_p:
        two-sided p-value. difference: second minus first for accuracy, balanced_accuracy and auc.
        difference_ci95: its 95 % intervals. None if a metric is undefined.

    Raises
    ------
    InputError
        See :func:`bootstrap_intervals`.
    """
    one, other = _weighted_metrics(labels, first), _weighted_metrics(labels, second)
    right = [decision.argmax(axis=1) == labels for decision in (first, second)]
    only_first, only_second = (int((right[a] & ~right[1 - a]).sum()) for a in (0, 1))
    n = only_first + only_second
    sampled = _resample(len(labels), groups, n_resamples, random_state, lambda w: other(w) - one(w))
    unweighted = np.ones((1, len(labels)))
    differences = (other(unweighted) - one(unweighted))[:, 0]
    return {
        "only_first": only_first,
        "only_second": only_second,
        "mcnemar_p": float(binomtest(only_first, n).pvalue) if n else 1.0,
        "difference": {
            name: float(value) if np.isfinite(value) else None
            for name, value in zip(METRICS, differences, strict=True)
        },
        "difference_ci95": {name: _interval(values) for name, values in zip(METRICS, sampled, strict=True)},
    }


def _resample(
    n: int,
    groups: NDArray[Any] | None,
    n_resamples: int,
    random_state: int,
    metrics: Callable[[Weights], Weights],
) -> Weights:
    """Return the metrics (3, n_resamples) of bootstrap samples of `n` images."""
    check_positive_int(n_resamples, "n_resamples")
    if groups is not None and len(groups) != n:
        raise InputError(f"groups has {len(groups)} entries for {n} images: give one for each image, or None")
    if groups is None:
        patient = np.arange(n)
    else:
        _, patient = np.unique(np.asarray(groups), return_inverse=True)
    n_patients = int(patient.max()) + 1
    rng = np.random.default_rng(random_state)
    at_a_time = max(1, _WEIGHTS_AT_A_TIME // max(n, n_patients))
    parts = []
    for start in range(0, n_resamples, at_a_time):
        size = min(at_a_time, n_resamples - start)
        drawn = rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=size)
        parts.append(metrics(drawn[:, patient].astype(np.float64)))
    return np.concatenate(parts, axis=1)


def _interval(values: Weights) -> list[float] | None:
    """Return the 95 % interval of the defined values, None if there are none."""
    values = values[np.isfinite(values)]
    return [float(end) for end in np.percentile(values, _PERCENTILES)] if len(values) else None


def _weighted_metrics(
    labels: NDArray[np.int64], decision: NDArray[np.float64]
) -> Callable[[Weights], Weights]:
    """Return a function from weights (samples, n) to metrics (3, samples), NaN if undefined."""
    labels, decision = np.asarray(labels), np.asarray(decision)
    if decision.ndim != 2 or len(labels) != len(decision) or len(labels) == 0:
        raise InputError(
            f"labels of shape {labels.shape} and decision values of shape {decision.shape} do not match: "
            "give shapes (n,) and (n, n_classes) with n of at least 1"
        )
    right = decision.argmax(axis=1) == labels
    members = [labels == k for k in range(decision.shape[1])]
    ranked = [_Ranked(decision[:, k], own) for k, own in enumerate(members)]

    def metrics(weights: Weights) -> Weights:
        with np.errstate(invalid="ignore", divide="ignore"):
            accuracy = weights @ right / weights.sum(axis=1)
            recalls = [weights @ (right & own) / (weights @ own) for own in members if own.any()]
            aucs = [one.auc(weights) for one in ranked]
        return np.stack([accuracy, np.mean(recalls, axis=0), np.mean(aucs, axis=0)])

    return metrics


class _Ranked:
    """Scores of one class, sorted once for the AUC of all bootstrap samples.

    Parameters
    ----------
    scores : ndarray of float, shape (n,)
    own : ndarray of bool, shape (n,)
        Which images belong to the class.
    """

    def __init__(self, scores: NDArray[np.float64], own: NDArray[np.bool_]) -> None:
        self._order = np.argsort(scores, kind="stable")
        ordered = scores[self._order]
        # Start of each run of equal scores.
        self._starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        self._own = own[self._order]

    def auc(self, weights: Weights) -> Weights:
        """Return the area under the ROC curve for each row of weights (samples, n)."""
        weights = weights[:, self._order]
        own = np.add.reduceat(weights * self._own, self._starts, axis=1)
        others = np.add.reduceat(weights * ~self._own, self._starts, axis=1)
        below = np.cumsum(others, axis=1) - others
        pairs = own.sum(axis=1) * others.sum(axis=1)
        area: Weights = (own * (below + others / 2)).sum(axis=1) / pairs
        return area
