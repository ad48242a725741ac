"""Backends: several implementations of one interface. This file chooses between them.

In: descriptors, image offsets and centres, checked by :mod:`medvlad.descriptors.checks`, except that
`assign`, `aggregate` and `encode` themselves find descriptors that are not finite, while they read them. Out:
labels, residuals and VLAD vectors. The functions, which :class:`Backend` describes in full, are::

    assign(x, centers)             -> labels (N,) int32
    aggregate(x, offsets, centers) -> residuals (B, K, D) float32, counts (B, K) int64
    encode(x, offsets, centers)    -> (B, K * D) float32
    encode_weighted(x, offsets, centers, cells, weights, normalisation) -> (B, K * D) float32
    center_distances(x, centers)   -> squared distances (N, K) float64
    for k-means: squared_distances, seeding, place, take, column_sums

    reference   NumPy in float64: the specification
    native      the C++ core on the CPU
    cuda        kernels on a GPU; host arrays are copied there and back

``"auto"`` chooses cuda for arrays on a GPU. For arrays in host memory it takes the backend named by the
environment variable MEDVLAD_BACKEND. If that is not set, it takes native, or reference with one warning if
native was not built. It never moves host arrays to a GPU, so results do not change when a machine gets one.
Labels are the same on every backend.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, check_choice, one_line
from medvlad.backends.normalise import Normalisation
from medvlad.backends.seeding import Seeding
from medvlad.backends.shifted_rows import ShiftedRows
from medvlad.descriptors.gpu_array import GpuArray

__all__ = [
    "BACKENDS",
    "Backend",
    "ShiftedRows",
    "add_gram",
    "available_backends",
    "backend_state",
    "get_backend",
]

logger = logging.getLogger(__name__)


class Backend(Protocol):
    """Functions that every backend module provides.

    `x` is an ndarray of float32 (N, D), for cuda also a GpuArray. :mod:`medvlad.backends.reference` documents
    every parameter.
    """

    def assign(
        self,
        x: Any,
        centers: NDArray[np.float32],
        *,
        offsets: NDArray[np.int64] | None = None,
        n_threads: int,
    ) -> Any:
        """Return the index of the nearest centre of each row."""

    def aggregate(
        self,
        x: Any,
        offsets: NDArray[np.int64],
        centers: NDArray[np.float32],
        *,
        n_threads: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the summed residuals and the number of descriptors in each cell of each image."""

    def encode(
        self,
        x: Any,
        offsets: NDArray[np.int64],
        centers: NDArray[np.float32],
        *,
        power: float,
        intra_norm: bool,
        l2_norm: bool,
        n_threads: int,
        out: Any = None,
        labels_out: Any = None,
        counts_out: Any = None,
    ) -> Any:
        """Return the normalised VLAD of each image. Fill the optional outputs that are given.

        Vectors without norm that are beyond float32 are an InputError.
        """

    def encode_weighted(
        self,
        x: Any,
        offsets: NDArray[np.int64],
        centers: NDArray[np.float32],
        cells: Any,
        weights: Any,
        normalisation: Normalisation,
        *,
        n_threads: int,
        scales: Any = None,
        masses_out: NDArray[np.float64] | None = None,
    ) -> Any:
        """Return the VLAD of each image from rows whose cells, weights and scales (N, r) are known."""

    def squared_distances(
        self,
        x: Any,
        centers: NDArray[np.float32],
        labels: Any,
        *,
        n_threads: int,
    ) -> Any:
        """Return the squared distance of each row to the centre of its label, or of each of its r labels."""

    def center_distances(self, x: Any, centers: NDArray[np.float32], *, n_threads: int) -> Any:
        """Return the squared distances of each row to all centres."""

    def seeding(self, x: Any, rows: NDArray[np.int64] | None = None, *, n_threads: int) -> Seeding:
        """Return the state of k-means++ among rows of placed descriptors, before the first seed."""

    def place(self, x: Any) -> Any:
        """Move descriptors to the memory of the backend, to use them in many calls."""

    def take(self, x: Any, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return a copy, in host memory, of rows of placed descriptors."""

    def column_sums(self, x: Any, *, n_threads: int) -> NDArray[np.float64]:
        """Return the sum of placed descriptors, feature by feature, in float64."""


def _describe_reference() -> str:
    return "ok"


def _describe_native() -> str:
    from medvlad.backends import native

    return f"ok: {native.level()}"


def _describe_cuda() -> str:
    from medvlad.backends import cuda

    return cuda.describe()


#: Backend name -> function that returns "ok..." or raises an error with the reason why it cannot run here.
_DESCRIBE: dict[str, Callable[[], str]] = {
    "reference": _describe_reference,
    "native": _describe_native,
    "cuda": _describe_cuda,
}

#: Names of the backends, slowest first.
BACKENDS = tuple(_DESCRIBE)


def available_backends() -> dict[str, str]:
    """Return the name of each backend and its state on this machine.

    Returns
    -------
    dict of str to str
        The state is "ok", with details, or "cannot run: " and the reason. Devices are asked anew on every
        call.

    Examples
    --------
    >>> available_backends()["reference"]
    'ok'
    """
    return {name: backend_state(name) for name in BACKENDS}


def backend_state(name: str) -> str:
    """Return the state of one backend, as :func:`available_backends` does. No other backend is asked.

    Parameters
    ----------
    name : str
        One of BACKENDS.
    """
    try:
        return _DESCRIBE[name]()
    except Exception as error:  # whatever an optional package or a driver raises
        return f"cannot run: {_reason(error)}"


def _reason(error: Exception) -> str:
    """Return why a backend cannot run, on one line."""
    if isinstance(error, ImportError | InputError):
        return one_line(error)
    return f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")


def get_backend(name: str = "auto", x: Any = None) -> Backend:
    """Return the backend called `name`.

    Whether a backend can run is decided once per process. A backend that cannot run is asked again.

    Parameters
    ----------
    name : str, default="auto"
        "auto", or one of BACKENDS.
    x : ndarray or GpuArray, optional
        The descriptors. "auto" depends on the memory that they are in.

    Raises
    ------
    InputError
        If there is no such backend, if it cannot run here, or if `x` is on a GPU and the backend is not
        "cuda".
    """
    if isinstance(x, GpuArray):
        if name not in ("auto", "cuda"):
            check_choice(name, "backend", ("auto", *BACKENDS))
            raise InputError(
                f"the descriptors are on a GPU and backend={name!r} is not: copy them to the host"
            )
        name = "cuda"
    if name == "auto":
        name = check_choice(
            os.environ.get("MEDVLAD_BACKEND") or "auto", "MEDVLAD_BACKEND", ("auto", *BACKENDS)
        )
        name = _best_backend() if name == "auto" else name
    check_choice(name, "backend", ("auto", *BACKENDS))
    try:
        return _usable(name, os.getpid())
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"backend {name!r} cannot run here: {_reason(error)}; use another one ('medvlad doctor' lists "
            "them)"
        ) from error


def add_gram(rows: ShiftedRows, gram: NDArray[np.float64], *, n_threads: int) -> bool:
    """Add approximate products of rows to a matrix, if this machine has instructions for it.

    Parameters
    ----------
    rows : ShiftedRows
    gram : ndarray of float64, shape (n, n)
        Entries (i, j) with i <= j get ``z_i . z_j``, with an error of about 2^-16 times
        the sum of ``|z_ik z_jk|``; products below the range of float32 count as 0. The others stay.
    n_threads : int
        Number of threads. The result does not depend on it.

    Returns
    -------
    bool
        False if the processor has no such instructions. `gram` is not changed then.
    """
    if _best_backend() != "native":
        return False
    from medvlad.backends import native

    return native.add_gram(rows, gram, n_threads=n_threads)


def forget_decisions() -> None:
    """Ask each backend again whether it can run. Tests call this after they have exchanged a device."""
    _usable.cache_clear()


@cache
def _usable(name: str, process: int) -> Backend:
    """Return the module of a backend that can run in this process, or raise the reason why it cannot.

    `process` belongs to the key because a child process that was forked cannot use its parent's GPU.
    """
    _DESCRIBE[name]()
    return cast(Backend, importlib.import_module(f"medvlad.backends.{name}"))


@cache
def _best_backend() -> str:
    """Return the name of the fastest backend for arrays in host memory. Decide, and warn, once."""
    try:
        importlib.import_module("medvlad.backends.native")
    except ImportError as error:
        source = Path(__file__).parents[2]
        is_here = (source / "setup.py").exists() and source == Path.cwd()
        hint = ". Python reads the checkout in this folder: start Python in another one" if is_here else ""
        logger.warning(
            "the native backend was not built (%s): computing with the slow reference%s", error, hint
        )
        return "reference"
    return "native"
