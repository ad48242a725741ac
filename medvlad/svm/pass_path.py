"""Choose between a square matrix and passes for a linear SVM, and solve for several C by passes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from medvlad._util.byte_sizes import check_bytes, in_words
from medvlad._util.passes import Runner, run_here
from medvlad._util.processors import usable_processors
from medvlad._util.validate import InputError, check_choice, check_interval, check_local
from medvlad.svm.blocks import BLAS_WORK, GRAM_BLOCK, Vector
from medvlad.svm.pass_solver import PassSolver, memory_of_passes
from medvlad.svm.pass_state import Checkpoint, State, digest_of_problem
from medvlad.svm.row_source import rows_of

__all__ = ["MOST_SIDE", "Outcome", "Passes", "Solved", "choose_way", "memory_of_gram", "solve_by_passes"]

logger = logging.getLogger(__name__)

#: Largest side of the square matrix with which ``solver="auto"`` solves.
MOST_SIDE = 20_000


class Passes(NamedTuple):
    """How to solve by passes.

    Attributes
    ----------
    tol : float
        Bound on the relative duality gap.
    memory : int or None
        Limit in bytes.
    checkpoint : Path or None
    runner : Runner
    """

    tol: float
    memory: int | None
    checkpoint: Path | None
    runner: Runner


class Outcome(Protocol):
    """What a solver says about a binary problem; see :class:`medvlad.svm.newton.Problem`."""

    n_iter: int
    converged: bool
    singular: bool


class _Problem(NamedTuple):
    n_iter: int
    converged: bool
    singular: bool


class Solved(NamedTuple):
    """Weights (k, n_features + 1), the largest relative gap, and what happened."""

    weights: Vector
    gap: float
    problems: Sequence[Any]
    n_passes: int


def memory_of_gram(n_samples: int, n_features: int) -> int:
    """Return about how many bytes the solver with a square matrix needs: the matrix, its factor, blocks."""
    size = min(n_samples, n_features + 1)
    return 2 * 8 * size * size + 8 * min(2 * GRAM_BLOCK, n_samples * n_features) + BLAS_WORK


def choose_way(
    solver: Any, tol: Any, memory: Any, checkpoint: Any, X: Any, runner: Runner | None
) -> Passes | None:
    """Return how to solve by passes, None for a square matrix.

    Parameters
    ----------
    solver, tol, memory, checkpoint
        Parameters of :class:`medvlad.WideLinearSVC`.
    X : array-like of shape (n_samples, n_features)
    runner : Runner or None
        From `fit`. None: this process.

    Raises
    ------
    InputError
        If a parameter is out of range, or the square matrix does not fit into `memory`.
    """
    check_choice(solver, "solver", ("auto", "gram", "passes"))
    limit = None if memory is None else check_bytes(memory, "memory")
    path = None
    if checkpoint is not None:
        if not isinstance(checkpoint, str | os.PathLike):
            raise InputError(f"checkpoint must be a path or None, got {checkpoint!r}")
        path = check_local(checkpoint, "the checkpoint")
    passes = Passes(check_interval(tol, "tol", 0.0, 1.0), limit, path, runner or run_here)
    place = "in this process" if runner is None or runner is run_here else "by the workers"
    if solver == "passes":
        logger.info("linear SVM: passes over the rows %s, because of solver='passes'", place)
        return passes
    shape: tuple[int, ...] = ()
    with suppress(TypeError, ValueError):  # rows of different lengths are refused later
        shape = np.shape(X)
    if len(shape) != 2:
        return None
    needed = memory_of_gram(shape[0], shape[1])
    fits = limit is None or needed <= limit
    if solver == "gram" and not fits:
        raise InputError(
            f"solver='gram' needs {in_words(needed)} for {shape[0]} rows of {shape[1]} features and memory "
            f"allows {in_words(limit or 0)}: raise memory, or use solver='passes'"
        )
    side = min(shape[0], shape[1] + 1)
    if solver == "gram" or (fits and side <= MOST_SIDE):
        why = "of solver='gram'" if solver == "gram" else f"its side is at most {MOST_SIDE:,}"
        logger.info("linear SVM: a square matrix of side %d in this process, because %s", side, why)
        return None
    if fits:
        why = f"a square matrix would have a side of {side:,}, and the limit is {MOST_SIDE:,}"
    else:
        why = f"a square matrix needs {in_words(needed)} and memory allows {in_words(limit or 0)}"
    logger.info("linear SVM: passes over the rows %s, because %s", place, why)
    return passes


def solve_by_passes(
    x: NDArray[Any],
    problems: Iterable[list[tuple[Vector, Vector]]],
    penalties: Sequence[float],
    scale: float,
    max_iter: int,
    passes: Passes,
) -> Iterator[Solved]:
    """Yield the solution for each C. Each begins at the solution of the one before it.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
    problems : iterable of list
        For each C, y (1 or -1) and 2C times the weight of each row, for each binary problem.
    penalties : sequence of float
    scale : float
        Value of the constant feature.
    max_iter : int
    passes : Passes

    Raises
    ------
    InputError
        If the memory is too small, or the checkpoint belongs to another problem.
    """
    source = rows_of(x)
    weights, written = np.zeros((0, 0)), []
    for number, binary in enumerate(problems):
        k = len(binary)
        _check_memory(*source.shape, k, passes)
        signed = np.empty((len(x), k))
        for j, (y, curvature) in enumerate(binary):
            np.multiply(y, curvature, out=signed[:, j])
        binary.clear()
        if not weights.size:
            weights = np.zeros((k, source.shape[1] + 1))
        state, checkpoint = State.at(weights, len(x)), None
        if passes.checkpoint is not None:
            path = passes.checkpoint
            path = path if len(penalties) == 1 else path.with_name(f"{path.name}.{number}")
            digest = digest_of_problem(source, signed, scale, max_iter, passes.tol, weights.sum())
            checkpoint = Checkpoint(path, digest)
            written.append(checkpoint)
            state = checkpoint.read() or state
        solver = PassSolver(source, signed, scale, tol=passes.tol, max_iter=max_iter, runner=passes.runner)
        if checkpoint is not None and not solver.holds(state):
            raise checkpoint.of_others()
        state = solver.solve(state, checkpoint)
        weights = state.weights
        outcomes = [
            _Problem(int(n), bool(converged), bool(singular))
            for n, converged, singular in zip(state.n_iter, state.converged, state.singular, strict=True)
        ]
        yield Solved(weights, float(state.gap.max()), outcomes, int(state.n_passes))
    for checkpoint in written:
        checkpoint.remove()


def _check_memory(n_samples: int, n_features: int, n_problems: int, passes: Passes) -> None:
    limit, n_threads = passes.memory, usable_processors().number
    needed = memory_of_passes(n_samples, n_features, n_problems, n_threads, passes.runner)
    if limit is not None and needed > limit:
        raise InputError(
            f"the passes need {in_words(needed)} for {n_samples} rows of {n_features} features and "
            f"{n_problems} problems, and memory allows {in_words(limit)}: raise memory"
        )
