r"""Solve binary problems of the linear SVM, and certify the solution by its duality gap.

**Duality gap.** Let :math:`P(w)` be the function that :mod:`medvlad.svm.newton` minimises. For numbers
:math:`\alpha_i \ge 0`, with :math:`a_i = y_i \alpha_i`,

.. math::

   D(\alpha) = \sum_i \alpha_i - \tfrac{1}{2} |X^T a|^2 - \sum_i \frac{\alpha_i^2}{4 C_i}

is at most the minimum :math:`P(w^*)`: it is the value of the Lagrangian dual. Any weights :math:`w` and any
:math:`\alpha` therefore give :math:`0 \le P(w) - P(w^*) \le P(w) - D(\alpha)`, whatever computed them. With
the scores :math:`f = X w` and :math:`m_i = 1 - y_i f_i`, the difference is

.. math::

   P(w) - D(\alpha) = \tfrac{1}{2} |w - X^T a|^2 + \sum_i \varphi_i , \qquad
   \varphi_i = C_i \max(0, m_i)^2 - \alpha_i m_i + \frac{\alpha_i^2}{4 C_i} =
   \begin{cases} C_i (m_i - \alpha_i / 2 C_i)^2 & m_i \ge 0 \\
                 \alpha_i (\alpha_i / 4 C_i - m_i) & m_i < 0 . \end{cases}

No term is negative, so nothing cancels, and the gap can be far below the rounding of :math:`P`. The optimal
variables are :math:`\alpha_i = 2 C_i \max(0, m_i)`. Because :math:`P - \tfrac{1}{2} |w|^2` is convex,

.. math::

   \tfrac{1}{2} |w - w^*|^2 \le P(w) - P(w^*) \le P(w) - D(\alpha) .

So the gap bounds the error of the weights too. `dual_gap_` is the gap divided by :math:`P(w)`.

*With few features*, the unknowns are the weights. The variables are :math:`\alpha_i = 2 C_i \max(0, m_i)`, so
that all :math:`\varphi_i = 0`, and the gap is :math:`\tfrac{1}{2} |\nabla P(w)|^2`. *With many features*, the
unknowns are :math:`a`, and :math:`w = X^T a` except for rounding, so the gap is :math:`\sum_i \varphi_i`. In
both forms weights, scores and gap are computed in float64 from the rows themselves, never from a matrix of
their products.

**Refinement.** For large problems the matrix :math:`M` is only an approximation :math:`\tilde M`. The search
runs on it, with scores :math:`f = \tilde M a + \beta g + c` and :math:`c = 0` at first. One pass over the
rows then gives the true scores and the gap of the point that it found. While the gap is too large, the search
goes on with the :math:`c` that makes the scores of this point the true ones. This is iterative refinement: if
:math:`2 C |M - \tilde M|` is well below 1, the error of :math:`a` falls by about that factor in each round,
and the gap by its square. One round is usual.

Factors of the approximate matrix are in float32, which takes half the time. Each Newton point is corrected
with products of the matrix in float64 until it settles. If it does not, this and all later factors are in
float64.

The result is accepted if the relative gap of every problem is at most 1e-8. Rounds go on, as long as they
help, until it is at most 1e-10: the weights then differ from the exact ones by less than
:math:`1.5 \cdot 10^{-5} \sqrt{P(w)}`. If it stays above 1e-8, because :math:`C |x|^2` is large, :math:`M` is
computed in float64 and the search starts again from the point that was found, or from zero if no point was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from medvlad.svm.blocks import Vector
from medvlad.svm.forms import Form
from medvlad.svm.newton import Problem

__all__ = ["BOUND", "LEAST_GAIN", "WANTED", "Solution", "solve"]

# Relative duality gaps, see "Refinement" above.
BOUND = 1e-8
WANTED = 1e-10
# A round must lower the gap by this factor. Fewer rounds of float64 products are faster otherwise.
LEAST_GAIN = 4.0
# Newton steps on an approximate matrix. If a problem needs more, C |x|^2 is too large for it.
_MOST_FAST_STEPS = 30


class Solution(NamedTuple):
    """Weights (k, n_features + 1), their true scores (k, n_samples), and the largest relative gap."""

    weights: Vector
    scores: Vector
    gap: float


def solve(form: Form, problems: Sequence[Problem], max_iter: int, order: Iterable[int]) -> Solution:
    """Solve the problems, which share a form, with at most `max_iter` Newton steps for each.

    `order` is that of the first steps.
    """
    for k in order:
        problems[k].step()
    steps = max_iter if form.is_exact else min(max_iter, _MOST_FAST_STEPS)
    solution = _search(form, problems, steps)
    while not form.is_exact:
        ran_out = not all(problem.converged for problem in problems)
        if ran_out and steps == max_iter:
            break
        is_sound = not (ran_out or any(problem.singular for problem in problems))
        if is_sound and solution.gap <= WANTED:
            break
        if is_sound:
            before = solution
            for problem, scores in zip(problems, solution.scores, strict=True):
                problem.correct(scores)
            found = _search(form, problems, steps)
            solution = found if found.gap < before.gap else before
            if found.gap * LEAST_GAIN <= before.gap and found.gap > WANTED:
                continue
            if solution.gap <= BOUND:
                for problem in problems:
                    problem.converged = True  # also if steps ran out in this round
                break
        form.make_exact()
        afresh = not all(problem.converged for problem in problems)
        for problem in problems:
            problem.restart(afresh=afresh)
        solution = _search(form, problems, max_iter)
    return solution


def _search(form: Form, problems: Sequence[Problem], max_iter: int) -> Solution:
    """Take Newton steps until all problems have converged, and compute what they have found."""
    for problem in problems:
        while not problem.converged and problem.n_iter < max_iter:
            problem.step()
    p = np.stack([problem.p for problem in problems])
    y = np.stack([problem.y for problem in problems])
    curvature = np.stack([problem.curvature for problem in problems])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        found = form.evaluate(p)
        dual, distance = form.dual(p, found, y, curvature)
        margin = 1.0 - y * found.scores
        wanted = np.where(curvature > 0, dual / np.where(curvature > 0, curvature, 1.0), 0.0)
        above = 0.5 * curvature * (margin - wanted) ** 2
        below = dual * (0.5 * wanted - margin)
        gap = 0.5 * distance**2 + np.where(margin >= 0, above, below).sum(axis=1)
        loss = 0.5 * curvature * np.maximum(0.0, margin) ** 2
        value = 0.5 * np.einsum("ij,ij->i", found.weights, found.weights) + loss.sum(axis=1)
        relative = np.where(gap == 0, 0.0, gap / value)
    return Solution(*found, float(relative.max()))
