"""The C++ core: picks the module for this processor's instruction set and forwards to it.

One module an instruction set, the best one that the processor reports and the build has:

    avx512bf16   AVX-512 with bf16 and VBMI2 (Sapphire Rapids, Zen 4 and later)
    avx512       AVX-512 F, BW, DQ, VL (Skylake-X and later)
    avx2         AVX2 and FMA (Haswell, Zen and later)
    portable     everything else; the products go through SciPy's BLAS

MEDVLAD_SIMD names a level to use instead. Results are the same on all of them.
"""

from __future__ import annotations

import importlib
import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.blas_threads import single_threaded_blas
from medvlad._util.validate import InputError, check_choice
from medvlad.backends.reference import column_sums, place, take

try:
    from medvlad.backends import _blas, _native_portable
except TypeError as error:  # Cython's word for a SciPy whose BLAS is declared otherwise than at build time
    raise ImportError(f"the native backend was built for another SciPy ({error}): build it again") from error

__all__ = [
    "LEVELS",
    "METHODS",
    "aggregate",
    "assign",
    "available_levels",
    "candidate_distances",
    "column_sums",
    "convnet",
    "encode",
    "encode_weighted",
    "level",
    "place",
    "squared_distances",
    "take",
]

#: Instruction-set levels, best first.
LEVELS = ("avx512bf16", "avx512", "avx2", "portable")

#: Ways of multiplying that a level may choose from; all but "auto" are for tests and measurements.
METHODS = ("auto", "dense", "sparse", "bf16")

# From this size on, malloc hands out fresh pages, which are zeros already: empty cells need no writing.
_FRESH_BYTES = 32 << 20


@cache
def available_levels() -> tuple[str, ...]:
    """Levels that this processor can run and this build has, best first."""
    supported = _native_portable.supported_levels()
    return tuple(name for name in LEVELS if name in supported and find_spec(_module_name(name)) is not None)


def level() -> str:
    """Name of the level in use: MEDVLAD_SIMD, or the best one.

    Raises
    ------
    InputError
        If MEDVLAD_SIMD names no level, or one that cannot run here.
    """
    name = os.environ.get("MEDVLAD_SIMD")
    if not name:
        return available_levels()[0]
    check_choice(name, "MEDVLAD_SIMD", LEVELS)
    if name not in available_levels():
        why = (
            "was not built"
            if name in _native_portable.supported_levels()
            else "is not what this processor has"
        )
        raise InputError(f"MEDVLAD_SIMD={name} {why}: use one of {', '.join(available_levels())}")
    return name


def assign(
    x: NDArray[np.float32], centers: NDArray[np.float32], *, n_threads: int = 1, method: str = "auto"
) -> NDArray[np.int32]:
    """See :func:`medvlad.backends.reference.assign`; `n_threads` threads."""
    labels = np.empty(len(x), np.int32)
    module = _module(level())
    with _threads_of_blas(module, centers, n_threads):
        module.assign(_blas.sgemm_capsule(), x, centers, labels, n_threads, method)
    return labels


def aggregate(
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    *,
    n_threads: int = 1,
    labels_out: NDArray[np.int32] | None = None,
    method: str = "auto",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """See :func:`medvlad.backends.reference.aggregate`; `n_threads` threads."""
    counts = np.empty((len(offsets) - 1, len(centers)), np.int64)
    residuals = encode(
        x,
        offsets,
        centers,
        l2_norm=False,
        n_threads=n_threads,
        labels_out=labels_out,
        counts_out=counts,
        method=method,
    )
    return residuals.reshape(len(counts), *centers.shape), counts


def encode(
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    *,
    power: float = 1.0,
    intra_norm: bool = False,
    l2_norm: bool = True,
    n_threads: int = 1,
    out: NDArray[np.float32] | None = None,
    labels_out: NDArray[np.int32] | None = None,
    counts_out: NDArray[np.int64] | None = None,
    method: str = "auto",
) -> NDArray[np.float32]:
    """See :func:`medvlad.backends.reference.encode`; `n_threads` threads."""
    zeroed = False
    if out is None:
        shape = (len(offsets) - 1, centers.size)
        zeroed = 4 * shape[0] * shape[1] >= _FRESH_BYTES
        out = (np.zeros if zeroed else np.empty)(shape, np.float32)
    module = _module(level())
    with _threads_of_blas(module, centers, n_threads):
        module.encode(
            _blas.sgemm_capsule(),
            x,
            offsets,
            centers,
            out,
            zeroed,
            labels_out,
            counts_out,
            power,
            intra_norm,
            l2_norm,
            n_threads,
            method,
        )
    return out


def encode_weighted(
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    cells: NDArray[np.int32],
    weights: NDArray[np.float64],
    *,
    power: float = 1.0,
    mass_norm: bool = False,
    intra_norm: bool = False,
    l2_norm: bool = True,
    n_threads: int = 1,
    masses_out: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """See :func:`medvlad.backends.reference.encode_weighted`; `n_threads` threads."""
    out = np.empty((len(offsets) - 1, centers.size), np.float32)
    _module(level()).encode_weighted(
        x, offsets, centers, cells, weights, out, masses_out, power, mass_norm, intra_norm, l2_norm, n_threads
    )
    return out


def squared_distances(
    x: NDArray[np.float32], centers: NDArray[np.float32], labels: NDArray[np.int32], *, n_threads: int = 1
) -> NDArray[np.float64]:
    """See :func:`medvlad.backends.reference.squared_distances`; `n_threads` threads."""
    distances = np.empty(len(x))
    _module(level()).squared_distances(x, centers, labels, distances, n_threads)
    return distances


def candidate_distances(
    x: NDArray[np.float32],
    norms: NDArray[np.float64],
    candidates: NDArray[np.int64],
    closest: NDArray[np.float64],
    *,
    n_threads: int = 1,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """See :func:`medvlad.backends.reference.candidate_distances`; `n_threads` threads."""
    distances, potentials = np.empty((len(candidates), len(x))), np.empty(len(candidates))
    _module(level()).candidate_distances(x, norms, candidates, closest, distances, potentials, n_threads)
    return distances, potentials


def convnet(
    layers: list[tuple[NDArray[np.float32], NDArray[np.float32], bool] | None], n_channels: int
) -> _native_portable.ConvNet:
    """Return a network of (kernel, bias, has_relu) and, for pooling, None."""
    net: _native_portable.ConvNet = _module(level()).ConvNet(layers, n_channels)
    return net


def _threads_of_blas(
    module: Any, centers: NDArray[np.float32], n_threads: int
) -> AbstractContextManager[None]:
    """Context that keeps BLAS to one thread of each of ours, where the module calls it."""
    k, d = centers.shape
    return single_threaded_blas() if module.needs_sgemm(k, d, n_threads) else nullcontext()


def _module_name(name: str) -> str:
    return f"medvlad.backends._native_{name}"


@cache
def _module(name: str) -> Any:
    return importlib.import_module(_module_name(name))
