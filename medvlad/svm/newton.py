r"""The solver of WideLinearSVC: an exact Newton method.

**Problem.** One binary problem has labels :math:`y_i = \pm 1`, loss weights :math:`C_i > 0` and rows
:math:`x_i`. The last entry of each row is the constant `intercept_scaling`, called :math:`s`. So the
intercept is a weight like any other and is penalised. With the scores :math:`f_i = w \cdot x_i`, minimise

.. math::

   P(w) = \tfrac{1}{2} |w|^2 + \sum_i C_i \max(0,\; 1 - y_i f_i)^2 .

**Newton steps.** :math:`P` is strictly convex and once differentiable. It is quadratic as long as the active
set :math:`A = \{i : y_i f_i < 1\}` does not change. Because :math:`y_i^2 = 1`,

.. math::

   \nabla P = w - 2 \sum_{i \in A} C_i (y_i - f_i) x_i, \qquad
   \nabla^2 P = H_A = I + 2 \sum_{i \in A} C_i x_i x_i^T .

The Newton point of :math:`A` minimises the quadratic that belongs to :math:`A`. If the active set of that
point is :math:`A` again, then :math:`\nabla P = 0` there, and the point is the minimiser of :math:`P`.
Otherwise the next iterate is the minimiser of :math:`P` on the segment towards the Newton point. On the
segment the derivative of :math:`P` is continuous, increasing and piecewise linear. It has a break where some
:math:`y_i f_i` equals 1, so bisection among the sorted breaks finds its root exactly.

**The search is finite.** :math:`P` falls in each step and :math:`w` tends to the minimiser :math:`w^*`. Near
:math:`w^*` the active set can differ from that of :math:`w^*` only in rows with :math:`y_i f_i(w^*) = 1`.
These rows add nothing to :math:`\nabla P(w^*)`, so the Newton point of every such set is :math:`w^*` itself
(Keerthi & DeCoste, JMLR 6, 2005; Chapelle, Neural Computation 19, 2007).

**Two forms.** The same Newton point can be computed from either of two matrices; the smaller one is used.

*If n_features <= n_samples*, solve :math:`H_A w = 2 \sum_{i \in A} C_i y_i x_i`. From one step to
the next, only the rows that enter or leave :math:`A` change :math:`H_A`.

*If n_features > n_samples*, :math:`\nabla P = 0` means that :math:`w = \sum_{i \in A} a_i x_i` with
:math:`a_i = 2 C_i (y_i - f_i)`. With the Gram matrix :math:`G = X X^T + s^2` the scores are :math:`f = G a`,
and it remains to solve

.. math::

   \left( G_{AA} + \mathrm{diag}(1 / 2 C_A) \right) a_A = y_A, \qquad a_i = 0 \text{ if } i \notin A .

The scores along the segment need only :math:`G`. The weights :math:`w = X^T a` are formed at the end.

**Offsets.** If all rows share a large offset, :math:`G` loses the digits in which they differ. The second
form therefore splits off the direction of the mean. Let :math:`h e` be the mean of the rows, with their
constant :math:`s`, as a length :math:`h` times a unit vector. A row is :math:`x_i = g_i e + r_i`, where
:math:`r_i` is orthogonal to :math:`e`. With :math:`M = R R^T` we have :math:`G = M + g g^T`. The weight of
the direction, :math:`\beta = g \cdot a`, becomes an unknown of its own, because the sum would cancel. With
:math:`B = M_{AA} + \mathrm{diag}(1 / 2 C_A)` the Newton point is

.. math::

   \beta = \frac{g_A^T B^{-1} y_A}{1 + g_A^T B^{-1} g_A}, \qquad a_A = B^{-1} (y_A - \beta g_A), \qquad
   f = M a + \beta g, \qquad w = R^T a + \beta e .

:math:`r_i` and :math:`g_i - h` are computed from :math:`x_i` minus the mean, so they keep their digits.

**Precision.** :math:`G` and :math:`H` are summed in float64 from blocks of columns or rows, and each Newton
point gets one step of iterative refinement. In the first form the residual of the refinement is computed from
:math:`X`, not from :math:`H`, because :math:`H` squares the condition number of :math:`X`; the rounding of
:math:`H` then drops out.

A Newton step :math:`d` can lower :math:`P` by at most :math:`\tfrac{1}{2} d^T H_A d`. If
:math:`d^T H_A d \le 10^{-24} \cdot 2 P(w)`, the step is rounding and the search ends. This settles rows whose
margin is exactly 1. If :math:`C |x|^2` is above about :math:`10^7`, rounding can be larger than that bound.
The search then ends when a step gains nothing, and a ConvergenceWarning is given if
:math:`d^T H_A d > 10^{-12} \cdot 2 P(w)`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsymv
from scipy.linalg.lapack import dpotrf, dpotrs

from medvlad._util.validate import InputError
from medvlad.svm.blocks import (
    GRAM_BLOCK,
    PASS_BLOCK,
    Vector,
    add_product,
    block_entries,
    blocks,
    column_means,
    times,
    transposed_times,
)

__all__ = ["Problem", "check_memory", "make_form"]

# Bounds on the size of a step relative to sqrt(2 P(w)); see "Precision" above.
_ENERGY_TOLERANCE = 1e-12
_STALL_TOLERANCE = 1e-6
_TOO_LARGE = (
    "the squares of X times C are beyond the range of float64: divide X by its largest absolute value"
)
# Bound on the rounding error that updates may leave in H, whose eigenvalues are at least 1.
_DRIFT = 1e-6


class _Form(ABC):
    """One of the two forms of the problem.

    It maps unknowns p to scores f, and keeps the Cholesky factor of the last active set.
    """

    def __init__(self, x: NDArray[Any], scale: float) -> None:
        self.x = x
        self.scale = scale
        self.singular = False  # True if the last factorisation needed a larger diagonal
        self._key: Vector | None = None
        self._factor: Vector

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
    def weights(self, p: Vector) -> Vector:
        """Return weights (k, n_features + 1) of unknowns (k, size).

        The last column holds the weight of the constant feature.
        """

    @abstractmethod
    def _assemble(self, curvature: Vector) -> Callable[[], Vector]:
        """Return a function that builds a new copy of the matrix to factorise.

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
        for _ in range(2):
            p = self._correct(curvature, y, p, f)
            f = self.scores(p)
        return p, f

    def _factorise(self, build: Callable[[], Vector]) -> None:
        """Compute the Cholesky factor, with a larger diagonal if the matrix is not positive definite."""
        self._factor = np.empty((0, 0))  # frees the old factor before the new one is allocated
        ridge = 0.0
        while True:
            matrix = build()
            diagonal = np.diag_indices_from(matrix)
            if ridge > 1.0 or not np.isfinite(matrix[diagonal]).all():
                raise InputError(_TOO_LARGE)
            if ridge:
                matrix[diagonal] *= 1.0 + ridge
            self._factor, info = dpotrf(matrix, lower=1, clean=0, overwrite_a=1)
            if info == 0:
                self.singular = ridge > 0.0
                return
            del matrix
            ridge = max(100.0 * ridge, 1e-15 * self.size)

    def _solve(self, rhs: Vector) -> Vector:
        solution: Vector = dpotrs(self._factor, rhs, lower=1)[0]
        return solution


