r"""What the first pass over the descriptors (kernels/assign.cu) needs to know about the centres.

With mu near the mean of the centres and c'_k = c_k - mu, the pass multiplies rows by b_k = round(c'_k) and
takes off h_k = (|c_k|^2 - |mu|^2) / 2. Its bound on the error of a score is made of

    max_k |b_k|,   max_k |c'_k - b_k|,   max_k |h_k|,   gamma,

all computed here in float64 and rounded up. Centring makes them small: centres share most of their norm.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["CandidateCenters", "candidate_centers"]

#: Centres of a warp, and numbers of a step of the kernel: what its arrays are filled up to.
TILE_CENTERS = 64
TILE_DEPTH = 16

# Beyond this norm float32 scores may overflow: every centre is left a candidate.
_MOST_NORM = 1e18


class CandidateCenters(NamedTuple):
    """Centres as the first pass takes them.

    Attributes
    ----------
    rounded : ndarray of float32, shape (k_padded, d_padded)
        b_k, filled up with zeros.
    half : ndarray of float32, shape (k_padded,)
        h_k; infinite where there is no centre.
    max_center, max_center_error, max_half, gamma : float32
        For the bound; `max_center` is infinite where nothing can be said.
    half_norms : ndarray of float64, shape (K,)
        |c_k|^2 / 2.
    max_norm : float
        max_k |c_k|.
    warps_across : int
        Warps of a block side by side: 1 for blocks of 64 centres, 2 for 128.
    """

    rounded: NDArray[np.float32]
    half: NDArray[np.float32]
    max_center: np.float32
    max_center_error: np.float32
    max_half: np.float32
    gamma: np.float32
    half_norms: NDArray[np.float64]
    max_norm: float
    warps_across: int


def candidate_centers(centers: NDArray[np.float32], *, tensor_cores: bool) -> CandidateCenters:
    """Centre, round and fill up `centers` (K, D), for products in tf32 or in float32."""
    k, d = centers.shape
    warps_across = 1 if k <= TILE_CENTERS else 2
    k_padded, d_padded = _filled_up(k, TILE_CENTERS * warps_across), _filled_up(d, TILE_DEPTH)
    exact = centers.astype(np.float64)
    half_norms = 0.5 * np.einsum("kd,kd->k", exact, exact)
    max_norm = float(np.sqrt(2 * half_norms.max()))
    rounded = np.zeros((k_padded, d_padded), np.float32)
    half = np.full(k_padded, np.inf, np.float32)
    terms = d_padded + TILE_DEPTH
    gamma = terms * (2.0**-22 if tensor_cores else 1.01 * 2.0**-24)
    if max_norm < _MOST_NORM:
        mean = exact.mean(axis=0).astype(np.float32).astype(np.float64)
        centred = exact - mean
        b = centred.astype(np.float32)
        if tensor_cores:
            b = _rounded_to_tf32(b)
        h = half_norms - 0.5 * float(mean @ mean)
        # What rounding |c|^2 and |mu|^2 in float64 costs is far below float32's share of |c|^2.
        max_half = float(np.abs(h).max()) + 0.5e-6 * (max_norm**2 + float(mean @ mean))
        max_center = float(np.linalg.norm(b.astype(np.float64), axis=1).max())
        max_center_error = float(np.linalg.norm(centred - b, axis=1).max())
        rounded[:k, :d], half[:k] = b, h
    else:
        max_half, max_center, max_center_error = 0.0, np.inf, 0.0
        half[:k] = 0.0
    return CandidateCenters(
        rounded,
        half,
        _rounded_up(max_center),
        _rounded_up(max_center_error),
        _rounded_up(max_half),
        _rounded_up(gamma),
        half_norms,
        max_norm,
        warps_across,
    )


def _filled_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _rounded_up(value: float) -> np.float32:
    return np.float32(np.nextafter(np.float32(value * 1.0001), np.float32(np.inf)))


def _rounded_to_tf32(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Nearest numbers of 11 significant bits, ties away from zero."""
    bits = (values.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return bits.view(np.float32)
