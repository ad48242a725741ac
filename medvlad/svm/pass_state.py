"""State of the SVM solver by passes: what a pass needs from the ones before it, and its checkpoint file."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from medvlad._util.atomic_file import new_file, remove_parts
from medvlad._util.validate import InputError, check_output_file
from medvlad.svm.blocks import Vector
from medvlad.svm.row_source import Rows, fingerprint

__all__ = ["CURVATURE", "DONE", "GRADIENT", "Checkpoint", "State", "digest_of_problem"]

#: What the next pass computes for a class.
GRADIENT, CURVATURE, DONE = 0, 1, 2
_FORMAT = "medvlad svm checkpoint 2"


@dataclass
class State:
    """Everything that changes from pass to pass, for k binary problems.

    Attributes
    ----------
    weights, step, direction, residual : ndarray of float64, shape (k, n_features + 1)
        Current point, step of the conjugate gradients so far, their direction and residual.
    scores, step_scores : ndarray of float64, shape (n_samples, k)
        Products of the rows with `weights` and `step`.
    phase : ndarray of int64, shape (k,)
        `GRADIENT`, `CURVATURE` or `DONE`.
    n_iter, n_inner : ndarray of int64, shape (k,)
        Number of Newton steps, and of conjugate gradients in the present one.
    is_exact, converged, singular : ndarray of bool, shape (k,)
        Whether all products are in float64; whether the gap is reached; whether rounding ended the search.
    gap, value : ndarray of float64, shape (k,)
        Relative duality gap and P at the last gradient.
    share, energy, target : ndarray of float64, shape (k,)
        Share of the weights that is active, residual times direction, and wanted length of the residual.
    basis, eigenvalues : ndarray of float64, shapes (n_features + 1, r) and (r,)
        The preconditioner. Empty before the first pass.
    n_passes : ndarray of int64, shape ()
        Number of passes so far.
    """

    weights: Vector
    step: Vector
    direction: Vector
    residual: Vector
    scores: Vector
    step_scores: Vector
    phase: NDArray[np.int64]
    n_iter: NDArray[np.int64]
    n_inner: NDArray[np.int64]
    is_exact: NDArray[np.bool_]
    converged: NDArray[np.bool_]
    singular: NDArray[np.bool_]
    gap: Vector
    value: Vector
    share: Vector
    energy: Vector
    target: Vector
    basis: Vector
    eigenvalues: Vector
    n_passes: NDArray[np.int64]

    @classmethod
    def at(cls, weights: Vector, n_samples: int) -> Self:
        """Return the state before the first pass, at the given weights (k, n_features + 1)."""
        k = len(weights)
        return cls(
            weights=weights.copy(),
            step=np.zeros_like(weights),
            direction=np.zeros_like(weights),
            residual=np.zeros_like(weights),
            scores=np.zeros((n_samples, k)),
            step_scores=np.zeros((n_samples, k)),
            phase=np.full(k, GRADIENT),
            n_iter=np.zeros(k, np.int64),
            n_inner=np.zeros(k, np.int64),
            is_exact=np.zeros(k, np.bool_),
            converged=np.zeros(k, np.bool_),
            singular=np.zeros(k, np.bool_),
            gap=np.full(k, np.inf),
            value=np.full(k, np.inf),
            share=np.ones(k),
            energy=np.zeros(k),
            target=np.zeros(k),
            basis=np.empty((0, 0)),
            eigenvalues=np.empty(0),
            n_passes=np.zeros((), np.int64),
        )


def digest_of_problem(source: Rows, signed: Vector, *settings: Any) -> str:
    """Return what a checkpoint belongs to: rows, labels, weights and settings.

    Of the rows, shape, type and 64 evenly spaced ones count, because reading all of them takes a pass. So
    :meth:`medvlad.svm.pass_solver.PassSolver.holds` measures gaps again that a checkpoint claims.
    """
    digest = hashlib.blake2b(f"{fingerprint(source)} {settings}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(signed).data)
    return digest.hexdigest()


class Checkpoint:
    """File with the state of a solver. It is replaced atomically after each pass.

    Temporary files that a killed process has left are removed.

    Parameters
    ----------
    path : Path
    digest : str
        From :func:`digest_of_problem`.

    Raises
    ------
    InputError
        If the file cannot be written there, or is no checkpoint.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.path = check_output_file(path, "checkpoint", may_replace=_is_checkpoint)
        self._digest = digest
        remove_parts(self.path.resolve())

    def write(self, state: State) -> None:
        """Replace the file."""
        arrays = {one.name: getattr(state, one.name) for one in fields(State)}
        with new_file(self.path, "checkpoint") as file:
            np.savez(file, format=np.array(_FORMAT), problem=np.array(self._digest), **arrays)

    def read(self) -> State | None:
        """Return the state in the file. None: there is no file.

        Raises
        ------
        InputError
            If the file belongs to another problem, or is damaged.
        """
        if not self.path.is_file():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                problem = str(file["problem"])
                state = State(**{one.name: file[one.name] for one in fields(State)})
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(
                f"the checkpoint {self.path} is damaged ({error}): remove it, or give another path"
            ) from error
        if problem != self._digest:
            raise self.of_others()
        return state

    def of_others(self) -> InputError:
        """Return the error for a file that belongs to another problem."""
        return InputError(
            f"the checkpoint {self.path} belongs to other rows, labels or settings: remove it, or give "
            "another path"
        )

    def remove(self) -> None:
        """Remove the file after the work is done."""
        self.path.unlink(missing_ok=True)


def _is_checkpoint(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive, archive.open("format.npy") as entry:
            return str(_array(entry)) == _FORMAT
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return False


def _array(entry: IO[bytes]) -> Any:
    return np.lib.format.read_array(entry, allow_pickle=False)
