"""Backends: one interface, several implementations, chosen here and nowhere else.

::

    assign(x, centers)             -> labels (N,) int32
    aggregate(x, offsets, centers) -> residuals (B, K, D) float32, counts (B, K) int64
    encode(x, offsets, centers)    -> (B, K * D) float32
    squared_distances(x, centers, labels), candidate_distances(x, norms, candidates, closest): for k-means

    reference   float64 NumPy, the specification
    native      C++ core on the CPU

``"auto"`` takes MEDVLAD_BACKEND if it is set, else native, else reference with one warning. Arguments were
checked by :mod:`medvlad._validate` before they come here; labels are the same on every backend.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from functools import cache
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from medvlad._validate import InputError, check_choice

__all__ = ["BACKENDS", "Backend", "available_backends", "get_backend"]

logger = logging.getLogger(__name__)


class Backend(Protocol):
    """What every backend module provides."""

    def assign(
        self, x: NDArray[np.float32], centers: NDArray[np.float32], *, n_threads: int
    ) -> NDArray[np.int32]:
        """Label of the nearest centre of each row."""

    def aggregate(
        self,
        x: NDArray[np.float32],
        offsets: NDArray[np.int64],
        centers: NDArray[np.float32],
        *,
        n_threads: int,
        labels_out: NDArray[np.int32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return summed residuals and counts of each cell of each image."""

    def encode(
        self,
        x: NDArray[np.float32],
        offsets: NDArray[np.int64],
        centers: NDArray[np.float32],
        *,
        power: float,
        intra_norm: bool,
        l2_norm: bool,
        n_threads: int,
        out: NDArray[np.float32] | None = None,
        labels_out: NDArray[np.int32] | None = None,
        counts_out: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """Normalised VLAD of each image, into `out` where given; labels and counts where asked for."""

    def squared_distances(
        self,
        x: NDArray[np.float32],
        centers: NDArray[np.float32],
        labels: NDArray[np.int32],
        *,
        n_threads: int,
    ) -> NDArray[np.float64]:
        """Squared distance of each row to the centre of its label."""

    def candidate_distances(
        self,
        x: NDArray[np.float32],
        norms: NDArray[np.float64],
        candidates: NDArray[np.int64],
        closest: NDArray[np.float64],
        *,
        n_threads: int,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """One step of greedy k-means++: distances to the nearest seed with each candidate, and their sums."""


def _describe_reference() -> str:
    return "ok"


def _describe_native() -> str:
    from medvlad.backends import native

    return f"ok: {native.level()}"


#: Backend name -> what says "ok..." or raises the reason why it cannot run here.
_DESCRIBE: dict[str, Callable[[], str]] = {"reference": _describe_reference, "native": _describe_native}

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


def get_backend(name: str = "auto") -> Backend:
    """Return the backend called `name`.

    Parameters
    ----------
    name : str
        "auto", or one of BACKENDS.

    Raises
    ------
    InputError
        If there is no such backend or it cannot run here, with the reason.
    """
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


@cache
def _best_backend() -> str:
    """Name of the fastest backend for arrays in host memory; decided, and warned about, once."""
    try:
        importlib.import_module("medvlad.backends.native")
    except ImportError as error:
        logger.warning("the native backend was not built (%s): computing with the slow reference", error)
        return "reference"
    return "native"
