r"""Solve the linear SVM by passes over the rows: for sizes at which no square matrix fits into memory.

**Problem.** That of :mod:`medvlad.svm.newton`. The Newton point of an active set :math:`A` solves
:math:`H_A \, \Delta = -\nabla P(w)`, and :math:`H_A` is never formed: conjugate gradients need only products

.. math::

   H_A d = d + \sum_{i \in A} c_i (x_i \cdot d) \, x_i , \qquad c_i = 2 C_i ,

and a product is one pass over the rows (Keerthi & DeCoste, JMLR 6, 2005; Lin, Weng & Keerthi, JMLR 9, 2008).

**One pass serves all classes.** Each pass reads a chunk of rows once and multiplies it with one vector of
each class: the direction :math:`d` of a class in the middle of its conjugate gradients, or the weights
:math:`w` of a class that needs a new gradient (:mod:`medvlad.svm.row_pass`). Classes do not wait for each
other, and the passes end with the slowest class.

**Steps.** The conjugate gradients end when the residual is :math:`\eta = 0.1` of the gradient, or small
enough for the wanted gap. The pass gave :math:`x_i \cdot d`, so the scores along the step are known, and the
exact line search of :mod:`medvlad.svm.newton` costs no pass. The preconditioner is that of
:mod:`medvlad.svm.preconditioner`.

**Precision.** Products with directions are in the type of the rows, sums over chunks in float64. Scores and
gradient at :math:`w` are computed from the rows in float64 throughout. So rounding in a direction makes the
step less good, never the certificate. If a step gains nothing, the class goes on with products in float64.

**Certificate.** At the variables :math:`\alpha_i = c_i \max(0, 1 - y_i f_i)`, the duality gap of
:mod:`medvlad.svm.refinement` is :math:`\tfrac{1}{2} |\nabla P(w)|^2`. Any multiple of :math:`\alpha` is
allowed too. With :math:`v = X^T a` the best one gives

.. math::

   D = \frac{(\sum_i \alpha_i)^2}{2 \left( |v|^2 + \sum_i \alpha_i^2 / c_i \right)} ,

and the gap is the smaller of the two. A class is done when its gap is at most `tol` times :math:`P(w)`. Then
:math:`P(w) \le P(w^*) / (1 - tol)` and :math:`|w - w^*|^2 \le 2 \, tol \, P(w)`.

**Resuming.** The state after each pass is a pure function of the state before it and of the rows. It is
written to the checkpoint atomically, so a run that was killed ends with the same weights, bit for bit. The
gaps of classes that were done are measured once more, because the rows may have changed meanwhile.

**Why not dual coordinate descent.** Block minimisation (Yu, Hsieh, Chang & Lin, KDD 2010) changes the weights
after each block of rows, so blocks of one pass cannot be computed by several workers.
"""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvlad._util.blas_threads import single_threaded_blas
from medvlad._util.passes import ClusterOfWorkers, Runner, run_here
from medvlad._util.progress import progress_bar
from medvlad._util.validate import InputError
from medvlad.svm import preconditioner
from medvlad.svm.blocks import Vector
from medvlad.svm.forms import TOO_LARGE
from medvlad.svm.newton import exact_step
from medvlad.svm.pass_state import CURVATURE, DONE, GRADIENT, Checkpoint, State
from medvlad.svm.row_pass import CHUNK_BYTES, Columns, RowsJob, cut
from medvlad.svm.row_source import Rows

__all__ = ["PassSolver", "memory_of_passes"]

logger = logging.getLogger(__name__)

#: Conjugate gradients end when the residual is this part of the gradient.
_FORCING = 0.1
_MOST_INNER = 200
#: Work arrays of BLAS for each thread that calls it.
_BLAS_BUFFER = 32 << 20
#: The difference P - D has lost its digits below this part of P.
_CANCELS = 1e-9
#: A gap that is measured again may be larger by this factor, because of rounding.
_REPEATS = 1.001


class _Group(NamedTuple):
    """Problems whose columns have one dtype in a pass."""

    problems: NDArray[np.intp]
    columns: Columns
    weights: Vector
    lengths: Vector  # factors that the columns were divided by


def memory_of_passes(
    n_samples: int, n_features: int, n_problems: int, n_threads: int, runner: Runner = run_here
) -> int:
    """Return about how many bytes :class:`PassSolver` needs in this process."""
    size = n_features + 1
    rank = preconditioner.rank_for(n_samples, size)
    each_row = 8 * 9 * n_samples * n_problems
    each_feature = 8 * size * (8 * n_problems + 8 * rank)
    if isinstance(runner, ClusterOfWorkers):
        return each_row + each_feature + runner.most_waiting * 8 * (rank + 2 * n_problems) * size
    results = (n_threads + 3) * (4 * rank + 8 * n_problems) * size
    chunks = n_threads * (max(3 * CHUNK_BYTES, 24 * n_features) + _BLAS_BUFFER)
    return each_row + each_feature + results + chunks