class _WideForm(_Form):
    """The form for n_features > n_samples: the unknowns are a and beta, the matrix is M, see "Offsets"."""

    def __init__(self, x: NDArray[Any], scale: float) -> None:
        super().__init__(x, scale)
        self._mean = column_means(x)
        with np.errstate(over="ignore", invalid="ignore"):
            length = math.hypot(float(np.linalg.norm(self._mean)), scale)
            self._direction = self._mean / length if length > 0 else np.zeros_like(self._mean)
            self._constant = scale / length if length > 0 else 0.0  # the last entry of the direction
            along = times(x, self._direction[:, np.newaxis], shift=self._mean)[:, 0]
            self._g = length + along
            if not np.isfinite(self._g).all():
                raise InputError(_TOO_LARGE)
            self._along = along
            # R R^T is the product of the centred rows without their part along the direction.
            self._gram = np.asfortranarray(-np.multiply.outer(along, along))
        for _, block in blocks(x, 1, GRAM_BLOCK, shift=self._mean):
            self._gram = add_product(self._gram, block, outer=True)

    @property
    def size(self) -> int:
        return len(self.x) + 1

    def scores(self, p: Vector) -> Vector:
        result: Vector = dsymv(1.0, self._gram, p[:-1], lower=1) + p[-1] * self._g
        return result

    def dot(self, p: Vector, other_p: Vector, other_f: Vector) -> float:
        return float(p[:-1] @ (other_f - other_p[-1] * self._g) + p[-1] * other_p[-1])

    def weights(self, p: Vector) -> Vector:
        w = np.empty((len(p), self.x.shape[1] + 1))
        w[:, :-1] = transposed_times(self.x, p[:, :-1].T, shift=self._mean).T
        along = p[:, -1] - p[:, :-1] @ self._along
        w[:, :-1] += np.multiply.outer(along, self._direction)
        w[:, -1] = along * self._constant
        return w

    def _assemble(self, curvature: Vector) -> Callable[[], Vector]:
        active = np.flatnonzero(curvature)

        def build() -> Vector:
            # Indexing a C-ordered array gives a C-ordered array, so index the transpose and transpose back:
            # the result is in Fortran order, and its lower triangle is that of the Gram matrix.
            matrix = self._gram.T[np.ix_(active, active)].T
            matrix[np.diag_indices_from(matrix)] += 1.0 / curvature[active]
            return matrix

        return build

    def _correct(self, curvature: Vector, y: Vector, p: Vector, f: Vector) -> Vector:
        active = np.flatnonzero(curvature)
        corrected = np.zeros_like(p)
        if active.size:
            g, a = self._g[active], p[active]
            residual = y[active] - f[active] - a / curvature[active]
            solved, across = self._solve(residual), self._solve(g)
            change = (g @ solved + g @ a - p[-1]) / (1.0 + g @ across)
            corrected[active] = a + (solved - change * across)
            corrected[-1] = p[-1] + change
        return corrected


