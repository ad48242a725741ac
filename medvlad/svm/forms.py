"""The two forms in which a Newton point can be computed: the interface, and the form for few features.

The mathematics is in :mod:`medvlad.svm.newton`, the form for many features in :mod:`medvlad.svm.wide_form`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotrs, spotrf, spotrs

from medvlad._util.validate import InputError
from medvlad.svm.blocks import (
    GRAM_BLOCK,
    PASS_BLOCK,
    Vector,
    add_product,
    block_entries,
    blocks,
    times,
    transposed_times,
)

__all__ = ["TOO_LARGE", "Evaluation", "Form", "TallForm"]

TOO_LARGE = "the squares of X times C are beyond the range of float64: divide X by its largest absolute value"
# Bound on the rounding error that updates may leave in H, whose eigenvalues are at least 1.
_DRIFT = 1e-6
# A factor in float32 takes half the time. Its solution is corrected with products in float64 until the last
# correction is below _SETTLED of it. Each correction must be a tenth of the one before it.
_MOST_CORRECTIONS = 8
_SETTLED = 1e-9


#: Function from a dtype to a new matrix in Fortran order. Only its lower triangle counts.
Build = Callable[[type], NDArray[Any]]


class Evaluation(NamedTuple):
    """Weights (k, n_features + 1) and their true scores (k, n_samples), computed from the rows in float64.

    The last column of the weights holds the weight of the constant feature.
    """

    weights: Vector
    scores: Vector


class Form(ABC):
    """One of the two forms of the problem.

    It maps unknowns p to scores f, and keeps the Cholesky factor of the last active set.
    """

    is_exact = True  # False if the matrix is only an approximation

    def __init__(self, x: NDArray[Any], scale: float) -> None:
        self.x = x
        self.scale = scale
        self.singular = False  # True if the last factorisation needed a larger diagonal
        self._key: Vector | None = None
        self._factor: NDArray[np.floating]
        self._float32 = False  # whether to try a factor in float32
        self._has_float32_factor = False

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of unknowns."""

    @abstractmethod
    def scores(self, p: Vector) -> Vector:
        """Return the scores f of the unknowns p."""

    @abstractmethod
    def dot(self, p: Vector, other_p: Vector, other_f: Vector) -> float:
        """Return w·w', the inner product of the weights of p and p'."""

    @abstractmethod
    def evaluate(self, p: Vector) -> Evaluation:
        """Return the weights of unknowns (k, size), and their true scores."""

    @abstractmethod
    def dual(self, p: Vector, found: Evaluation, y: Vector, curvature: Vector) -> tuple[Vector, Vector]:
        """Return alpha (k, n_samples) of unknowns (k, size), and bounds (k,) on ``|w - Xᵀa|``.

        See :mod:`medvlad.svm.refinement`. `found` belongs to `p`. `y` and `curvature` (k, n_samples) are
        those of the problems.
        """

    def make_exact(self) -> None:
        """Replace an approximate matrix by that of float64."""
        raise NotImplementedError

    @abstractmethod
    def _assemble(self, curvature: Vector) -> Build:
        """Return a function that builds a new copy of the matrix to factorise, in a given dtype.

        `curvature` is 2C on the active set and 0 elsewhere.
        """

    @abstractmethod
    def _correct(self, curvature: Vector, y: Vector, p: Vector, f: Vector) -> Vector:
        """Return p plus the solution for the residual at (p, f): one step of refinement."""

    def newton_point(self, curvature: Vector, y: Vector) -> tuple[Vector, Vector]:
        """Return (p, f) of the Newton point of an active set.

        `curvature` is 2C on the active set and 0 elsewhere.

        Raises
        ------
        InputError
            If the matrix overflows float64.
        """
        if self._key is None or not np.array_equal(curvature, self._key):
            self._key = None
            build = self._assemble(curvature)
            self._factorise(build)
            self._key = curvature
        p, f = np.zeros(self.size), np.zeros(len(y))
        if not self._has_float32_factor:
            for _ in range(2):
                p = self._correct(curvature, y, p, f)
                f = self.scores(p)
            return p, f
        change = math.inf
        for _ in range(_MOST_CORRECTIONS):
            before, last = p, change
            p = self._correct(curvature, y, p, f)
            f = self.scores(p)
            change = float(np.linalg.norm(p - before))
            if change <= _SETTLED * float(np.linalg.norm(p)):
                return p, f
            if not change < 0.1 * last:
                break
        self._float32, self._key = False, None  # too ill-conditioned for a factor in float32
        return self.newton_point(curvature, y)

    def _factorise(self, build: Build) -> None:
        """Compute the Cholesky factor, with a larger diagonal if the matrix is not positive definite."""
        self._factor = np.empty((0, 0))  # frees the old factor before the new one is allocated
        self._has_float32_factor = False
        if self._float32:
            self._factor, info = spotrf(build(np.float32), lower=1, clean=0, overwrite_a=1)
            self._has_float32_factor = info == 0 and bool(np.isfinite(np.diagonal(self._factor)).all())
            if self._has_float32_factor:
                self.singular = False
                return
            self._factor = np.empty((0, 0))
        ridge = 0.0
        while True:
            matrix = build(np.float64)
            diagonal = np.diag_indices_from(matrix)
            if ridge > 1.0 or not np.isfinite(matrix[diagonal]).all():
                raise InputError(TOO_LARGE)
            if ridge:
                matrix[diagonal] *= 1.0 + ridge
            self._factor, info = dpotrf(matrix, lower=1, clean=0, overwrite_a=1)
            if info == 0:
                self.singular = ridge > 0.0
                return
            del matrix
            ridge = max(100.0 * ridge, 1e-15 * self.size)

    def _solve(self, rhs: Vector) -> Vector:
        solution: Vector
        if self._has_float32_factor:
            scale = float(np.abs(rhs).max(initial=0.0)) or 1.0  # so that nothing is beyond float32
            low = spotrs(self._factor, (rhs / scale).astype(np.float32), lower=1)[0]
            solution = scale * low.astype(np.float64)
        else:
            solution = dpotrs(self._factor, rhs, lower=1)[0]
        return solution