class PassSolver:
    """Newton's method with conjugate gradients for binary problems on the same rows.

    Parameters
    ----------
    source : Rows
    signed : ndarray of float64, shape (n_samples, k)
        2C of each row in each problem, with the sign of its label. 0: the row does not count.
    scale : float
        Value of the constant feature, 0 for none.
    tol : float
        Bound on the relative duality gap.
    max_iter : int
        Maximum number of Newton steps for each problem.
    runner : Runner
        What carries out a pass.
    """

    def __init__(
        self,
        source: Rows,
        signed: Vector,
        scale: float,
        *,
        tol: float,
        max_iter: int,
        runner: Runner = run_here,
    ) -> None:
        self._source, self._signed, self._scale = source, signed, scale
        self._tol, self._max_iter, self._runner = tol, max_iter, runner
        self._ranges = cut(source)
        self._omega: Vector = np.empty((0, 0))

    def solve(self, state: State, checkpoint: Checkpoint | None = None) -> State:
        """Take passes until all problems are done, and return the last state.

        Raises
        ------
        InputError
            If X is not finite, or too large for float64.
        """
        n_rows = self._source.shape[0]
        shown = False if isinstance(self._runner, ClusterOfWorkers) else None  # it shows progress itself
        # One thread of BLAS, so that the bits do not depend on the number of processors.
        with single_threaded_blas():
            while (state.phase != DONE).any():
                stage = f"linear SVM, pass {int(state.n_passes) + 1}"
                with progress_bar(n_rows, stage, shown) as bar:
                    self._take_pass(state, bar, stage)
                gap, open_ = float(state.gap.max()), np.count_nonzero(state.phase != DONE)
                logger.info(
                    "linear SVM: pass %d, relative duality gap %.3g, %d of %d problems to go on with",
                    state.n_passes,
                    gap,
                    open_,
                    len(state.gap),
                )
                if checkpoint is not None:
                    checkpoint.write(state)
        return state

    def holds(self, state: State) -> bool:
        """Return whether the problems of a stored state that are done still have their gaps. Takes a pass."""
        done = np.flatnonzero(state.phase == DONE)
        again = State.at(state.weights[done], self._source.shape[0])
        again.n_passes, again.n_iter[:] = state.n_passes, self._max_iter
        settings: dict[str, Any] = {"tol": self._tol, "max_iter": self._max_iter, "runner": self._runner}
        PassSolver(self._source, self._signed[:, done], self._scale, **settings).solve(again)
        return bool((again.gap <= _REPEATS * np.maximum(self._tol, state.gap[done])).all())

    def _take_pass(self, state: State, bar: Any, stage: str) -> None:
        groups = self._groups(state)
        is_first = int(state.n_passes) == 0
        shared, weights = [one.columns for one in groups], [one.weights for one in groups]
        if is_first:
            self._add_sketch(shared, weights)
        keep = tuple(j < len(groups) for j in range(len(shared)))
        jobs = [
            RowsJob(self._source.part(a, b), a, b, self._scale, [one[a:b] for one in weights], keep, stage)
            for a, b in self._ranges
        ]
        products = [np.empty(one.weights.shape) for one in groups]
        sums: list[Vector] = [np.zeros(one.vectors.shape) for one in shared]
        for (start, stop), part in zip(self._ranges, self._runner(shared, jobs), strict=True):
            for j, product in enumerate(products):
                product[start:stop] = part.products[j]
            for total, added in zip(sums, part.sums, strict=True):
                total += added
            bar.update(stop - start)
        if not all(np.isfinite(one).all() for one in sums):
            raise InputError(TOO_LARGE)
        state.n_passes = state.n_passes + 1
        if is_first:
            eps = float(np.finfo(shared[-1].vectors.dtype).eps)
            if shared[-1].vectors.shape[1]:
                state.basis, state.eigenvalues = preconditioner.nystrom(self._omega, sums[-1], eps)
            self._omega = np.empty((0, 0))
        for group, product, total in zip(groups, products, sums, strict=False):
            for j, k in enumerate(group.problems):
                if state.phase[k] == GRADIENT:
                    self._gradient(state, k, product[:, j], total[:, j])
                else:
                    length = group.lengths[j]
                    self._curvature(state, k, length * product[:, j], length * total[:, j])

    def _groups(self, state: State) -> list[_Group]:
        """Return the columns of the next pass: those in float64, and those in the type of the rows."""
        is_gradient = state.phase == GRADIENT
        fast = (state.phase == CURVATURE) & ~state.is_exact
        groups = []
        for members, dtype in (
            (is_gradient | ((state.phase == CURVATURE) & state.is_exact), np.dtype(np.float64)),
            (fast, self._source.dtype),
        ):
            problems = np.flatnonzero(members)
            if not len(problems):
                continue
            signed, gradient = self._signed[:, problems], is_gradient[problems]
            vectors = np.where(gradient[:, np.newaxis], state.weights[problems], state.direction[problems])
            lengths = np.ones(len(problems))
            lengths[~gradient] = np.abs(vectors[~gradient]).max(axis=1)
            vectors = np.ascontiguousarray((vectors / lengths[:, np.newaxis]).T.astype(dtype))
            for j in np.flatnonzero(~gradient):
                is_active = np.sign(signed[:, j]) * state.scores[:, problems[j]] < 1.0
                signed[:, j] = np.where(is_active, np.abs(signed[:, j]), 0.0)
            groups.append(_Group(problems, Columns(vectors, gradient), signed, lengths))
        return groups

    def _add_sketch(self, shared: list[Columns], weights: list[Vector]) -> None:
        """Add the random columns of the preconditioner to the first pass."""
        size = self._source.shape[1] + 1
        rank = preconditioner.rank_for(self._source.shape[0], size)
        self._omega = preconditioner.random_columns(size, rank)
        shared.append(Columns(self._omega.astype(self._source.dtype), np.zeros(rank, np.bool_)))
        mean = np.abs(self._signed).mean(axis=1)
        weights.append(mean[:, np.newaxis])

    def _gradient(self, state: State, k: int, scores: Vector, pulled: Vector) -> None:
        """Measure the gap at the weights of problem `k`, and begin the next step unless it is done."""
        w, signed = state.weights[k], self._signed[:, k]
        curvature, margin = np.abs(signed), np.maximum(0.0, 1.0 - np.sign(signed) * scores)
        state.scores[:, k] = scores
        dual = curvature * margin
        loss = float(dual @ margin)  # twice the loss
        gradient = w - pulled
        square = float(gradient @ gradient)
        value = 0.5 * (float(w @ w) + loss)
        below = float(pulled @ pulled) + loss
        scaled = value - (0.5 * float(dual.sum()) ** 2 / below if below > 0 else 0.0)
        gap = min(0.5 * square, scaled) if scaled > _CANCELS * value else 0.5 * square
        state.value[k] = value
        state.gap[k] = gap / value if gap > 0 else 0.0
        if state.gap[k] <= self._tol or state.n_iter[k] >= self._max_iter or state.singular[k]:
            state.phase[k] = DONE
            state.converged[k] = state.gap[k] <= self._tol
            return
        total = float(np.abs(self._signed).sum()) / self._signed.shape[1]
        state.share[k] = float(curvature @ (margin > 0)) / total
        wanted = 0.5 * math.sqrt(2.0 * self._tol * value)
        state.target[k] = max(_FORCING * math.sqrt(square), wanted)
        state.residual[k], state.step[k], state.step_scores[:, k] = -gradient, 0.0, 0.0
        towards = self._precondition(state, k)
        state.direction[k], state.energy[k] = towards, float(state.residual[k] @ towards)
        state.n_inner[k], state.phase[k] = 0, CURVATURE

    def _curvature(self, state: State, k: int, along: Vector, bent: Vector) -> None:
        """Take one step of the conjugate gradients of problem `k`, and the Newton step if they end."""
        direction = state.direction[k]
        bent = direction + bent
        length = state.energy[k] / float(direction @ bent)
        state.step[k] += length * direction
        state.step_scores[:, k] += length * along
        state.residual[k] -= length * bent
        state.n_inner[k] += 1
        rest = float(np.linalg.norm(state.residual[k]))
        if rest > state.target[k] and state.n_inner[k] < _MOST_INNER:
            towards = self._precondition(state, k)
            energy = float(state.residual[k] @ towards)
            state.direction[k] = towards + energy / state.energy[k] * direction
            state.energy[k] = energy
            return
        w, step, signed = state.weights[k], state.step[k], self._signed[:, k]
        y = np.sign(signed)
        t = exact_step(
            1.0 - y * state.scores[:, k],
            y * state.step_scores[:, k],
            np.abs(signed),
            float(w @ step),
            float(step @ step),
        )
        state.n_iter[k] += 1
        state.phase[k] = GRADIENT
        if t == 0.0:  # the step gains nothing, because of rounding
            state.singular[k], state.is_exact[k] = state.is_exact[k], True
        state.weights[k] = w + t * step

    def _precondition(self, state: State, k: int) -> Vector:
        return preconditioner.apply(state.basis, state.eigenvalues, float(state.share[k]), state.residual[k])
