"""WideLinearSVC: a linear SVM with an exact solution for any number of features.

The mathematics and the solver are in :mod:`medvlad.svm.newton`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight

from medvlad._util.memory import memory_for
from medvlad._util.passes import Runner
from medvlad._util.validate import InputError
from medvlad.descriptors.array_api import like_input, on_host
from medvlad.svm.binary_problems import check_settings, rows_to_fit, scores_of_rows, solve_path
from medvlad.svm.blocks import Vector
from medvlad.svm.pass_path import choose_way

__all__ = ["WideLinearSVC"]


class WideLinearSVC(ClassifierMixin, BaseEstimator):
    """Linear SVM with L2 penalty and squared hinge loss, solved exactly for any number of features.

    It minimises the same function as scikit-learn's ``LinearSVC(C)`` with default settings: one class against
    the others, penalised intercept. With a square matrix of side ``min(n_samples, n_features + 1)`` the
    solution is exact except for rounding. Beyond that size, `tol` bounds the error, see
    :mod:`medvlad.svm.pass_solver`. `X` is never copied as a whole: float32, memory maps and Fortran order are
    read in blocks.

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
    solver : {'auto', 'gram', 'passes'}, default='auto'
        'gram': a square matrix in memory. 'passes': passes over the rows of `X`, which needs memory for some
        vectors of each class only. 'auto': 'gram' if the side is at most 20,000 and `memory` is enough.
    tol : float, default=1e-4
        Bound on `dual_gap_` with 'passes'. 'gram' needs none.
    memory : int, str or None, default=None
        Limit in bytes, or a text such as '2 GiB', on what `fit` needs besides `X`. None: none.
    checkpoint : path or None, default=None
        File that 'passes' replaces after each pass. If `fit` is killed, the same call goes on from there with
        the same `X`. 64 of its rows are compared, and the gaps of classes that were done are measured again.
        The file is removed at the end.

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
    n_passes_ : int
        Number of passes over `X` with 'passes', otherwise 0.
    dual_gap_ : float
        Largest relative duality gap of any class, computed in float64 from `X`. It bounds how far the
        minimised function is above its minimum, divided by its value; see :mod:`medvlad.svm.refinement`.
        Usual values with 'gram' are below 1e-16, and below 1e-10 for large problems. Above 1e-8 ('gram') or
        `tol` ('passes'), rounding or `max_iter` limits the solution, and `fit` warns.

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
    n_passes_: int
    dual_gap_: float

    def __init__(
        self,
        C: float = 1.0,
        *,
        fit_intercept: bool = True,
        intercept_scaling: float = 1.0,
        class_weight: dict[Any, float] | str | None = None,
        max_iter: int = 100,
        solver: str = "auto",
        tol: float = 1e-4,
        memory: int | str | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.solver = solver
        self.tol = tol
        self.memory = memory
        self.checkpoint = checkpoint

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        runner: Runner | None = None,
    ) -> Self:
        """Fit the classifier.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows. float32 and float64 are used as they are, other types are converted to float64.
        y : array-like of shape (n_samples,)
            Class labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Factors on C for each row, at least 0. None: all 1.
        runner : callable or None, default=None
            What carries out the passes, see :mod:`medvlad._util.passes`. None: this process.

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
            If `max_iter` steps are too few, if C and X are too large for double precision, or if
            `dual_gap_` is above 1e-8 with 'gram', or above `tol` with 'passes', for another reason.
        """
        self._solve(X, y, [self], sample_weight, runner)
        return self

    def fit_path(
        self, X: ArrayLike, y: ArrayLike, Cs: Sequence[float], *, runner: Runner | None = None
    ) -> list[Self]:
        """Fit one classifier for each of several C.

        Shared work, such as the Gram matrix, is done once. Each fit starts from the solution of the previous
        C, so an ascending order is fastest.

        Parameters
        ----------
        X, y, runner
            See :meth:`fit`.
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
            fitted[0]._solve(X, y, fitted, None, runner)
        return fitted

    @memory_for("the linear SVM", "give fewer images or shorter vectors, float32 rather than float64")
    def _solve(
        self,
        X: ArrayLike,
        y: ArrayLike,
        targets: Sequence[WideLinearSVC],
        sample_weight: ArrayLike | None,
        runner: Runner | None = None,
    ) -> None:
        """Fit `targets`, which have the parameters of this classifier except for C."""
        settings = check_settings(targets)
        passes = choose_way(self.solver, self.tol, self.memory, self.checkpoint, X, runner)
        x, labels = rows_to_fit(self, X, on_host(y, "y"), by_passes=passes is not None)
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
        # In the first step all rows are active, so classes with the same weights share one factorisation.
        at = partial(_problems, row_weight=row_weight, encoded=encoded, factors=factors)
        solve_path(targets, settings, x, at, classes, passes=passes)

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
        scores = scores_of_rows(self, X)
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


def _problems(
    big_c: float, row_weight: Vector, encoded: NDArray[np.intp], factors: Vector
) -> Iterator[tuple[Vector, Vector]]:
    """Yield (1 or -1, 2C) of each row in every binary problem "class k against the others".

    Two classes are one problem, that of class 1.
    """
    two_classes = len(factors) == 2
    others = factors[0] if two_classes else 1.0
    for k in [1] if two_classes else range(len(factors)):
        own = encoded == k
        yield np.where(own, 1.0, -1.0), 2.0 * big_c * row_weight * np.where(own, factors[k], others)
