"""The C++ core: chooses the module for this processor's instruction set and calls it.

There is one module for each instruction-set level. The best one that the processor supports and the build
contains is used:

    amx          bf16 tiles (AMX), on Linux (Sapphire Rapids and later)
    avx512bf16   AVX-512 with bf16 and VBMI2 (Sapphire Rapids, Zen 4 and later)
    avx512       AVX-512 F, BW, DQ, VL (Skylake-X and later)
    avx2         AVX2 and FMA (Haswell, Zen and later)
    portable     every other processor; matrix products use SciPy's BLAS

The environment variable MEDVLAD_SIMD names another level. Only the level amx asks Linux for tiles, which is
irrevocable. Results are the same on all levels.
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
from medvlad.backends.normalise import Normalisation
from medvlad.backends.reference import by_column, center_distances, place, take
from medvlad.backends.shifted_rows import ShiftedRows
from medvlad.descriptors.checks import check_encoded, check_finite

try:
    from medvlad.backends import _blas, _native_portable
except TypeError as error:  # Cython raises it if SciPy declares its BLAS otherwise than at build time
    raise ImportError(f"the native backend was built for another SciPy ({error}): build it again") from error

__all__ = [
    "LEVELS",
    "METHODS",
    "add_gram",
    "aggregate",
    "assign",
    "available_levels",
    "center_distances",
    "column_sums",
    "convnet",
    "encode",
    "encode_weighted",
    "level",
    "place",
    "seeding",
    "squared_distances",
    "take",
]

#: Instruction-set levels, best first.
LEVELS = ("amx", "avx512bf16", "avx512", "avx2", "portable")

_TILES = "amx"  # the level that needs a permission of the operating system

#: The level amx with emulated instructions, for tests. It is never chosen unless MEDVLAD_SIMD names it.
EMULATED = "amx_emulated"

#: Ways of multiplying that a level may choose from. All but "auto" are for tests and measurements.
METHODS = ("auto", "dense", "sparse", "bf16", "bf16x3")

_MAY_OVERFLOW = -2  # kMayOverflow of csrc/core/vlad.hpp

# From this size on, malloc returns fresh pages. They are zero already, so empty cells need no writing.
_FRESH_BYTES = 32 << 20


@cache
def available_levels() -> tuple[str, ...]:
    """Return the levels that this processor can run and this build contains, best first.

    The operating system may still refuse "amx". Only :func:`level` asks it.
    """
    supported = _native_portable.supported_levels()
    return tuple(name for name in LEVELS if name in supported and find_spec(_module_name(name)) is not None)


def level() -> str:
    """Return the name of the level in use: MEDVLAD_SIMD, or the best one.

    If that is "amx", the operating system is asked for its tiles. The permission cannot be given back, so it
    is not asked for other levels.

    Raises
    ------
    InputError
        If MEDVLAD_SIMD does not name a level, or names one that cannot run here.
    """
    name = os.environ.get("MEDVLAD_SIMD")
    if not name:
        return next(name for name in available_levels() if name != _TILES or _may_use_tiles())
    runs_emulated = EMULATED in _native_portable.supported_levels()
    if name == EMULATED and runs_emulated and find_spec(_module_name(name)) is not None:
        return name
    check_choice(name, "MEDVLAD_SIMD", LEVELS)
    if name not in available_levels():
        why = (
            "was not built"
            if name in _native_portable.supported_levels()
            else "is not supported by this processor"
        )
        raise InputError(f"MEDVLAD_SIMD={name} {why}: use one of {', '.join(available_levels())}")
    if name == _TILES and not _may_use_tiles():
        others = [other for other in available_levels() if other != _TILES]
        raise InputError(
            f"MEDVLAD_SIMD={name} is refused by the operating system: use one of {', '.join(others)}"
        )
    return name


@cache
def _may_use_tiles() -> bool:
    """Ask the operating system for the tiles of the processor, once. This cannot be taken back."""
    return _native_portable.may_use_tiles()


def assign(
    x: NDArray[np.float32],
    centers: NDArray[np.float32],
    *,
    offsets: NDArray[np.int64] | None = None,
    n_threads: int = 1,
    method: str = "auto",
) -> NDArray[np.int32]:
    """See :func:`medvlad.backends.reference.assign`. Uses `n_threads` threads."""
    labels = np.empty(len(x), np.int32)
    module = _module(level())
    with _threads_of_blas(module, centers, n_threads):
        bad_row = module.assign(_blas.sgemm_capsule(), x, centers, labels, n_threads, method)
    if bad_row >= 0:
        check_finite(x, offsets)
    return labels


def aggregate(
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    *,
    n_threads: int = 1,
    method: str = "auto",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """See :func:`medvlad.backends.reference.aggregate`. Uses `n_threads` threads."""
    counts = np.empty((len(offsets) - 1, len(centers)), np.int64)
    how = Normalisation(l2_norm=False)
    residuals, _ = _encode(x, offsets, centers, how, n_threads, None, None, counts, method)
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
    """See :func:`medvlad.backends.reference.encode`. Uses `n_threads` threads."""
    how = Normalisation(power=power, intra_norm=intra_norm, l2_norm=l2_norm)
    vectors, may_overflow = _encode(x, offsets, centers, how, n_threads, out, labels_out, counts_out, method)
    if may_overflow:
        check_encoded(vectors)
    return vectors


def _encode(
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    how: Normalisation,
    n_threads: int,
    out: NDArray[np.float32] | None,
    labels_out: NDArray[np.int32] | None,
    counts_out: NDArray[np.int64] | None,
    method: str,
) -> tuple[NDArray[np.float32], bool]:
    """Return the vectors, and whether numbers of them may be infinite because they are beyond float32."""
    zeroed = False
    if out is None:
        shape = (len(offsets) - 1, centers.size)
        zeroed = 4 * shape[0] * shape[1] >= _FRESH_BYTES
        out = (np.zeros if zeroed else np.empty)(shape, np.float32)
    module = _module(level())
    with _threads_of_blas(module, centers, n_threads):
        bad_row = module.encode(
            _blas.sgemm_capsule(),
            x,
            offsets,
            centers,
            out,
            zeroed,
            labels_out,
            counts_out,
            how.power,
            how.intra_norm,
            how.l2_norm,
            n_threads,
            method,
        )
    if bad_row >= 0:
        check_finite(x, offsets)
    return out, bad_row == _MAY_OVERFLOW


def encode_weighted(
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    cells: NDArray[np.int32],
    weights: NDArray[np.float64],
    normalisation: Normalisation,
    *,
    n_threads: int = 1,
    scales: NDArray[np.float64] | None = None,
    masses_out: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """See :func:`medvlad.backends.reference.encode_weighted`. Uses `n_threads` threads."""
    out = np.empty((len(offsets) - 1, centers.size), np.float32)
    _module(level()).encode_weighted(
        x,
        offsets,
        centers,
        cells,
        weights,
        scales,
        out,
        masses_out,
        normalisation.power,
        normalisation.mass_norm,
        normalisation.intra_norm,
        normalisation.l2_norm,
        n_threads,
    )
    return out


def squared_distances(
    x: NDArray[np.float32], centers: NDArray[np.float32], labels: NDArray[np.int32], *, n_threads: int = 1
) -> NDArray[np.float64]:
    """See :func:`medvlad.backends.reference.squared_distances`. Uses `n_threads` threads."""
    if labels.ndim == 2:
        return by_column(squared_distances, x, centers, labels, n_threads)
    distances = np.empty(len(x))
    _module(level()).squared_distances(x, centers, labels, distances, n_threads)
    return distances


def seeding(
    x: NDArray[np.float32], rows: NDArray[np.int64] | None = None, *, n_threads: int = 1
) -> NativeSeeding:
    """See :func:`medvlad.backends.reference.seeding`. Uses `n_threads` threads."""
    return NativeSeeding(x, rows, n_threads)


class NativeSeeding:
    """See :class:`medvlad.backends.seeding.Seeding`."""

    def __init__(self, x: NDArray[np.float32], rows: NDArray[np.int64] | None, n_threads: int) -> None:
        self._core: _native_portable.Seeding = _module(level()).Seeding(x, rows, n_threads)
        self.closest = np.full(len(x if rows is None else rows), np.inf)

    def distances(self, candidates: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See :class:`medvlad.backends.seeding.Seeding`."""
        distances, potentials = np.empty((len(candidates), len(self.closest))), np.empty(len(candidates))
        self._core.distances(candidates, self.closest, distances, potentials)
        return distances, potentials

    def add_best(self, candidates: NDArray[np.int64]) -> int:
        """See :class:`medvlad.backends.seeding.Seeding`."""
        return self._core.add_best(candidates, self.closest)

    @property
    def n_exact(self) -> int:
        """Number of distances that the last step computed in float64."""
        return self._core.n_exact