class _TallForm(_Form):
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
        return int(self.x.shape[1]) + 1

    def scores(self, p: Vector) -> Vector:
        f: Vector = times(self.x, p[:-1, np.newaxis])[:, 0] + self.scale * p[-1]
        return f

    def dot(self, p: Vector, other_p: Vector, other_f: Vector) -> float:
        return float(p @ other_p)

    def weights(self, p: Vector) -> Vector:
        return p

    def _assemble(self, curvature: Vector) -> Callable[[], Vector]:
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
        return lambda: self._h.copy(order="F")

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


def _exact_step(slack: Vector, drop: Vector, curvature: Vector, along: float, length: float) -> float:
    """Return the t > 0 that minimises P on the segment, 0 if P does not fall along it.

    At t, row i has the slack ``1 - y_i f_i = slack_i - t drop_i``, and 1/2 |w|² has the derivative
    ``along + t length``. `curvature` is 2C of every row, active or not.
    """
    weighted = curvature * drop

    def line(t: float) -> tuple[float, float]:
        """Return (constant, slope) of the linear piece of P' at t."""
        active = slack - t * drop > 0
        pull = weighted[active]
        return along - float(pull @ slack[active]), length + float(pull @ drop[active])

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        breaks = slack / drop
    breaks = np.unique(breaks[np.isfinite(breaks) & (breaks > 0) & (curvature > 0)])
    low, high = 0, len(breaks)  # bisection for the first break at which P' >= 0
    while low < high:
        middle = (low + high) // 2
        constant, slope = line(breaks[middle])
        if constant + slope * breaks[middle] >= 0:
            high = middle
        else:
            low = middle + 1
    left = float(breaks[low - 1]) if low > 0 else 0.0
    right = float(breaks[low]) if low < len(breaks) else math.inf
    constant, slope = line((left + right) / 2 if math.isfinite(right) else 2.0 * left + 1.0)
    return min(max(-constant / slope, left), right) if slope > 0 else 1.0


class Problem:
    """One binary problem and the state of its Newton iteration.

    Parameters
    ----------
    form : _Form
        See :func:`make_form`. Problems of the same rows share one.
    y : ndarray of float64, shape (n_samples,)
        Labels, +1 or -1.
    curvature : ndarray of float64, shape (n_samples,)
        2C of each row, 0 for rows without weight.

    Attributes
    ----------
    p, f : ndarray of float64
        Unknowns and scores of the current iterate.
    n_iter : int
        Number of steps taken.
    converged : bool
        True if the search has ended.
    singular : bool
        True if the solution is limited by rounding: the weights are only approximate.
    """

    def __init__(self, form: _Form, y: Vector, curvature: Vector) -> None:
        self.form = form
        self.y = y
        self.curvature = curvature
        self.p = np.zeros(form.size)
        self.f = np.zeros(len(y))
        self.n_iter = 0
        self.converged = False
        self.singular = False

    def begin_at(self, other: Problem) -> None:
        """Start at the current iterate of a problem of the same form, to save steps if the two are close."""
        self.p, self.f = other.p, other.f

    def step(self) -> None:
        """Take one Newton step with exact line search."""
        form, y = self.form, self.y
        slack = 1.0 - y * self.f
        active = np.where(slack > 0, self.curvature, 0.0)
        p, f = form.newton_point(active, y)
        self.n_iter += 1
        self.singular = form.singular
        dp, df = p - self.p, f - self.f
        length = max(form.dot(dp, dp, df), 0.0)
        moved = length + active @ (df * df)
        left = 1.0 - y * f
        same = np.array_equal(np.where(left > 0, self.curvature, 0.0), active)
        value = form.dot(p, p, f) + active @ (left * left)
        if same or moved <= _ENERGY_TOLERANCE**2 * value:
            self.p, self.f, self.converged = p, f, True
            return
        t = _exact_step(slack, y * df, self.curvature, form.dot(self.p, dp, df), length)
        if t == 0.0:
            # The step gains nothing, so every further step would be the same. Check that it is rounding.
            self.converged = True
            self.singular |= bool(moved > _STALL_TOLERANCE**2 * value)
            return
        self.p = self.p + t * dp
        self.f = self.f + t * df


def check_memory(n_samples: int, n_features: int) -> None:
    """Raise MemoryError if the matrices of :func:`make_form` and :class:`Problem` cannot be allocated.

    Nothing is read or written, so it takes no time.
    """
    size = min(n_samples, n_features + 1)
    np.empty((2, size, size))  # the matrix and its factor


def make_form(x: NDArray[Any], scale: float) -> _Form:
    """Return the form with the smaller matrix.

    Parameters
    ----------
    x : ndarray of float32 or float64, shape (n_samples, n_features)
        Rows, without the constant feature. They are not copied as a whole.
    scale : float
        Value of the constant feature, 0 for none.

    Returns
    -------
    _Form
        For use in :class:`Problem`, and for ``weights(p)``.
    """
    return (_WideForm if x.shape[1] > x.shape[0] else _TallForm)(x, scale)
