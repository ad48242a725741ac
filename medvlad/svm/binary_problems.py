"""What linear models on the same rows share: reading the rows, and solving binary problems on one form.

In: rows, float32 or float64, which are never copied as a whole. Out: fitted weights, or decision values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

from medvlad._util.caller_warning import warn_caller
from medvlad._util.validate import InputError, check_positive_float, check_positive_int
from medvlad.descriptors.array_api import on_host
from medvlad.svm.blocks import Vector, times
from medvlad.svm.forms import TOO_LARGE
from medvlad.svm.newton import Problem, check_memory, make_form
from medvlad.svm.pass_path import Outcome, Passes, solve_by_passes
from medvlad.svm.refinement import BOUND, solve
from medvlad.svm.row_source import is_map_of_rows

__all__ = ["check_settings", "rows_to_decide", "rows_to_fit", "scores_of_rows", "solve_path"]

#: From C to y (1 or -1) and 2C times the weight of each row, for each binary problem.
ProblemsAt: TypeAlias = Callable[[float], Iterable[tuple[Vector, Vector]]]

_AS_THEY_ARE: dict[str, Any] = {"dtype": [np.float64, np.float32], "order": None, "copy": False}


def rows_to_fit(
    estimator: Any, X: ArrayLike, *y: Any, ensure_min_samples: int = 1, by_passes: bool = False
) -> Any:
    """Return `X`, and `y` if it is given, checked by scikit-learn. The estimator notes the features.

    A memory map that is solved by passes is not read here: the first pass finds numbers that are not finite.
    """
    shape = getattr(X, "shape", ())
    if by_passes and isinstance(X, np.ndarray) and is_map_of_rows(X) and len(X) >= ensure_min_samples:
        validate_data(estimator, X, skip_check_array=True)
        if not y:
            return X
        labels = column_or_1d(y[0], warn=True)
        check_consistent_length(X, labels)
        return X, labels
    if len(shape) == 2 and not by_passes:
        check_memory(*shape)  # before X is read, which may take long
    return validate_data(
        estimator, on_host(X, "X"), *y, ensure_min_samples=ensure_min_samples, **_AS_THEY_ARE
    )


def rows_to_decide(estimator: Any, X: ArrayLike) -> NDArray[Any]:
    """Return `X` as a NumPy array that the fitted estimator accepts, whatever library it comes from."""
    check_is_fitted(estimator)
    rows: NDArray[Any] = validate_data(estimator, on_host(X, "X"), reset=False, **_AS_THEY_ARE)
    return rows


def scores_of_rows(estimator: Any, X: ArrayLike) -> Vector:
    """Return what the weights of an estimator give to each row: float64, shape (n_samples, n_problems)."""
    rows, weights = rows_to_decide(estimator, X), np.atleast_2d(estimator.coef_)
    scores: Vector = times(rows, weights.T) + estimator.intercept_
    return scores


def check_settings(fitted: Sequence[Any]) -> tuple[list[float], float, int]:
    """Return C of each of the SVMs, and the constant feature (0: none) and the steps that they share."""
    penalties, first = [check_positive_float(one.C, "C") for one in fitted], fitted[0]
    scale = check_positive_float(first.intercept_scaling, "intercept_scaling") if first.fit_intercept else 0.0
    return penalties, scale, check_positive_int(first.max_iter, "max_iter")


def solve_path(
    fitted: Sequence[Any],
    settings: tuple[list[float], float, int],
    x: NDArray[Any],
    problems_at: ProblemsAt,
    names: NDArray[Any],
    *,
    what: str = "class",
    order: Iterable[int] | None = None,
    passes: Passes | None = None,
) -> None:
    """Set the weights of SVMs that differ in C. Each begins at the solution of the one before it.

    Parameters
    ----------
    fitted : sequence of WideLinearSVC or MultiLabelSVC
        The first one has read `x`.
    settings : tuple
        From :func:`check_settings`.
    x : ndarray of shape (n_samples, n_features)
    problems_at : callable
        From C to y (1 or -1) and 2C times the weight of each row, for each binary problem.
    names : ndarray
        What `classes_` becomes. Warnings call them `what`.
    order : iterable of int, or None
        Order of the first steps: equal weights one after another share a factorisation. None: as they are.
    passes : Passes or None
        How to solve by passes over the rows. None: with a square matrix in memory.
    """
    penalties, scale, max_iter = settings
    if passes is not None:
        at = (problems_at(big_c) for big_c in penalties)
        usable = ([(y, _usable(c, big_c)) for y, c in one] for one, big_c in zip(at, penalties, strict=True))
        found = solve_by_passes(x, usable, penalties, scale, max_iter, passes)
        for one, outcome in zip(fitted, found, strict=True):
            _warn_if_inexact(outcome.problems, outcome.gap, passes.tol, names, max_iter, what)
            _set_solution(one, outcome.weights, scale, outcome.gap, outcome.problems, names, fitted[0])
            one.n_passes_ = outcome.n_passes
        return
    form, problems = make_form(x, scale), list[Problem]()
    for one, big_c in zip(fitted, penalties, strict=True):
        previous = problems
        problems = [Problem(form, y, _usable(curvature, big_c)) for y, curvature in problems_at(big_c)]
        for problem, other in zip(problems, previous, strict=False):
            problem.begin_at(other)
        solution = solve(form, problems, max_iter, range(len(problems)) if order is None else order)
        if not np.isfinite(solution.weights).all():
            raise InputError(TOO_LARGE)
        _warn_if_inexact(problems, solution.gap, BOUND, names, max_iter, what)
        _set_solution(one, solution.weights, scale, solution.gap, problems, names, fitted[0])
        one.n_passes_ = 0


def _set_solution(
    one: Any,
    weights: Vector,
    scale: float,
    gap: float,
    problems: Sequence[Outcome],
    names: NDArray[Any],
    first: Any,
) -> None:
    """Set the attributes of a fitted SVM. The `first` SVM of a path has read the rows."""
    one.classes_ = names
    one.coef_ = np.ascontiguousarray(weights[:, :-1])
    one.intercept_ = scale * weights[:, -1]
    one.dual_gap_ = gap
    one.n_iter_ = max(problem.n_iter for problem in problems)
    one.n_features_in_ = first.n_features_in_
    if hasattr(first, "feature_names_in_"):
        one.feature_names_in_ = first.feature_names_in_


def _usable(curvature: Vector, big_c: float) -> Vector:
    """Return 2C of each row. Weights too small for their inverse count as 0."""
    with np.errstate(divide="ignore", over="ignore"):
        curvature[np.isinf(1.0 / curvature)] = 0.0
    if not np.isfinite(curvature).all():
        raise InputError(f"C={big_c} times the weights is beyond float64: lower C or the weights")
    return curvature


def _warn_if_inexact(
    problems: Sequence[Outcome], gap: float, bound: float, names: NDArray[Any], max_iter: int, what: str
) -> None:
    """Warn about each class, or another kind of `what`, whose weights are not the exact minimiser.

    If the search saw nothing wrong, warn if the duality gap is above the bound that the estimators promise.
    """
    warned = False
    for name, problem in zip(names[-len(problems) :], problems, strict=True):
        if problem.singular:
            message = (
                f"the solution for {what} {name!s} is only approximate, because C times the squared "
                "length of the rows of X is beyond double precision: scale X or lower C"
            )
        elif not problem.converged:
            message = (
                f"{what} {name!s} has not reached its minimum after max_iter={max_iter} steps: raise "
                "max_iter, or scale X or lower C"
            )
        else:
            continue
        warned = True
        warn_caller(message, ConvergenceWarning)
    if not (warned or gap <= bound):
        warn_caller(
            f"the solution is only approximate, because its relative duality gap dual_gap_ is "
            f"{gap:.1e} and should be at most {bound:.0e}: standardise X or lower C",
            ConvergenceWarning,
        )
