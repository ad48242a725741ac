"""Backends: one interface, several implementations, chosen here and nowhere else.

::

    assign(x, centers)             -> labels (N,) int32
    aggregate(x, offsets, centers) -> residuals (B, K, D) float32, counts (B, K) int64
    encode(x, offsets, centers)    -> (B, K * D) float32
    encode_weighted(x, offsets, centers, cells, weights) -> (B, K * D) float32
    squared_distances(x, centers, labels), candidate_distances(x, norms, candidates, closest),
    place(x), take(x, rows), column_sums(x): for k-means

    reference   float64 NumPy, the specification
    native      C++ core on the CPU
    cuda        kernels on a GPU; host arrays are copied there and back

``"auto"`` is cuda for arrays on a GPU, which no other backend takes. For arrays in host memory it takes
MEDVLAD_BACKEND if that is set, else native, else reference with one warning: numbers do not change because a
machine has a GPU. Arguments were checked by :mod:`medvlad._util.validate` before they come here; labels
are the same on every backend.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, check_choice
from medvlad.descriptors.gpu_array import GpuArray

__all__ = ["BACKENDS", "Backend", "available_backends", "get_backend", "host_backend"]

logger = logging.getLogger(__name__)


class Backend(Protocol):
    """What every backend module provides: `x` is an ndarray of float32 (N, D), for cuda also a GpuArray."""

    def assign(self, x: Any, centers: NDArray[np.float32], *, n_threads: int) -> Any:
        """Label of the nearest centre of each row."""

    def aggregate(
        self,
        x: Any,
        offsets: NDArray[np.int64],
        centers: NDArray[np.float32],
        *,
        n_threads: int,
        labels_out: NDArray[np.int32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return summed residuals and counts of each cell of each image."""

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
        """Normalised VLAD of each image, into `out` where given; labels and counts where asked for."""

    def encode_weighted(
        self,
        x: NDArray[np.float32],
        offsets: NDArray[np.int64],
        centers: NDArray[np.float32],
        cells: NDArray[np.int32],
        weights: NDArray[np.float64],
        *,
        power: float,
        mass_norm: bool,
        intra_norm: bool,
        l2_norm: bool,
        n_threads: int,
        masses_out: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        """VLAD of rows, in host memory, whose cells and weights (N, r) are known."""

    def squared_distances(
        self,
        x: Any,
        centers: NDArray[np.float32],
        labels: NDArray[np.int32],
        *,
        n_threads: int,
    ) -> NDArray[np.float64]:
        """Squared distance of each row to the centre of its label."""

    def candidate_distances(
        self,
        x: Any,
        norms: NDArray[np.float64],
        candidates: NDArray[np.int64],
        closest: NDArray[np.float64],
        *,
        n_threads: int,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """One step of greedy k-means++: distances to the nearest seed with each candidate, and their sums."""

    def place(self, x: Any) -> Any:
        """Put descriptors where the backend computes, for many calls."""

    def take(self, x: Any, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Rows of placed descriptors, copied, in host memory."""

    def column_sums(self, x: Any) -> NDArray[np.float64]:
        """Sum of placed descriptors, feature by feature, in float64."""


def _describe_reference() -> str:
    return "ok"


def _describe_native() -> str:
    from medvlad.backends import native

    return f"ok: {native.level()}"


def _describe_cuda() -> str:
    from medvlad.backends import cuda

    return cuda.describe()


#: Backend name -> what says "ok..." or raises the reason why it cannot run here.
_DESCRIBE: dict[str, Callable[[], str]] = {
    "reference": _describe_reference,
    "native": _describe_native,
    "cuda": _describe_cuda,
}

#: Names of the backends, slowest first.
BACKENDS = tuple(_DESCRIBE)


def available_backends() -> dict[str, str]:
    """Return each backend's name and its state: "ok", with details, or the reason why it cannot run.

    Returns
    -------
    dict of str to str

    Examples
    --------
    >>> available_backends()["reference"]
    'ok'
    """
    states = {}
    for name, describe in _DESCRIBE.items():
        try:
            states[name] = describe()
        except (ImportError, InputError) as error:
            states[name] = str(error)
    return states


def get_backend(name: str = "auto", x: Any = None) -> Backend:
    """Return the backend called `name`.

    Parameters
    ----------
    name : str
        "auto", or one of BACKENDS.
    x : ndarray or GpuArray, optional
        The descriptors: "auto" depends on where they are.

    Raises
    ------
    InputError
        If there is no such backend or it cannot run here, with the reason, or `x` is on a GPU and it is not.
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
        _DESCRIBE[name]()
    except ImportError as error:
        raise InputError(
            f"backend {name!r} cannot run here: {error}; use one that available_backends() calls ok"
        ) from error
    return cast(Backend, importlib.import_module(f"medvlad.backends.{name}"))


def host_backend() -> Backend:
    """Return the fastest backend of the host."""
    return get_backend(_best_backend())


@cache
def _best_backend() -> str:
    """Name of the fastest backend for arrays in host memory; decided, and warned about, once."""
    try:
        importlib.import_module("medvlad.backends.native")
    except ImportError as error:
        logger.warning("the native backend was not built (%s): computing with the slow reference", error)
        return "reference"
    return "native"