class TallForm(Form):
    """The form for n_features <= n_samples: the unknowns are w, the matrix is H.

    The weight of the constant feature is the last entry of w.
    """

    def __init__(self, x: NDArray[Any], scale: float) -> None:
        super().__init__(x, scale)
        self._h = np.empty((0, 0))
        self._h_curvature = np.zeros(x.shape[0])  # the curvature for which H was summed
        # Trace of everything that was added to H. Multiplied by eps, it bounds the rounding error of H.
        self._mass = math.inf
        self._squares = np.full(x.shape[0], scale * scale)
        for rows, block in blocks(x, 0, PASS_BLOCK):
            self._squares[rows] += np.einsum("ij,ij->i", block, block)

    @property
    def size(self) -> int:
        """See :class:`Form`."""
        return int(self.x.shape[1]) + 1

    def scores(self, p: Vector) -> Vector:
        """See :class:`Form`."""
        f: Vector = times(self.x, p[:-1, np.newaxis])[:, 0] + self.scale * p[-1]
        return f

    def dot(self, p: Vector, other_p: Vector, other_f: Vector) -> float:
        """See :class:`Form`."""
        return float(p @ other_p)

    def evaluate(self, p: Vector) -> Evaluation:
        """See :class:`Form`."""
        return Evaluation(p, (times(self.x, p[:, :-1].T) + self.scale * p[:, -1]).T)

    def dual(self, p: Vector, found: Evaluation, y: Vector, curvature: Vector) -> tuple[Vector, Vector]:
        """See :class:`Form`."""
        dual = curvature * np.maximum(0.0, 1.0 - y * found.scores)
        pull = y * dual
        gradient = p.copy()
        gradient[:, :-1] -= transposed_times(self.x, pull.T).T
        gradient[:, -1] -= self.scale * pull.sum(axis=1)
        return dual, np.linalg.norm(gradient, axis=1)

    def _assemble(self, curvature: Vector) -> Build:
        change = curvature - self._h_curvature
        mass = self._mass + float(np.abs(change) @ self._squares)
        cheaper = np.count_nonzero(change) < np.count_nonzero(curvature)
        if not (cheaper and mass * np.finfo(np.float64).eps < _DRIFT):
            change = curvature
            mass = float(curvature @ self._squares)
            if self._h.size == 0:
                self._h = np.empty((self.size, self.size), order="F")
            self._h[...] = 0.0
            self._h[np.diag_indices_from(self._h)] = 1.0
        self._add_rows(np.flatnonzero(change > 0), change, 1.0)
        self._add_rows(np.flatnonzero(change < 0), change, -1.0)
        self._h_curvature, self._mass = curvature, mass
        return lambda dtype: self._h.astype(dtype, order="F")

    def _add_rows(self, index: NDArray[np.intp], change: Vector, sign: float) -> None:
        """Add ``change_i x_i x_iᵀ`` for the rows `index`, whose changes all have the sign `sign`."""
        step = max(1, block_entries(self.x, GRAM_BLOCK) // self.size)
        buffer = np.empty((min(step, len(index)), self.size))
        for start in range(0, len(index), step):
            rows = index[start : start + step]
            block = buffer[: len(rows)]
            block[:, :-1] = self.x[rows]
            block[:, -1] = self.scale
            block *= np.sqrt(np.abs(change[rows]))[:, np.newaxis]
            self._h = add_product(self._h, block, outer=False, alpha=sign)

    def _correct(self, curvature: Vector, y: Vector, p: Vector, f: Vector) -> Vector:
        pull = curvature * (y - f)
        residual = -p
        residual[:-1] += transposed_times(self.x, pull[:, np.newaxis])[:, 0]
        residual[-1] += self.scale * pull.sum()
        return p + self._solve(residual)