def column_sums(x: NDArray[np.float32], *, n_threads: int = 1) -> NDArray[np.float64]:
    """See :func:`medvlad.backends.reference.column_sums`. Uses `n_threads` threads."""
    sums = np.empty(x.shape[1])
    _module(level()).column_sums(x, sums, n_threads)
    return sums


def add_gram(rows: ShiftedRows, gram: NDArray[np.float64], *, n_threads: int = 1) -> bool:
    """See :func:`medvlad.backends.add_gram`. Uses `n_threads` threads."""
    module = _module(level())
    if not (module.has_gram() and rows.x.flags.aligned):
        return False
    module.add_gram(*rows, gram, n_threads)
    return True


def convnet(
    layers: list[tuple[NDArray[np.float32], NDArray[np.float32], bool] | None], n_channels: int
) -> _native_portable.ConvNet:
    """Return a convolutional network.

    Parameters
    ----------
    layers : list of (kernel, bias, has_relu) or None
        One tuple for each convolution, None for each pooling.
    n_channels : int
        Number of channels of the input.
    """
    net: _native_portable.ConvNet = _module(level()).ConvNet(layers, n_channels)
    return net


def _threads_of_blas(
    module: Any, centers: NDArray[np.float32], n_threads: int
) -> AbstractContextManager[None]:
    """Return a context in which each of our threads uses one BLAS thread, if the module calls BLAS."""
    k, d = centers.shape
    return single_threaded_blas() if module.needs_sgemm(k, d, n_threads) else nullcontext()


def _module_name(name: str) -> str:
    return f"medvlad.backends._native_{name}"


@cache
def _module(name: str) -> Any:
    return importlib.import_module(_module_name(name))
