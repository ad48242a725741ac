r"""Probabilities from decision values, learned on images that were not used for training.

For each class against the others, with the decision value :math:`s`:

- platt: :math:`p = 1 / (1 + e^{a s + b})` (Platt 1999). :math:`a` and :math:`b` minimise the log loss against
  smoothed targets in place of 1 and 0: :math:`(n_1 + 1) / (n_1 + 2)` and :math:`1 / (n_0 + 2)` for
  :math:`n_1` images of the class and :math:`n_0` others. So probabilities stay below 1 even if the classes
  are separable.
- isotonic: the non-decreasing function of :math:`s` closest to the labels (Zadrozny & Elkan, KDD 2002),
  linear between its steps

The values of all classes are then divided by their sum. Decision values are standardised first. This does not
change the solution, but its search has tolerances for numbers around 1.

The method "auto" is platt for fewer than 1,000 images, and isotonic otherwise: isotonic regression has no
shape of its own, and follows chance if it has few images. Shifted copies of images do not count, because a
copy has almost the decision value of its image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin

from medvlad._util.validate import check_choice

__all__ = ["AUTO", "METHODS", "Calibration", "calibrator", "fit_calibration", "method_for"]

#: Calibration methods: name in medvlad -> name in scikit-learn.
METHODS = {"platt": "sigmoid", "isotonic": "isotonic"}
#: The method that depends on the number of images.
AUTO = "auto"

_ISOTONIC_FROM = 1000  # images

Vector = NDArray[np.float64]
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


@dataclass(frozen=True, eq=False)
class Calibration:
    """A function from decision values to probabilities. It holds numbers only.

    Attributes
    ----------
    method : {"platt", "isotonic"}
    center, spread : ndarray of float, shape (n_curves,)
        Decision values are standardised with these. With two classes there is one curve, that of the second
        class. Otherwise there is one for each class.
    curves : tuple of ndarray of float, shape (r, 2)
        platt: one row, a and b of the standardised value. isotonic: standardised values in ascending order,
        and their probabilities.
    """

    method: str
    center: Vector
    spread: Vector
    curves: tuple[Matrix, ...]

    def probabilities(self, decision: Matrix) -> Matrix:
        """Return probabilities.

        Parameters
        ----------
        decision : ndarray of float, shape (n, n_classes)
            Decision values, see `medvlad.svm.decision_columns`.

        Returns
        -------
        ndarray of float64, shape (n, n_classes)
            Rows add up to 1.
        """
        values = np.asarray(decision, np.float64)
        two_classes = len(self.curves) == 1
        standard = ((values[:, 1:] if two_classes else values) - self.center) / self.spread
        found = np.column_stack(
            [self._one(column, curve) for column, curve in zip(standard.T, self.curves, strict=True)]
        )
        if two_classes:
            return np.column_stack([1 - found, found])
        totals = found.sum(axis=1, keepdims=True)
        even = np.full_like(found, 1 / found.shape[1])
        return np.asarray(np.divide(found, totals, out=even, where=totals > 0))

    def _one(self, values: Vector, curve: Matrix) -> Vector:
        """Return the probabilities of one class against the others."""
        if self.method == "platt":
            slope, intercept = curve[0]
            return np.asarray(expit(-(slope * values + intercept)), np.float64)
        return np.asarray(np.interp(values, curve[:, 0], curve[:, 1]), np.float64)


def method_for(method: str, n_images: int) -> str:
    """Return the method that "auto" stands for with this number of images. Other methods stay.

    Parameters
    ----------
    method : {"auto", "platt", "isotonic"}
    n_images : int
        Number of images with held-out decision values. Shifted copies of images do not count.

    Returns
    -------
    {"platt", "isotonic"}

    Raises
    ------
    InputError
        If `method` is unknown.
    """
    check_choice(method, "the calibration", (AUTO, *METHODS))
    if method != AUTO:
        return method
    return "isotonic" if n_images >= _ISOTONIC_FROM else "platt"


def fit_calibration(method: str, decision: Matrix, labels: NDArray[np.int64]) -> Calibration:
    """Learn probabilities from held-out decision values.

    Parameters
    ----------
    method : {"auto", "platt", "isotonic"}
    decision : ndarray of float, shape (n, n_classes)
        Decision values on images that the classifier was not trained on.
    labels : ndarray of int, shape (n,)
        From 0 to n_classes - 1. Every class must be present.

    Returns
    -------
    Calibration

    Raises
    ------
    InputError
        If `method` is unknown.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    method = method_for(method, len(labels))
    decision = np.asarray(decision, np.float64)
    center = decision.mean(axis=0)
    spread = _spread(decision - center)
    decided = FrozenEstimator(_DecisionValues().fit(decision, labels))
    # A frozen estimator is not fitted again. All images are used for calibration, whatever the folds are, and
    # 2 is the smallest number of folds that scikit-learn accepts.
    fitted = CalibratedClassifierCV(decided, method=METHODS[method], cv=2)
    fitted.fit((decision - center) / spread, labels)
    (learnt,) = fitted.calibrated_classifiers_
    if method == "platt":
        curves = tuple(np.array([[one.a_, one.b_]], np.float64) for one in learnt.calibrators)
    else:
        curves = tuple(
            np.column_stack([one.X_thresholds_, one.y_thresholds_]).astype(np.float64)
            for one in learnt.calibrators
        )
    used = slice(1, None) if len(curves) == 1 else slice(None)
    return Calibration(method, center[used], spread[used], curves)


def calibrator(method: str, decision: Matrix, labels: NDArray[np.int64]) -> Callable[[Matrix], Matrix]:
    """Learn a function from decision values to probabilities.

    Parameters and errors are those of :func:`medvlad.decisions.calibration.fit_calibration`.

    Returns
    -------
    callable
        From decision values (m, n_classes) to probabilities (m, n_classes). Rows add up to 1.
    """
    return fit_calibration(method, decision, labels).probabilities


def _spread(centred: Matrix) -> Matrix:
    """Return the standard deviation of each column, also of numbers whose squares are 0; 1 if it is 0."""
    largest = np.abs(centred).max(axis=0)
    largest[largest == 0] = 1.0
    spread: Matrix = largest * (centred / largest).std(axis=0)
    spread[spread == 0] = 1.0
    return spread
