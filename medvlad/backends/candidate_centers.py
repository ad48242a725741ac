r"""Prepare centres for the first pass over the descriptors (kernels/assign.cu).

With mu near the mean of the centres and c'_k = c_k - mu, the pass multiplies rows by b_k = round(c'_k) and
subtracts h_k = (|c_k|^2 - |mu|^2) / 2. Its bound on the error of a score is made of

    max_k |b_k|,   max_k |c'_k - b_k|,   max_k |h_k|,   gamma.

All four are computed here in float64 and rounded up. Subtracting mu makes them small, because centres share
most of their norm.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["CandidateCenters", "candidate_centers"]

#: Number of centres of a warp and of dimensions of a step of the kernel. Arrays are padded to multiples.
TILE_CENTERS = 64
TILE_DEPTH = 16

# Float32 scores may overflow beyond this norm. Every centre then stays a candidate.
_MOST_NORM = 1e18


class CandidateCenters(NamedTuple):
    """Centres in the form that the first pass needs.

    Attributes
    ----------
    rounded : ndarray of float32, shape (k_padded, d_padded)
        b_k, padded with zeros.
    half : ndarray of float32, shape (k_padded,)
        h_k. Infinity in the padding.
    max_center, max_center_error, max_half, gamma : float32
        The four numbers of the bound. `max_center` is infinite if there is no bound.
    half_norms : ndarray of float64, shape (K,)
        Halves of the squared norms, |c_k|^2 / 2.
    max_norm : float
        Largest norm, max_k |c_k|.
    warps_across : int
        Number of warps of a block that share its centres: 1 for blocks of 64 centres, 2 for 128.
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
    """Shift, round and pad `centers` (K, D).

    `tensor_cores` says whether products are computed in tf32, else in float32.
    """
    k, d = centers.shape
    warps_across = 1 if k <= TILE_CENTERS else 2
    k_padded, d_padded = _padded(k, TILE_CENTERS * warps_across), _padded(d, TILE_DEPTH)
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
        # The float64 rounding errors of |c|^2 and |mu|^2 are far below this share of |c|^2.
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


def _padded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _rounded_up(value: float) -> np.float32:
    return np.float32(np.nextafter(np.float32(value * 1.0001), np.float32(np.inf)))


def _rounded_to_tf32(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the nearest numbers of 11 significant bits. Ties go away from zero."""
    bits = (values.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return bits.view(np.float32)
