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

The scores along the segment need only :math:`G`. The weights :math:`w = X^T a` and their true scores
:math:`X w` are formed at the end.

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

**Precision.** :math:`M` and :math:`H` are summed in float64 from blocks of columns or rows, and each Newton
point gets one step of iterative refinement. In the first form the residual of the refinement is computed from
:math:`X`, not from :math:`H`, because :math:`H` squares the condition number of :math:`X`; the rounding of
:math:`H` then drops out. For many rows, :math:`M` is an approximation at first, see :mod:`medvlad.svm.gram`
and :mod:`medvlad.svm.refinement`.

A Newton step :math:`d` can lower :math:`P` by at most :math:`\tfrac{1}{2} d^T H_A d`. If
:math:`d^T H_A d \le 10^{-24} \cdot 2 P(w)`, the step is rounding and the search ends. This settles rows whose
margin is exactly 1. If :math:`C |x|^2` is above about :math:`10^7`, rounding can be larger than that bound.
The search then ends when a step gains nothing, and a ConvergenceWarning is given if
:math:`d^T H_A d > 10^{-12} \cdot 2 P(w)`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad.svm.blocks import Vector
from medvlad.svm.forms import Form, TallForm
from medvlad.svm.wide_form import WideForm

__all__ = ["Problem", "check_memory", "exact_step", "make_form"]

# Bounds on the size of a step relative to sqrt(2 P(w)); see "Precision" above.
_ENERGY_TOLERANCE = 1e-12
_STALL_TOLERANCE = 1e-6


def exact_step(slack: Vector, drop: Vector, curvature: Vector, along: float, length: float) -> float:
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
    form : Form
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

    def __init__(self, form: Form, y: Vector, curvature: Vector) -> None:
        self.form = form
        self.y = y
        self.curvature = curvature
        self.p = np.zeros(form.size)
        self.f = np.zeros(len(y))
        self._offset = np.zeros(len(y))
        self.n_iter = 0
        self.converged = False
        self.singular = False

    def begin_at(self, other: Problem) -> None:
        """Start at the current iterate of a problem of the same form, to save steps if the two are close."""
        self.p, self.f, self._offset = other.p, other.f, other._offset

    def correct(self, scores: Vector) -> None:
        """Go on from the current iterate, whose true scores are given; see :mod:`medvlad.svm.refinement`."""
        self._offset = self._offset + (scores - self.f)
        self.f, self.converged = scores, False

    def restart(self, *, afresh: bool) -> None:
        """Start again, from zero or from the current iterate, after the form's matrix has become exact."""
        self.n_iter = 0
        if afresh:
            self.p = np.zeros_like(self.p)
        self._offset = np.zeros(len(self.y))
        self.f = self.form.scores(self.p)
        self.converged = self.singular = False

    def step(self) -> None:
        """Take one Newton step with exact line search."""
        form, y = self.form, self.y
        slack = 1.0 - y * self.f
        active = np.where(slack > 0, self.curvature, 0.0)
        p, f = form.newton_point(active, y - self._offset)
        f = f + self._offset
        self.n_iter += 1
        self.singular = form.singular
        dp, df = p - self.p, f - self.f
        length = max(form.dot(dp, dp, df), 0.0)
        moved = length + active @ (df * df)
        left = 1.0 - y * f
        same = np.array_equal(np.where(left > 0, self.curvature, 0.0), active)
        value = form.dot(p, p, f - self._offset) + active @ (left * left)
        if same or moved <= _ENERGY_TOLERANCE**2 * value:
            self.p, self.f, self.converged = p, f, True
            return
        t = exact_step(slack, y * df, self.curvature, form.dot(self.p, dp, df), length)
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


def make_form(x: NDArray[Any], scale: float) -> Form:
    """Return the form with the smaller matrix.

    Parameters
    ----------
    x : ndarray of float32 or float64, shape (n_samples, n_features)
        Rows, without the constant feature. They are not copied as a whole.
    scale : float
        Value of the constant feature, 0 for none.

    Returns
    -------
    Form
        For use in :class:`Problem`.
    """
    return (WideForm if x.shape[1] > x.shape[0] else TallForm)(x, scale)
