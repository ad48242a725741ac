"""The form for more features than rows: the unknowns are a and beta, the matrix is M.

The mathematics is in :mod:`medvlad.svm.newton` under "Offsets". M is computed in float64 for small problems.
For large ones it is an approximation from fast products (:mod:`medvlad.svm.gram`), and
:mod:`medvlad.svm.refinement` corrects what it lacks.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsymv

from medvlad._util.validate import InputError
from medvlad.svm.blocks import Vector, column_means, products_of_rows, times
from medvlad.svm.forms import TOO_LARGE, Build, Evaluation, Form
from medvlad.svm.gram import fast_gram, gram, has_fast_gram

__all__ = ["WideForm"]

_BUILT_ROWS = 32


class WideForm(Form):
    """The form for n_features > n_samples."""

    def __init__(self, x: NDArray[Any], scale: float) -> None:
        super().__init__(x, scale)
        self._mean = column_means(x)
        with np.errstate(over="ignore", invalid="ignore"):
            length = math.hypot(float(np.linalg.norm(self._mean)), scale)
            self._direction = self._mean / length if length > 0 else np.zeros_like(self._mean)
            self._constant = scale / length if length > 0 else 0.0  # the last entry of the direction
            self._along = times(x, self._direction[:, np.newaxis], shift=self._mean)[:, 0]
            self._g = length + self._along
            if not np.isfinite(self._g).all():
                raise InputError(TOO_LARGE)
        self._gram = np.empty((0, 0))
        self._active, self._across = np.empty(0, np.intp), np.empty(0)  # B^-1 g of the active set
        self.is_exact = not has_fast_gram(*x.shape)
        self._float32 = not self.is_exact
        if self.is_exact:
            self._gram = gram(x, self._mean, self._along)
        else:
            self._gram = fast_gram(x, self._mean, self._along, self._direction, self._constant)
            if not np.isfinite(np.trace(self._gram)):  # beyond float32, whose range is smaller
                self.make_exact()

    def make_exact(self) -> None:
        """See :class:`Form`."""
        self._key, self._factor, self._gram = None, np.empty((0, 0)), np.empty((0, 0))  # frees memory
        self._gram = gram(self.x, self._mean, self._along)
        self.is_exact, self.singular, self._float32 = True, False, False

    @property
    def size(self) -> int:
        """See :class:`Form`."""
        return len(self.x) + 1

    def scores(self, p: Vector) -> Vector:
        """See :class:`Form`."""
        result: Vector = dsymv(1.0, self._gram, p[:-1], lower=1) + p[-1] * self._g
        return result

    def dot(self, p: Vector, other_p: Vector, other_f: Vector) -> float:
        """See :class:`Form`."""
        return float(p[:-1] @ (other_f - other_p[-1] * self._g) + p[-1] * other_p[-1])

    def evaluate(self, p: Vector) -> Evaluation:
        """See :class:`Form`."""
        a = np.ascontiguousarray(p[:, :-1].T)
        weights, products = products_of_rows(self.x, a, self._mean)
        # f = R Rᵀ a + beta g, and R Rᵀ is the product of the centred rows minus that of their parts along
        # the direction.
        along = self._along @ a
        scores = products.T - np.multiply.outer(along, self._along) + np.multiply.outer(p[:, -1], self._g)
        w = np.empty((len(p), self.x.shape[1] + 1))
        w[:, :-1] = weights.T
        w[:, :-1] += np.multiply.outer(p[:, -1] - along, self._direction)
        w[:, -1] = (p[:, -1] - along) * self._constant
        return Evaluation(w, scores)

    def dual(self, p: Vector, found: Evaluation, y: Vector, curvature: Vector) -> tuple[Vector, Vector]:
        """See :class:`Form`."""
        dual = np.where(curvature > 0, np.maximum(0.0, y * p[:, :-1]), 0.0)
        a = y * dual
        lengths = np.sqrt(np.maximum(np.diagonal(self._gram), 0.0) + self._g**2)
        return dual, np.abs(p[:, -1] - a @ self._g) + np.abs(p[:, :-1] - a) @ lengths

    def _assemble(self, curvature: Vector) -> Build:
        active = self._active = np.flatnonzero(curvature)

        def build(dtype: type) -> NDArray[Any]:
            # The rows of the transpose are the columns of the Gram matrix: the result is in Fortran order,
            # and its lower triangle is that of the Gram matrix. Blocks of rows stay in the cache.
            columns = self._gram.T
            matrix: NDArray[Any] = np.empty((len(active), len(active)), dtype)
            with np.errstate(over="ignore"):
                for start in range(0, len(active), _BUILT_ROWS):
                    rows = slice(start, start + _BUILT_ROWS)
                    matrix[rows] = np.take(columns[active[rows]], active, axis=1)
                diagonal = self._gram.diagonal()[active] + 1.0 / curvature[active]
                matrix[np.diag_indices_from(matrix)] = diagonal
            return matrix.T

        return build

    def _factorise(self, build: Build) -> None:
        super()._factorise(build)
        self._across = self._solve(self._g[self._active]) if self._active.size else np.empty(0)

    def _correct(self, curvature: Vector, y: Vector, p: Vector, f: Vector) -> Vector:
        active = np.flatnonzero(curvature)
        corrected = np.zeros_like(p)
        if active.size:
            g, a = self._g[active], p[active]
            residual = y[active] - f[active] - a / curvature[active]
            solved = self._solve(residual)
            change = (g @ solved + g @ a - p[-1]) / (1.0 + g @ self._across)
            corrected[active] = a + (solved - change * self._across)
            corrected[-1] = p[-1] + change
        return corrected
