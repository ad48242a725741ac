r"""From decision values to probabilities, learnt on decisions about images that were not trained on.

::

    platt      p = 1 / (1 + exp(a s + b)), a and b by maximum likelihood      (Platt 1999)
    isotonic   the non-decreasing step function of s nearest to the labels    (Zadrozny & Elkan, KDD 2002)

for each class against the rest, then divided by their sum. How well probabilities p_ik of n images hold, y_ik
being 1 for the true class and 0 elsewhere::

    Brier score                  (1/n) sum_i sum_k (p_ik - y_ik)^2, of two classes one      (Brier 1950)
    log loss                     -(1/n) sum_i log p_i,true
    expected calibration error   sum over bins of (its images / n) |share that is right - mean confidence|,
                                 confidence being the largest p_ik, in ten bins of as many images each
                                 (Naeini, Cooper & Hauskrecht, AAAI 2015; bins of equal width there)
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

__all__ = ["METHODS", "calibration_figures", "calibrator"]

#: Our names -> scikit-learn's.
METHODS = {"platt": "sigmoid", "isotonic": "isotonic"}

_BINS = 10

Matrix = NDArray[np.float64]


class _Decided(ClassifierMixin, BaseEstimator):
    """A classifier whose input is its decision values."""

    def fit(self, X: Matrix, y: NDArray[np.int64]) -> Self:
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X: Matrix) -> Any:
        return X[:, 1] if X.shape[1] == 2 else X

    def predict(self, X: Matrix) -> Any:
        return self.classes_[X.argmax(axis=1)]


def calibrator(method: str, decision: Matrix, labels: NDArray[np.int64]) -> Callable[[Matrix], Matrix]:
    """Learn probabilities from decisions about images that were not trained on.

    Parameters
    ----------
    method : {"platt", "isotonic"}
    decision : ndarray of float, shape (n, n_classes)
    labels : ndarray of int, shape (n,)
        From 0 to n_classes - 1, each of them there.

    Returns
    -------
    callable
        From decision values (m, n_classes) to probabilities (m, n_classes), rows of which add up to 1.

    Raises
    ------
    InputError
        If there is no such method.
    """
    check_choice(method, "the calibration", tuple(METHODS))
    decided = FrozenEstimator(_Decided().fit(decision, labels))
    # What is frozen is not fitted, so two folds, the fewest, say nothing but which images: all of them.
    fitted = CalibratedClassifierCV(decided, method=METHODS[method], cv=2).fit(decision, labels)
    return lambda values: np.asarray(fitted.predict_proba(values), np.float64)


def calibration_figures(labels: NDArray[np.int64], probability: Matrix) -> dict[str, Any]:
    """Say how well probabilities hold.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
    probability : ndarray of float, shape (n, n_classes)

    Returns
    -------
    dict
        brier, log_loss, expected_calibration_error, and bins: of each confidence (mean), right (share), n.
    """
    n_classes = probability.shape[1]
    truth = np.eye(n_classes)[labels]
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == labels
    bins = [
        {"confidence": float(confidence[rows].mean()), "right": float(right[rows].mean()), "n": len(rows)}
        for rows in np.array_split(np.argsort(confidence, kind="stable"), min(_BINS, len(labels)))
    ]
    return {
        "brier": float(((probability - truth) ** 2)[:, 1 if n_classes == 2 else 0 :].sum(axis=1).mean()),
        "log_loss": float(log_loss(labels, probability, labels=np.arange(n_classes))),
        "expected_calibration_error": sum(one["n"] * abs(one["right"] - one["confidence"]) for one in bins)
        / len(labels),
        "bins": bins,
    }
