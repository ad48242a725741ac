r"""Probabilities from decision values, learned on images that were not used for training.

For each class against the others, with the decision value :math:`s`:

- platt: :math:`p = 1 / (1 + e^{a s + b})` (Platt 1999). :math:`a` and :math:`b` minimise the log loss against
  smoothed targets in place of 1 and 0: :math:`(n_1 + 1) / (n_1 + 2)` and :math:`1 / (n_0 + 2)` for
  :math:`n_1` images of the class and :math:`n_0` others. So probabilities stay below 1 even if the classes
  are separable.
- isotonic: the non-decreasing step function of :math:`s` closest to the labels (Zadrozny & Elkan, KDD 2002)

The values of all classes are then divided by their sum. Decision values are standardised first. This does not
change the solution, but its search has tolerances for numbers around 1.

The quality of probabilities :math:`p_{ik}` of :math:`n` images is measured as follows, with
:math:`y_{ik} = 1` for the true class and 0 for the others.

.. math::

   \text{Brier score} &= \frac{1}{n} \sum_i \sum_k (p_{ik} - y_{ik})^2

   \text{log loss} &= -\frac{1}{n} \sum_i \sum_k y_{ik} \log p_{ik}

   \text{expected calibration error} &= \sum_b \frac{n_b}{n} \, |\text{accuracy}_b - \text{confidence}_b|

With two classes, the Brier score counts one of them (Brier 1950). The confidence of an image is its largest
:math:`p_{ik}`. The calibration error sorts the images by confidence into at most ten bins :math:`b` of about
equal size :math:`n_b` (Naeini, Cooper & Hauskrecht, AAAI 2015, with bins of equal width). Images with the
same confidence are in the same bin, so the order of the images does not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss

from medvlad._util.validate import check_choice

__all__ = ["METHODS", "calibration_metrics", "calibrator"]

#: Calibration methods: name in medvlad -> name in scikit-learn.
METHODS = {"platt": "sigmoid", "isotonic": "isotonic"}

_BINS = 10
_SAME = 1e-12  # confidences that differ by less are equal, apart from rounding

Matrix = NDArray[np.float64]


class _DecisionValues(ClassifierMixin, BaseEstimator):
    """A classifier whose input is its own decision values (n, n_classes)."""

    def fit(self, X: Matrix, y: NDArray[np.int64]) -> Self:
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X: Matrix) -> Any:
        return X[:, 1] if X.shape[1] == 2 else X

    def predict(self, X: Matrix) -> Any:
        return self.classes_[X.argmax(axis=1)]


def calibrator(method: str, decision: Matrix, labels: NDArray[np.int64]) -> Callable[[Matrix], Matrix]:
    """Learn a function from decision values to probabilities.

    Parameters
    ----------
    method : {"platt", "isotonic"}
    decision : ndarray of float, shape (n, n_classes)
        Decision values on images that the classifier was not trained on.
    labels : ndarray of int, shape (n,)
        From 0 to n_classes - 1. Every class must be present.

    Returns
    -------
    callable
        From decision values (m, n_classes) to probabilities (m, n_classes). Rows add up to 1.

    Raises
    ------
    InputError
        If `method` is unknown.
    """
    check_choice(method, "the calibration", tuple(METHODS))
    decision = np.asarray(decision, np.float64)
    centre = decision.mean(axis=0)
    spread = _spread(decision - centre)
    decided = FrozenEstimator(_DecisionValues().fit(decision, labels))
    # A frozen estimator is not fitted again. All images are used for calibration, whatever the folds are, and
    # 2 is the smallest number of folds that scikit-learn accepts.
    fitted = CalibratedClassifierCV(decided, method=METHODS[method], cv=2)
    fitted.fit((decision - centre) / spread, labels)
    return lambda values: np.asarray(fitted.predict_proba((values - centre) / spread), np.float64)


def _spread(centred: Matrix) -> Matrix:
    """Return the standard deviation of each column, also of numbers whose squares are 0; 1 if it is 0."""
    largest = np.abs(centred).max(axis=0)
    largest[largest == 0] = 1.0
    spread: Matrix = largest * (centred / largest).std(axis=0)
    spread[spread == 0] = 1.0
    return spread


def calibration_metrics(labels: NDArray[np.int64], probability: Matrix) -> dict[str, Any]:
    """Return the quality of probabilities; the module docstring has the formulas.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
        From 0 to n_classes - 1.
    probability : ndarray of float, shape (n, n_classes)

    Returns
    -------
    dict
        brier, log_loss, expected_calibration_error, and bins: a list of dicts with confidence (mean), right
        (share of correct decisions) and n.
    """
    n_classes = probability.shape[1]
    truth = np.eye(n_classes)[labels]
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == labels
    bins = [
        {"confidence": float(confidence[rows].mean()), "right": float(right[rows].mean()), "n": len(rows)}
        for rows in _bins(confidence)
    ]
    return {
        "brier": float(((probability - truth) ** 2)[:, 1 if n_classes == 2 else 0 :].sum(axis=1).mean()),
        "log_loss": float(log_loss(labels, probability, labels=np.arange(n_classes))),
        "expected_calibration_error": sum(one["n"] * abs(one["right"] - one["confidence"]) for one in bins)
        / len(labels),
        "bins": bins,
    }


def _bins(confidence: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Return the images of each bin: about equally many, cut between different confidences only."""
    order = np.argsort(confidence, kind="stable")
    n = len(order)
    changes = np.flatnonzero(np.diff(confidence[order]) > _SAME) + 1
    if len(changes) == 0:
        return [order]
    wanted = np.arange(1, _BINS) * n / _BINS
    nearest = np.abs(changes[:, None] - wanted).argmin(axis=0)
    return [rows for rows in np.split(order, np.unique(changes[nearest])) if len(rows)]
