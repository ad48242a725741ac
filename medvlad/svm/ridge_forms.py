"""The two forms in which ridge regression is solved. The mathematics is in :mod:`medvlad.svm.wide_ridge`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, eigh

from medvlad._util.validate import InputError, check_positive_float
from medvlad.svm.blocks import (
    PASS_BLOCK,
    Vector,
    add_product,
    blocks,
    column_means,
    products_of_rows,
    times,
    transposed_times,
)
from medvlad.svm.gram import fast_gram, gram
from medvlad.svm.refinement import BOUND, LEAST_GAIN

__all__ = ["Tall", "Wide"]

_WANTED = 1e-16  # a round costs one solution here, not a factor for each class

#: Values of alpha to choose from, relative to the mean squared length of the rows minus their mean.
_GRID = 10.0 ** np.arange(-4.0, 3.5, 0.5)

_TOO_LARGE = "the squares of X are beyond the range of float64: divide X by its largest absolute value"


class Part:
    """The rows for which some targets are known, as the smaller of the two matrices.

    Attributes
    ----------
    mean : ndarray of float64, shape (n_features,)
        Mean of the rows, zeros without an intercept.
    matrix : ndarray of float64, shape (side, side)
        The lower triangle of X_c X_c^T, or of X_c^T X_c, in Fortran order.
    """

    mean: Vector
    matrix: Vector
    n_rows: int
    with_mean: bool

    def right_side(self, centred: Vector) -> Vector:
        """Return the right sides of the linear equations for numbers minus their mean."""
        raise NotImplementedError

    def to_weights(self, solution: Vector) -> Vector:
        """Return weights (n_targets, n_features) of the solutions of the linear equations."""
        raise NotImplementedError

    def spectrum(self) -> tuple[Vector, Vector]:
        """Return s and U of the module docstring, without zeros of s."""
        raise NotImplementedError

    def weights(self, centred: Vector, alpha: float) -> Vector:
        """Return the weights (n_targets, n_features) for numbers minus their mean."""
        matrix = np.tril(self.matrix) + np.tril(self.matrix, -1).T
        factor, wanted = self.factor(alpha), self.right_side(centred)
        solution = cho_solve(factor, wanted)
        residual = wanted - matrix @ solution - alpha * solution
        return self.to_weights(solution + cho_solve(factor, residual))

    def factor(self, alpha: float) -> tuple[Vector, bool]:
        """Return the Cholesky factor of the matrix plus alpha."""
        damped = self.matrix.copy(order="F")
        damped[np.diag_indices_from(damped)] += alpha
        if not np.isfinite(np.trace(damped)):
            raise InputError(_TOO_LARGE)
        try:
            factor: tuple[Vector, bool] = cho_factor(damped, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError as error:
            raise InputError(
                f"alpha={alpha:g} is below the rounding of X, whose features depend on each other: "
                "raise alpha"
            ) from error
        return factor

    def choose(
        self, numbers: Vector, groups: NDArray[np.intp] | None, alphas: Sequence[float] | None
    ) -> tuple[Vector, Vector]:
        """Return the alpha of each target with the smallest left-out error, and that error.

        `groups` None: each row is left out by itself.
        """
        s, u = self.spectrum()
        if alphas is None:
            unit = float(s.sum()) / self.n_rows
            grid = _GRID * (unit if unit > 0 else 1.0)
        else:
            grid = np.array([check_positive_float(value, "alphas") for value in alphas])
            if len(grid) == 0:
                raise InputError("alphas is empty: give at least one value, or None for the usual ones")
        mean = numbers.mean(axis=0) if self.with_mean else np.zeros(numbers.shape[1])
        along = u.T @ (numbers - mean)
        constant = 1.0 / self.n_rows if self.with_mean else 0.0
        members = None
        if groups is not None:
            order = np.argsort(groups, kind="stable")
            members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
        errors = np.empty((len(grid), numbers.shape[1]))
        for i, alpha in enumerate(grid):
            shrink = s / (s + alpha)
            residual = numbers - mean - (u * shrink) @ along
            if members is None:
                left_out = residual / (1.0 - constant - (u * u) @ shrink)[:, np.newaxis]
            else:
                left_out = np.empty_like(residual)
                for rows in members:
                    inside = np.eye(len(rows)) - constant - (u[rows] * shrink) @ u[rows].T
                    left_out[rows] = np.linalg.solve(inside, residual[rows])
            errors[i] = (left_out**2).mean(axis=0)
        best = errors.argmin(axis=0)
        return grid[best], errors[best, np.arange(numbers.shape[1])]


class Wide:
    """Rows with more features than rows: one Gram matrix for all parts."""

    def __init__(self, x: NDArray[Any], with_mean: bool, is_fast: bool) -> None:
        self.x, self.with_mean = x, with_mean
        self.shift = column_means(x) if with_mean else np.zeros(x.shape[1])
        self.is_exact = not is_fast
        nothing = np.zeros(len(x))  # no direction is split off
        if is_fast:
            self.gram = fast_gram(x, self.shift, nothing, np.zeros(x.shape[1]), 0.0)
        if self.is_exact or not np.isfinite(np.trace(self.gram)):
            self.make_exact()

    def make_exact(self) -> None:
        """Compute the matrix in float64."""
        self.is_exact = True
        self.gram = np.empty((0, 0))  # frees the approximate one
        self.gram = gram(self.x, self.shift, np.zeros(len(self.x)))

    def part(self, rows: NDArray[np.intp]) -> Part:
        """Return the part of some rows."""
        return WidePart(self, rows)


class WidePart(Part):
    def __init__(self, whole: Wide, rows: NDArray[np.intp]) -> None:
        self._whole, self._rows = whole, rows
        self.n_rows, self.with_mean = len(rows), whole.with_mean
        share = np.zeros(len(whole.x))
        share[rows] = 1.0 / len(rows)
        self.mean = np.zeros(whole.x.shape[1])
        if whole.with_mean:
            moved = transposed_times(whole.x, share[:, np.newaxis], shift=whole.shift)[:, 0]
            self.mean = whole.shift + moved
        self._take_matrix()

    def _take_matrix(self) -> None:
        """Take the part of the matrix of all rows that belongs to these rows."""
        # Indexing the transpose of a lower triangle gives a lower triangle in Fortran order.
        matrix = self._whole.gram.T[np.ix_(self._rows, self._rows)].T
        if self.with_mean:
            matrix = np.tril(matrix) + np.tril(matrix, -1).T
            means = matrix.mean(axis=0)
            matrix += means.mean() - means - means[:, np.newaxis]
        self.matrix = matrix

    def weights(self, centred: Vector, alpha: float) -> Vector:
        if not self._whole.is_exact:
            found = self._refined(centred, alpha)
            if found is not None:
                return found
            self._whole.make_exact()
            self._take_matrix()
        return super().weights(centred, alpha)

    def _refined(self, wanted: Vector, alpha: float) -> Vector | None:
        """Return the weights from an approximate matrix, None if the duality gap stays too large."""
        try:
            factor = self.factor(alpha)
        except InputError:
            return None
        solution, least = cho_solve(factor, wanted), np.inf
        while True:
            spread = np.zeros((len(self._whole.x), wanted.shape[1]))
            spread[self._rows] = solution - solution.mean(axis=0) if self.with_mean else solution
            weights, products = products_of_rows(self._whole.x, spread, self._whole.shift)
            product = products[self._rows]
            if self.with_mean:
                product -= product.mean(axis=0)
            residual = wanted - product - alpha * solution
            value = ((wanted - product) ** 2).sum(axis=0) + alpha * (solution * product).sum(axis=0)
            squares = (residual**2).sum(axis=0)
            gap = float(np.divide(squares, value, out=np.zeros_like(value), where=squares != 0).max())
            if gap <= _WANTED:
                return weights.T
            if not gap * LEAST_GAIN <= least:
                return weights.T if gap <= BOUND else None
            least, solution = gap, solution + cho_solve(factor, residual)

    def right_side(self, centred: Vector) -> Vector:
        return centred

    def to_weights(self, solution: Vector) -> Vector:
        spread = np.zeros((len(self._whole.x), solution.shape[1]))
        spread[self._rows] = solution
        if self.with_mean:  # the sum is 0 except for rounding, which the offset of the rows would enlarge
            spread[self._rows] -= solution.mean(axis=0)
        shift = self._whole.shift if self.with_mean else None
        return transposed_times(self._whole.x, spread, shift=shift).T

    def spectrum(self) -> tuple[Vector, Vector]:
        s, u = eigh(self.matrix, lower=True)
        kept = s > s[-1] * len(s) * np.finfo(np.float64).eps if s[-1] > 0 else np.zeros(len(s), bool)
        return s[kept], np.ascontiguousarray(u[:, kept])


class Tall:
    """Rows with at most as many features as rows: one matrix for each part."""

    def __init__(self, x: NDArray[Any], with_mean: bool) -> None:
        self.x, self.with_mean = x, with_mean

    def part(self, rows: NDArray[np.intp]) -> Part:
        """Return the part of some rows."""
        return TallPart(self.x if len(rows) == len(self.x) else self.x[rows], self.with_mean)


class TallPart(Part):
    def __init__(self, x: NDArray[Any], with_mean: bool) -> None:
        self._x = x
        self.n_rows, self.with_mean = len(x), with_mean
        self.mean = column_means(x) if with_mean else np.zeros(x.shape[1])
        matrix = np.zeros((x.shape[1], x.shape[1]), order="F")
        with np.errstate(over="ignore", invalid="ignore"):
            for _, block in blocks(x, 0, PASS_BLOCK, shift=self._shift):
                matrix = add_product(matrix, block, outer=False)
        self.matrix = matrix

    @property
    def _shift(self) -> Vector | None:
        return self.mean if self.with_mean else None

    def right_side(self, centred: Vector) -> Vector:
        return transposed_times(self._x, centred, shift=self._shift)

    def to_weights(self, solution: Vector) -> Vector:
        return solution.T

    def spectrum(self) -> tuple[Vector, Vector]:
        s, v = eigh(self.matrix, lower=True)
        kept = s > s[-1] * len(s) * np.finfo(np.float64).eps if s[-1] > 0 else np.zeros(len(s), bool)
        s = s[kept]
        return s, times(self._x, v[:, kept] / np.sqrt(s), shift=self._shift)
