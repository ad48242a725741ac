r"""WideRidge: exact ridge regression for any number of features, with missing targets and a choice of alpha.

**Problem.** For the numbers :math:`y` of :math:`n` rows, minimise over the weights :math:`w` and an intercept
:math:`b` without penalty

.. math::

   \sum_i (y_i - w \cdot x_i - b)^2 + \alpha |w|^2 .

With rows and numbers minus their means, :math:`X_c` and :math:`y_c`, the solution is (Hoerl & Kennard,
Technometrics 1970)

.. math::

   w = (X_c^T X_c + \alpha I)^{-1} X_c^T y_c = X_c^T a , \qquad (X_c X_c^T + \alpha I) \, a = y_c .

The smaller of the two matrices is used, with one step of iterative refinement.

**Large problems.** If :math:`\alpha` is given, the Gram matrix of many rows comes from fast products
(:mod:`medvlad.svm.gram`). The refinement then takes the residual :math:`\rho = y_c - X_c X_c^T a - \alpha a`
from the rows, in float64. Its square is the duality gap: with :math:`K = X_c X_c^T`, the minimum is
:math:`\max_a \alpha \, (2 \, a \cdot y_c - a^T (K + \alpha I) \, a)`, and the value at :math:`w = X_c^T a` is
larger than this function by exactly :math:`|\rho|^2`. The bounds on the relative gap are those of
:mod:`medvlad.svm.refinement`, and the matrix is computed in float64 if they are not reached.

An SVM that weighs its loss by :math:`C` corresponds to :math:`\alpha = 1 / (2 C)`.

**Missing numbers.** If a number of a row is not known, the row is left out of that target. The Gram matrix of
all rows is computed once. The matrix of a subset follows from it by subtracting the subset's means of rows
and columns. Targets that are known for the same rows share one factorisation.

**Choice of alpha.** Let :math:`X_c X_c^T = U \, \mathrm{diag}(s) \, U^T`. For each :math:`\alpha` the fitted
numbers are :math:`\hat y = H y` with :math:`H = \tfrac{1}{n} 1 1^T + U \, \mathrm{diag}(s / (s + \alpha)) \,
U^T`. If the rows :math:`g` of a patient are left out, their errors are exactly

.. math::

   (I - H_{gg})^{-1} (y_g - \hat y_g) ,

so no model is fitted again (Allen, Technometrics 1974; for groups, Cook & Weisberg, Residuals and Influence
in Regression 1982, section 3.6). Each target gets the :math:`\alpha` with the smallest mean squared error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_consistent_length

from medvlad._util.memory import memory_for
from medvlad._util.validate import InputError, check_positive_float
from medvlad.descriptors.array_api import like_input, on_host
from medvlad.svm.binary_problems import rows_to_fit, scores_of_rows
from medvlad.svm.blocks import (
    Vector,
)
from medvlad.svm.gram import has_fast_gram
from medvlad.svm.ridge_forms import Tall, Wide
from medvlad.svm.targets import names_of_targets, number_matrix

__all__ = ["WideRidge"]


class WideRidge(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Ridge regression, solved exactly for any number of features, for several targets at once.

    The result equals scikit-learn's ``Ridge(alpha)``. `X` is never copied as a whole: float32, memory maps
    and Fortran order are read in blocks. Numbers may be missing.

    Parameters
    ----------
    alpha : float or None, default=1.0
        Penalty of ``|w|²``, above 0. None: chosen for each target by exact leave-one-out, or by leaving out
        one group at a time if `fit` gets groups.
    fit_intercept : bool, default=True
        Whether to fit an intercept. It is not penalised.
    alphas : sequence of float or None, default=None
        Values to choose from if `alpha` is None. None: 15 values from 0.0001 to 1000 times the mean squared
        length of the rows of `X` minus their mean.
    target_names : sequence of str or None, default=None
        Names of the targets. None: the columns of a DataFrame, otherwise "0", "1", and so on.

    Attributes
    ----------
    coef_ : ndarray of float64, shape (n_targets, n_features), or (n_features,) if `y` has one dimension
        Weights.
    intercept_ : ndarray of float64, shape (n_targets,), or float if `y` has one dimension
        Intercepts. Zeros if `fit_intercept` is False.
    alpha_ : ndarray of float64, shape (n_targets,)
        Penalty of each target.
    error_ : ndarray of float64, shape (n_targets,)
        Mean squared error of the rows that were left out, with that penalty. Only set if `alpha` is None.
    target_names_ : ndarray of str, shape (n_targets,)
        Names of the targets.
    n_features_in_, feature_names_in_
        See :class:`medvlad.WideLinearSVC`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> model = WideRidge(1e-9).fit(X, [1.0, 3.0, np.nan, 7.0])
    >>> model.predict(X).round(6).tolist()
    [1.0, 3.0, 5.0, 7.0]
    """

    coef_: Vector
    intercept_: Any
    alpha_: Vector
    error_: Vector
    target_names_: NDArray[np.str_]
    n_features_in_: int

    def __init__(
        self,
        alpha: float | None = 1.0,
        *,
        fit_intercept: bool = True,
        alphas: Sequence[float] | None = None,
        target_names: Sequence[str] | None = None,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.alphas = alphas
        self.target_names = target_names

    @memory_for("the ridge regression", "give fewer images or shorter vectors, float32 rather than float64")
    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit the weights of every target.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows. float32 and float64 are used as they are, other types are converted to float64.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Numbers. NaN: not known.
        groups : array-like of shape (n_samples,), default=None
            Patient of each row, for the choice of alpha. None: each row is a patient of its own.

        Returns
        -------
        WideRidge
            This estimator.

        Raises
        ------
        InputError
            If a parameter is out of range, or a target is known for fewer than two rows (or groups).
        """
        alpha = None if self.alpha is None else check_positive_float(self.alpha, "alpha")
        x = rows_to_fit(self, X, ensure_min_samples=2 if self.fit_intercept else 1)
        given = np.asarray(on_host(y, "y"))
        numbers = number_matrix(given, "y")
        check_consistent_length(x, numbers)
        if groups is not None:
            groups = np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]
            check_consistent_length(x, groups)
        names = names_of_targets(self.target_names, y, numbers.shape[1], "target_names")
        known = ~np.isnan(numbers)
        for k, name in enumerate(names):
            n = known[:, k].sum() if groups is None else len(np.unique(groups[known[:, k]]))
            if n < (2 if self.fit_intercept or alpha is None else 1):
                what = "rows" if groups is None else "groups"
                raise InputError(
                    f"the target {name!s} is known for {n} {what}, and at least 2 are needed: add some or "
                    "leave it out"
                )
        with_mean = bool(self.fit_intercept)
        # The choice of alpha takes a spectrum, which no refinement corrects.
        is_fast = alpha is not None and has_fast_gram(*x.shape)
        problem = Wide(x, with_mean, is_fast) if x.shape[1] > x.shape[0] else Tall(x, with_mean)
        n_targets = numbers.shape[1]
        coef, intercept = np.empty((n_targets, x.shape[1])), np.zeros(n_targets)
        self.alpha_, errors = np.empty(n_targets), np.empty(n_targets)
        for rows, targets in _patterns(known):
            own = numbers[np.ix_(rows, targets)]
            part = problem.part(rows)
            chosen = np.full(len(targets), alpha, np.float64)
            if alpha is None:
                chosen, errors[targets] = part.choose(
                    own, None if groups is None else groups[rows], self.alphas
                )
            centre = own.mean(axis=0) if self.fit_intercept else np.zeros(len(targets))
            for value in np.unique(chosen):
                same = chosen == value
                weights = part.weights(own[:, same] - centre[same], float(value))
                coef[targets[same]] = weights
                if self.fit_intercept:
                    intercept[targets[same]] = centre[same] - weights @ part.mean
            self.alpha_[targets] = chosen
        one = given.ndim == 1
        self.coef_ = coef[0] if one else coef
        self.intercept_ = float(intercept[0]) if one else intercept
        self.target_names_ = names
        self.__dict__.pop("error_", None)
        if alpha is None:
            self.error_ = errors
        return self

    def predict(self, X: ArrayLike) -> Vector:
        """Return the predicted numbers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of float64, shape (n_samples,) or (n_samples, n_targets)
            The shape is that of `y` in `fit`.
        """
        numbers = scores_of_rows(self, X)
        found: Vector = like_input(numbers[:, 0] if self.coef_.ndim == 1 else numbers, X)
        return found


def _patterns(known: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield (rows, targets) of the targets that are known for the same rows."""
    patterns, which = np.unique(known.T, axis=0, return_inverse=True)
    for k, pattern in enumerate(patterns):
        yield np.flatnonzero(pattern), np.flatnonzero(which.ravel() == k)
