"""The solver behind WideLinearSVC: an exact Newton method in the smaller of two forms.

For one binary problem with labels y_i = ±1, weights C_i > 0 and rows x_i (the last entry of each being
the constant intercept_scaling s, so the intercept is a weight like any other and is penalised), let
f_i = w·x_i and minimise::

    P(w) = 1/2 |w|² + Σ_i C_i max(0, 1 - y_i f_i)².

**Newton.** P is strictly convex, once differentiable, and quadratic wherever the active set
A = {i : y_i f_i < 1} stays the same, with (y_i² = 1, so y_i (1 - y_i f_i) = y_i - f_i)::

    ∇P = w - 2 Σ_A C_i (y_i - f_i) x_i,        ∇²P = I + 2 Σ_A C_i x_i x_iᵀ = H_A.

The Newton point of A minimises the quadratic of A. If its own active set is A, then ∇P = 0 there: it is
*the* minimiser. If not, go to the minimiser of P on the segment towards it: P'(t) on the segment is
continuous, increasing and piecewise linear with a break where some 1 - y_i f_i(t) = 0, so its root is
found exactly by bisection among the sorted breaks. P falls at each step and w tends to the minimiser w*.
Near w* the active set can differ from that of w* only in rows with y_i f_i(w*) = 1, which add nothing to
∇P(w*): the Newton point of every such set is w* itself, so the search ends at w* after finitely many steps
(Keerthi & DeCoste, JMLR 6, 2005; Chapelle, Neural Computation 19, 2007), in practice 1 to 15.

**The same point in two forms**, whichever matrix is smaller:

* n_features <= n_samples: H_A w = 2 Σ_A C_i y_i x_i. From one step to the next H_A changes only by the
  rows that enter or leave A.
* n_features > n_samples: ∇P = 0 reads w = Σ_A a_i x_i with a_i = 2 C_i (y_i - f_i). Put f = G a with the
  Gram matrix G = X Xᵀ + s²; then (G_AA + diag(1 / 2C_A)) a_A = y_A and a = 0 elsewhere. Along the segment
  f and w·w' = a·f' need nothing but G, and w = Xᵀ a is formed once, at the end.

**Precision.** G and H are summed in float64 from blocks of columns or rows, and each Newton point gets one
step of iterative refinement; in the first form its residual comes from X itself, not from H, so that the
rounding of H (which squares the condition of X) drops out. A Newton step d with dᵀ H_A d <= 1e-24 · 2 P(w),
twice what it can gain, is rounding and ends the search too: that settles rows whose margin is exactly one.
Where ``C |x|²`` beyond about 1e7 makes rounding larger than that, the search ends when it finds nothing to
gain along a step, and a ConvergenceWarning says so if that step is above 1e-12 · 2 P(w).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsymv, dsyrk
from scipy.linalg.lapack import dpotrf, dpotrs

from medvlad._util.validate import InputError

__all__ = ["Problem", "Vector", "make_form", "times"]

Vector = NDArray[np.float64]

_GRAM_BLOCK = 1 << 23  # entries of a float64 block for dsyrk: 64 MiB
_PASS_BLOCK = 1 << 21  # entries of one for a product with a few vectors: 16 MiB
_LEAST_BLOCK = 1 << 17
_ENERGY_TOLERANCE = 1e-12
_STALL_TOLERANCE = 1e-6
_DRIFT = 1e-6  # bound on the rounding error that updates may leave in H, whose eigenvalues are >= 1


def _block_entries(x: NDArray[Any], limit: int) -> int:
    """Entries of a float64 block of `x`: at most `limit` and an eighth of `x`, unless `x` is tiny."""
    return max(_LEAST_BLOCK, min(limit, x.size // 8))


def _is_fortran(x: NDArray[Any]) -> bool:
    return x.flags.f_contiguous and not x.flags.c_contiguous


def _blocks(x: NDArray[Any], axis: int, limit: int) -> Iterator[tuple[slice, Vector]]:
    """Yield (slice along `axis`, that part of `x` as contiguous float64), reusing one buffer."""
    length, other = x.shape[axis], x.shape[1 - axis]
    step = min(length, max(1, _block_entries(x, limit) // other))
    buffer: Vector | None = None
    for start in range(0, length, step):
        where = slice(start, min(start + step, length))
        part = x[where] if axis == 0 else x[:, where]
        if part.dtype == np.float64 and part.flags.forc:
            yield where, part
            continue
        if buffer is None:
            buffer = np.empty(step * other)
        flat = buffer[: part.size]
        block = flat.reshape(part.shape[::-1]).T if _is_fortran(x) else flat.reshape(part.shape)
        np.copyto(block, part)
        yield where, block


def times(x: NDArray[Any], w: Vector) -> Vector:
    """Return ``x @ w`` in float64 for `w` of shape (n_features, k), `x` converted block by block."""
    out = np.zeros((x.shape[0], w.shape[1]))
    if _is_fortran(x):
        for columns, block in _blocks(x, 1, _PASS_BLOCK):
            out += block @ w[columns]
    else:
        for rows, block in _blocks(x, 0, _PASS_BLOCK):
            out[rows] = block @ w
    return out


def _transposed_times(x: NDArray[Any], v: Vector) -> Vector:
    """Return ``x.T @ v`` in float64 for `v` of shape (n_samples, k), `x` converted block by block."""
    out = np.zeros((x.shape[1], v.shape[1]))
    if _is_fortran(x):
        for columns, block in _blocks(x, 1, _PASS_BLOCK):
            out[columns] = block.T @ v
    else:
        for rows, block in _blocks(x, 0, _PASS_BLOCK):
            out += block.T @ v[rows]
    return out


def _add_product(c: Vector, block: Vector, outer: bool, alpha: float = 1.0) -> Vector:
    """Add ``alpha * block @ block.T`` (or ``block.T @ block``) to Fortran `c` in place, lower half only."""
    # dsyrk wants Fortran order; a C-ordered block is its own transpose there, so nothing is copied.
    a, trans = (block, not outer) if block.flags.f_contiguous else (block.T, outer)
    result: Vector = dsyrk(alpha, a, beta=1.0, c=c, trans=int(trans), lower=1, overwrite_c=1)
    return result


class _Form(ABC):
    """One of the two forms: its unknowns p, scores f and the cached factor of the last active set."""

    def __init__(self, x: NDArray[Any], scale: float) -> None:
        self.x = x
        self.scale = scale
        self.singular = False  # whether the last factor needed a larger diagonal than it had
        self._key: Vector | None = None
        self._factor: Vector

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of unknowns."""

    @abstractmethod
    def scores(self, p: Vector) -> Vector:
        """Return f of p."""

    @abstractmethod
    def dot(self, p: Vector, other_p: Vector, other_f: Vector) -> float:
        """Return w·w' of p and p'."""

    @abstractmethod
    def weights(self, p: Vector) -> Vector:
        """Return w as rows (k, n_features + 1) of unknowns (k, size); the last column is the constant's."""

    @abstractmethod
    def _assemble(self, curvature: Vector) -> Callable[[], Vector]:
        """Return a builder of a fresh copy of the matrix to factor, for 2C on A and 0 elsewhere."""

    @abstractmethod
    def _correct(self, curvature: Vector, y: Vector, p: Vector, f: Vector) -> Vector:
        """Return p plus the factor's solution of the residual at (p, f)."""

    def newton_point(self, curvature: Vector, y: Vector) -> tuple[Vector, Vector]:
        """Return (p, f) of the minimiser of the quadratic with weights `curvature` = 2C on A, 0 elsewhere."""
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
        self._factor = np.empty((0, 0))  # let go of the old one before the new one is made
        ridge = 0.0
        while True:
            matrix = build()
            diagonal = np.diag_indices_from(matrix)
            if ridge > 1.0 or not np.isfinite(matrix[diagonal]).all():
                raise InputError(
                    "the squares of X times C add up to more than float64 holds: divide X by its largest"
                )
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
    """n_features > n_samples: the unknowns are a, the matrix is the Gram matrix."""

    def __init__(self, x: NDArray[Any], scale: float) -> None:
        super().__init__(x, scale)
        n = x.shape[0]
        self._gram = np.full((n, n), scale * scale, order="F")
        for _, block in _blocks(x, 1, _GRAM_BLOCK):
            self._gram = _add_product(self._gram, block, outer=True)

    @property
    def size(self) -> int:
        return len(self.x)

    def scores(self, p: Vector) -> Vector:
        result: Vector = dsymv(1.0, self._gram, p, lower=1)
        return result

    def dot(self, p: Vector, other_p: Vector, other_f: Vector) -> float:
        return float(p @ other_f)

    def weights(self, p: Vector) -> Vector:
        w = np.empty((len(p), self.x.shape[1] + 1))
        w[:, :-1] = _transposed_times(self.x, p.T).T
        w[:, -1] = self.scale * p.sum(axis=1)
        return w

    def _assemble(self, curvature: Vector) -> Callable[[], Vector]:
        active = np.flatnonzero(curvature)

        def build() -> Vector:
            # The transpose is C-ordered, as is what np.ix_ takes from it: both hold the lower triangle.
            matrix = self._gram.T[np.ix_(active, active)].T
            matrix[np.diag_indices_from(matrix)] += 1.0 / curvature[active]
            return matrix

        return build

    def _correct(self, curvature: Vector, y: Vector, p: Vector, f: Vector) -> Vector:
        active = np.flatnonzero(curvature)
        corrected = np.zeros_like(p)
        if active.size:
            residual = y[active] - f[active] - p[active] / curvature[active]
            corrected[active] = p[active] + self._solve(residual)
        return corrected


