"""The exact linear SVM for rows that are longer than there are of them, and for ordinary ones.

The mathematics and the solver stand in :mod:`medvlad.svm.newton`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from medvlad._util.memory import memory_for
from medvlad._util.validate import InputError, check_positive_float, check_positive_int
from medvlad.descriptors.array_api import like_input, on_host
from medvlad.svm.newton import Problem, Vector, make_form, times

__all__ = ["WideLinearSVC"]


class WideLinearSVC(ClassifierMixin, BaseEstimator):
    """Linear SVM with L2 penalty and squared hinge loss, solved exactly for any number of features.

    It minimises the same function as scikit-learn's ``LinearSVC(C)`` with its defaults (one class against
    the rest, penalised intercept) but to rounding, without a tolerance or a random order, in a handful of
    matrix factorisations of side ``min(n_samples, n_features + 1)``. `X` is never copied as a whole: float32
    stays float32, memory maps and Fortran order are read in blocks.

    Parameters
    ----------
    C : float, default=1.0
        Weight of the squared hinge loss against ``1/2 |w|²``.
    fit_intercept : bool, default=True
        Whether to append a constant feature; its weight is penalised too.
    intercept_scaling : float, default=1.0
        Value of the constant feature: the larger, the less the intercept is penalised.
    class_weight : dict, 'balanced' or None, default=None
        Factors on C by class. With three or more classes, the factor of a class holds for its own rows in its
        own problem and the rest keep C, as in LIBLINEAR.
    max_iter : int, default=100
        Most Newton steps for each class; 1 to 15 are usual.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Weights, float64; one row if there are two classes.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercepts; zeros without `fit_intercept`.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    n_features_in_ : int
        Number of features seen in fit.
    n_iter_ : int
        Most Newton steps that any class took.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[2.0, 0.0, 1.0], [-2.0, 0.0, 1.0]], dtype=np.float32)
    >>> WideLinearSVC().fit(X, ["b", "a"]).predict(X).tolist()
    ['b', 'a']
    """

    coef_: Vector
    intercept_: Vector
    classes_: NDArray[Any]
    n_features_in_: int
    n_iter_: int

    def __init__(
        self,
        C: float = 1.0,
        *,
        fit_intercept: bool = True,
        intercept_scaling: float = 1.0,
        class_weight: dict[Any, float] | str | None = None,
        max_iter: int = 100,
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.max_iter = max_iter

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Find the minimiser.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; float32 and float64 are used as they are, other types become float64.
        y : array-like of shape (n_samples,)
            Class labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Factors on C by row, zero or more.

        Returns
        -------
        WideLinearSVC
            Itself.

        Raises
        ------
        InputError
            If a parameter is out of range or fewer than two classes are left.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` steps were not enough, or C and X are so large that double precision is not.
        """
        self._solve(X, y, [self], sample_weight)
        return self

    def fit_path(self, X: ArrayLike, y: ArrayLike, Cs: Sequence[float]) -> list[Self]:
        """Fit a classifier for each of several C; what they share, such as the Gram matrix, is made once.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        Cs : sequence of float

        Returns
        -------
        list of WideLinearSVC
            One for each C, in their order: what :meth:`fit` finds for it, but for rounding. Each begins where
            the one before ended, so an ascending order is quickest.

        Raises
        ------
        InputError
            As :meth:`fit`.
        """
        fitted = [clone(self).set_params(C=C) for C in Cs]
        if fitted:
            fitted[0]._solve(X, y, fitted, None)
        return fitted

    @memory_for("the linear SVM", "give fewer images or shorter vectors, float32 rather than float64")
    def _solve(
        self, X: ArrayLike, y: ArrayLike, targets: Sequence[WideLinearSVC], sample_weight: ArrayLike | None
    ) -> None:
        """Fit `targets`, which are this classifier but for their C."""
        penalties = [check_positive_float(target.C, "C") for target in targets]
        scale = 0.0
        if self.fit_intercept:
            scale = check_positive_float(self.intercept_scaling, "intercept_scaling")
        max_iter = check_positive_int(self.max_iter, "max_iter")
        x, labels = validate_data(
            self, on_host(X, "X"), on_host(y, "y"), dtype=[np.float64, np.float32], order=None, copy=False
        )
        check_classification_targets(labels)
        classes, encoded = np.unique(labels, return_inverse=True)
        row_weight: Vector = np.ones(len(x))
        if sample_weight is not None:
            row_weight = _check_sample_weight(
                on_host(sample_weight, "sample_weight"), x, dtype=np.float64, ensure_non_negative=True
            )
        totals: Vector = np.bincount(encoded, row_weight, len(classes)).astype(np.float64)
        present = classes[totals > 0]
        if len(present) < 2:
            found = f"only one class, {present[0]!s}," if len(present) else "no class"
            where = "y" if sample_weight is None else "y among rows with a positive sample_weight"
            raise InputError(f"{where} holds {found} and a classifier needs two: add rows of another class")
        factors = self._class_factors(classes, labels, totals)

        form = make_form(x, scale)
        problems: list[Problem] = []
        for target, big_c in zip(targets, penalties, strict=True):
            others, problems = problems, []
            for k in [1] if len(classes) == 2 else range(len(classes)):
                is_k = encoded == k
                rest = factors[0] if len(classes) == 2 else 1.0
                curvature = 2.0 * big_c * row_weight * np.where(is_k, factors[k], rest)
                with np.errstate(divide="ignore", over="ignore"):
                    curvature[np.isinf(1.0 / curvature)] = 0.0
                if not np.isfinite(curvature).all():
                    raise InputError(
                        f"C={target.C} times the weights is beyond float64: lower C or the weights"
                    )
                problems.append(Problem(form, np.where(is_k, 1.0, -1.0), curvature))
            for problem, other in zip(problems, others, strict=False):
                problem.begin_at(other)
            # All classes begin with all rows active: unless C depends on the class, they share that factor.
            for problem in problems:
                problem.step()
            for problem in problems:
                while not problem.converged and problem.n_iter < max_iter:
                    problem.step()
            self._warn(problems, classes)
            weights = form.weights(np.stack([problem.p for problem in problems]))
            target.classes_ = classes
            target.coef_ = np.ascontiguousarray(weights[:, :-1])
            target.intercept_ = scale * weights[:, -1]
            target.n_iter_ = max(problem.n_iter for problem in problems)
            target.n_features_in_ = self.n_features_in_

    def _class_factors(self, classes: NDArray[Any], labels: NDArray[Any], totals: Vector) -> Vector:
        """Return the factor on C of each class."""
        factors: Vector
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            factors = np.ones(len(classes))
            np.divide(totals.sum() / len(classes), totals, out=factors, where=totals > 0)
            return factors
        if not (self.class_weight is None or isinstance(self.class_weight, dict)):
            raise InputError(f"class_weight must be a dict, 'balanced' or None, got {self.class_weight!r}")
        factors = compute_class_weight(self.class_weight, classes=classes, y=labels)
        bad = ~(np.isfinite(factors) & (factors >= 0))
        if bad.any():
            raise InputError(
                f"class_weight of class {classes[bad][0]!s} must be a finite number of at least 0, "
                f"got {factors[bad][0]}"
            )
        return factors

    def _warn(self, problems: list[Problem], classes: NDArray[Any]) -> None:
        """Warn of each class whose weights are not the minimiser."""
        for name, problem in zip(classes[-len(problems) :], problems, strict=True):
            if problem.singular:
                warnings.warn(
                    f"class {name!s} is solved only roughly, C times the squared length of the rows of X is "
                    "beyond double precision: scale X or lower C",
                    ConvergenceWarning,
                    stacklevel=4,
                )
            elif not problem.converged:
                warnings.warn(
                    f"class {name!s} has not reached its minimum after max_iter={self.max_iter} steps: raise "
                    "max_iter, or scale X or lower C",
                    ConvergenceWarning,
                    stacklevel=4,
                )

    def decision_function(self, X: ArrayLike) -> Vector:
        """Return the signed scores, in float64, without a float64 copy of `X`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            One column a class; with two classes, the score of ``classes_[1]``.
        """
        scores: Vector = like_input(self._scores(X), X)
        return scores

    def _scores(self, X: ArrayLike) -> Vector:
        check_is_fitted(self)
        x = validate_data(
            self, on_host(X, "X"), reset=False, dtype=[np.float64, np.float32], order=None, copy=False
        )
        scores = times(x, self.coef_.T) + self.intercept_
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the class with the largest score for each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        scores = self._scores(X)
        best = (scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)
        predicted: NDArray[Any] = self.classes_[best]
        # Names are NumPy's alone.
        return like_input(predicted, X) if predicted.dtype.kind in "biuf" else predicted
