"""The C++ core: picks the module for this processor's instruction set and forwards to it.

There is one module so far, ``portable``, whose scores come from SciPy's BLAS. MEDVLAD_SIMD names the level
to use instead of the best one.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from medvlad._blas_threads import single_threaded_blas
from medvlad._validate import check_choice

try:
    from medvlad.backends import _blas, _native_portable
except TypeError as error:  # Cython's word for a SciPy whose BLAS is declared otherwise than at build time
    raise ImportError(f"the native backend was built for another SciPy ({error}): build it again") from error

__all__ = ["LEVELS", "aggregate", "assign", "encode", "level"]

#: Instruction-set levels of this build, best first.
LEVELS = ("portable",)


def level() -> str:
    """Name of the level in use: MEDVLAD_SIMD, or the best one.

    Raises
    ------
    InputError
        If MEDVLAD_SIMD names a level that this build does not have.
    """
    return check_choice(os.environ.get("MEDVLAD_SIMD") or LEVELS[0], "MEDVLAD_SIMD", LEVELS)


def assign(x: NDArray[np.float32], centers: NDArray[np.float32], *, n_threads: int = 1) -> NDArray[np.int32]:
    """See :func:`medvlad.backends.reference.assign`; `n_threads` threads."""
    level()
    with single_threaded_blas():
        return _native_portable.assign(_blas.sgemm_capsule(), x, centers, n_threads)


def aggregate(
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    *,
    n_threads: int = 1,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """See :func:`medvlad.backends.reference.aggregate`; `n_threads` threads."""
    level()
    with single_threaded_blas():
        return _native_portable.aggregate(_blas.sgemm_capsule(), x, offsets, centers, n_threads)


def encode(
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    *,
    power: float = 1.0,
    intra_norm: bool = False,
    l2_norm: bool = True,
    n_threads: int = 1,
) -> NDArray[np.float32]:
    """See :func:`medvlad.backends.reference.encode`; `n_threads` threads."""
    level()
    with single_threaded_blas():
        return _native_portable.encode(
            _blas.sgemm_capsule(), x, offsets, centers, power, intra_norm, l2_norm, n_threads
        )