class _TallForm(_Form):
    """n_features <= n_samples: the unknowns are w with the constant's weight last, the matrix is H."""

    def __init__(self, x: NDArray[Any], scale: float) -> None:
        super().__init__(x, scale)
        self._h = np.empty((0, 0))
        self._h_curvature = np.zeros(x.shape[0])  # the weights that H holds now
        self._mass = math.inf  # trace of all that went into H; eps times it bounds the rounding error
        self._squares = np.full(x.shape[0], scale * scale)
        for rows, block in _blocks(x, 0, _PASS_BLOCK):
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
        """Add ``change_i x_i x_iᵀ`` over the rows `index`, all of whose changes have that sign."""
        step = max(1, _block_entries(self.x, _GRAM_BLOCK) // self.size)
        buffer = np.empty((min(step, len(index)), self.size))
        for start in range(0, len(index), step):
            rows = index[start : start + step]
            block = buffer[: len(rows)]
            block[:, :-1] = self.x[rows]
            block[:, -1] = self.scale
            block *= np.sqrt(np.abs(change[rows]))[:, np.newaxis]
            self._h = _add_product(self._h, block, outer=False, alpha=sign)

    def _correct(self, curvature: Vector, y: Vector, p: Vector, f: Vector) -> Vector:
        pull = curvature * (y - f)
        residual = -p
        residual[:-1] += _transposed_times(self.x, pull[:, np.newaxis])[:, 0]
        residual[-1] += self.scale * pull.sum()
        return p + self._solve(residual)


def _exact_step(slack: Vector, drop: Vector, curvature: Vector, along: float, length: float) -> float:
    """Return the t > 0 that minimises P on the segment.

    Row i has slack ``1 - y_i f_i = slack_i - t drop_i`` and weight `curvature` (2C for every row, active or
    not), and 1/2 |w|² has the derivative ``along + t length``.
    """
    weighted = curvature * drop

    def line(t: float) -> tuple[float, float]:
        active = slack - t * drop > 0
        pull = weighted[active]
        return along - float(pull @ slack[active]), length + float(pull @ drop[active])

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        breaks = slack / drop
    breaks = np.unique(breaks[np.isfinite(breaks) & (breaks > 0) & (curvature > 0)])
    low, high = 0, len(breaks)  # the first break at which P' >= 0
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
    """One class against the rest: labels, weights and the state of its Newton iteration."""

    def __init__(self, form: _Form, y: Vector, curvature: Vector) -> None:
        self.form = form
        self.y = y
        self.curvature = curvature  # 2C of every row
        self.p = np.zeros(form.size)
        self.f = np.zeros(len(y))
        self.n_iter = 0
        self.converged = False
        self.singular = False

    def begin_at(self, other: Problem) -> None:
        """Begin at the solution of a problem of the same form, which is near where its weights are."""
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
            # Nothing to gain: every further step would be this one. Is it small enough to be rounding?
            self.converged = True
            self.singular |= bool(moved > _STALL_TOLERANCE**2 * value)
            return
        self.p = self.p + t * dp
        self.f = self.f + t * df


def make_form(x: NDArray[Any], scale: float) -> _Form:
    """Return the smaller form for rows `x` (n_samples, n_features) and the constant feature `scale`."""
    return (_WideForm if x.shape[1] > x.shape[0] else _TallForm)(x, scale)
