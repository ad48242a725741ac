"""WideLinearSVC: a linear SVM with an exact solution for any number of features.

The mathematics and the solver are in :mod:`medvlad.svm.newton`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from medvlad._util.caller_warning import warn_caller
from medvlad._util.memory import memory_for
from medvlad._util.validate import InputError, check_positive_float, check_positive_int
from medvlad.descriptors.array_api import like_input, on_host
from medvlad.svm.blocks import Vector, times
from medvlad.svm.newton import Problem, check_memory, make_form

__all__ = ["WideLinearSVC", "warn_of_steps"]


class WideLinearSVC(ClassifierMixin, BaseEstimator):
    """Linear SVM with L2 penalty and squared hinge loss, solved exactly for any number of features.

    It minimises the same function as scikit-learn's ``LinearSVC(C)`` with default settings: one class against
    the others, penalised intercept. The solution is exact except for rounding. It needs no tolerance and no
    random order, only a few factorisations of matrices of side ``min(n_samples, n_features + 1)``. `X` is
    never copied as a whole: float32, memory maps and Fortran order are read in blocks.

    Parameters
    ----------
    C : float, default=1.0
        Weight of the squared hinge loss relative to ``1/2 |w|²``. Finite and above 0.
    fit_intercept : bool, default=True
        Whether to append a constant feature. Its weight is penalised like the others.
    intercept_scaling : float, default=1.0
        Value of the constant feature. Larger values penalise the intercept less.
    class_weight : dict, 'balanced' or None, default=None
        Factors on C for each class. None: all 1. With three or more classes, the factor of a class applies
        to its own rows in its own problem, and the other rows keep C, as in LIBLINEAR.
    max_iter : int, default=100
        Maximum number of Newton steps for each class. 1 to 15 are usual.

    Attributes
    ----------
    coef_ : ndarray of float64, shape (1, n_features) or (n_classes, n_features)
        Weights. One row if there are two classes.
    intercept_ : ndarray of float64, shape (1,) or (n_classes,)
        Intercepts. Zeros if `fit_intercept` is False.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    n_features_in_ : int
        Number of features seen in fit.
    feature_names_in_ : ndarray of str, shape (n_features,)
        Column names. Only set if `X` is a DataFrame with string column names.
    n_iter_ : int
        Largest number of Newton steps of any class.

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
        """Fit the classifier.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows. float32 and float64 are used as they are, other types are converted to float64.
        y : array-like of shape (n_samples,)
            Class labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Factors on C for each row, at least 0. None: all 1.

        Returns
        -------
        WideLinearSVC
            This classifier.

        Raises
        ------
        InputError
            If a parameter is out of range, or fewer than two classes have rows with a positive weight.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` steps are too few, or if C and X are too large for double precision.
        """
        self._solve(X, y, [self], sample_weight)
        return self

    def fit_path(self, X: ArrayLike, y: ArrayLike, Cs: Sequence[float]) -> list[Self]:
        """Fit one classifier for each of several C.

        Shared work, such as the Gram matrix, is done once. Each fit starts from the solution of the previous
        C, so an ascending order is fastest.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        Cs : sequence of float
            Values of C, each finite and above 0.

        Returns
        -------
        list of WideLinearSVC
            One for each C, in the given order. Each equals the result of :meth:`fit` except for rounding.

        Raises
        ------
        InputError
            See :meth:`fit`.
        """
        fitted = [clone(self).set_params(C=C) for C in Cs]
        if fitted:
            fitted[0]._solve(X, y, fitted, None)
        return fitted

    @memory_for("the linear SVM", "give fewer images or shorter vectors, float32 rather than float64")
    def _solve(
        self, X: ArrayLike, y: ArrayLike, targets: Sequence[WideLinearSVC], sample_weight: ArrayLike | None
    ) -> None:
        """Fit `targets`, which have the parameters of this classifier except for C."""
        penalties = [check_positive_float(target.C, "C") for target in targets]
        scale = 0.0
        if self.fit_intercept:
            scale = check_positive_float(self.intercept_scaling, "intercept_scaling")
        max_iter = check_positive_int(self.max_iter, "max_iter")
        shape = getattr(X, "shape", ())
        if len(shape) == 2:
            check_memory(*shape)  # before X is read, which may take long
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
            previous = problems
            problems = [
                Problem(form, np.where(encoded == k, 1.0, -1.0), curvature)
                for k, curvature in _curvatures(big_c, row_weight, encoded, factors)
            ]
            for problem, other in zip(problems, previous, strict=False):
                problem.begin_at(other)
            # In the first step all rows are active, so classes with the same weights share one factorisation.
            for problem in problems:
                problem.step()
            for problem in problems:
                while not problem.converged and problem.n_iter < max_iter:
                    problem.step()
            warn_of_steps(problems, classes, max_iter)
            weights = form.weights(np.stack([problem.p for problem in problems]))
            target.classes_ = classes
            target.coef_ = np.ascontiguousarray(weights[:, :-1])
            target.intercept_ = scale * weights[:, -1]
            target.n_iter_ = max(problem.n_iter for problem in problems)
            target.n_features_in_ = self.n_features_in_
            if hasattr(self, "feature_names_in_"):
                target.feature_names_in_ = self.feature_names_in_

    def _class_factors(self, classes: NDArray[Any], labels: NDArray[Any], totals: Vector) -> Vector:
        """Return the factor on C of each class. `totals` holds the sum of row weights of each class."""
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

    def decision_function(self, X: ArrayLike) -> Vector:
        """Return the decision values. `X` is not copied to float64 as a whole.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of float64, shape (n_samples,) or (n_samples, n_classes)
            One column for each class. With two classes, one value: that of ``classes_[1]``.
        """
        scores: Vector = like_input(self._scores(X), X)
        return scores

    def _scores(self, X: ArrayLike) -> Vector:
        """Return decision values as a NumPy array, whatever library `X` comes from."""
        check_is_fitted(self)
        x = validate_data(
            self, on_host(X, "X"), reset=False, dtype=[np.float64, np.float32], order=None, copy=False
        )
        scores = times(x, self.coef_.T) + self.intercept_
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the class with the largest decision value for each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
            Class labels. Strings are always a NumPy array, because other array libraries have no strings.
        """
        scores = self._scores(X)
        best = (scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)
        predicted: NDArray[Any] = self.classes_[best]
        return like_input(predicted, X) if predicted.dtype.kind in "biuf" else predicted


def _curvatures(
    big_c: float, row_weight: Vector, encoded: NDArray[np.intp], factors: Vector
) -> list[tuple[int, Vector]]:
    """Return (k, 2C of each row) of every binary problem "class k against the others".

    Two classes are one problem, that of class 1. Weights too small for their inverse count as 0.
    """
    two_classes = len(factors) == 2
    others = factors[0] if two_classes else 1.0
    found = []
    for k in [1] if two_classes else range(len(factors)):
        curvature = 2.0 * big_c * row_weight * np.where(encoded == k, factors[k], others)
        with np.errstate(divide="ignore", over="ignore"):
            curvature[np.isinf(1.0 / curvature)] = 0.0
        if not np.isfinite(curvature).all():
            raise InputError(f"C={big_c} times the weights is beyond float64: lower C or the weights")
        found.append((k, curvature))
    return found


def warn_of_steps(problems: list[Problem], classes: NDArray[Any], max_iter: int, what: str = "class") -> None:
    """Warn about each class, or another kind of `what`, whose weights are not the exact minimiser."""
    for name, problem in zip(classes[-len(problems) :], problems, strict=True):
        if problem.singular:
            warn_caller(
                f"the solution for {what} {name!s} is only approximate, because C times the squared "
                "length of the rows of X is beyond double precision: scale X or lower C",
                ConvergenceWarning,
            )
        elif not problem.converged:
            warn_caller(
                f"{what} {name!s} has not reached its minimum after max_iter={max_iter} steps: raise "
                "max_iter, or scale X or lower C",
                ConvergenceWarning,
            )
