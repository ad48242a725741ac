"""Memberships: which cells of a codebook a descriptor belongs to, and how much.

For a descriptor x and centres c_1..c_K, VLAD sums w_k (x - c_k) over the cells k that x is in::

    hard    w_k = 1 for the nearest centre (Jegou, Douze, Schmid, Perez, CVPR 2010)
    soft    w_k = exp(-alpha |x - c_k|^2) / sum_j exp(-alpha |x - c_j|^2)
                  over all K centres (NetVLAD: Arandjelovic, Gronat, Torii, Pajdla, Sivic, CVPR 2016, eq. 3)
                  or over the r nearest (Philbin, Chum, Isard, Sivic, Zisserman, CVPR 2008)

and with residual normalisation ``w_k / |x - c_k|``, or 0 where that length is below 1e-12 (Delhumeau,
Gosselin, Jegou, Perez, ACM Multimedia 2013). Soft weights are computed in float64; which centres are the r
nearest is decided by float64 distances, the lower index on a tie.

alpha, unless given, makes the nearest centre count 100 times as much as the second for a descriptor whose two
squared distances differ by their mean difference over the training descriptors::

    alpha = ln(100) / mean(d_2^2 - d_1^2),

the rule that NetVLAD's authors initialise their layer with. It is fitted once, with the centres,
and the same for all images. Weights of descriptors (masks) multiply w_k.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, check_choice, check_positive_float, check_positive_int
from medvlad.backends import Backend
from medvlad.backends.reference import NORM_FLOOR

__all__ = ["check_assignment", "memberships", "softness"]

_CONTRAST = 100.0
_ALPHA_ROWS = 20_000


def check_assignment(assignment: str, n_nearest: int | None, alpha: float | None, n_clusters: int) -> int:
    """Check the settings; return how many centres a descriptor may belong to.

    Raises
    ------
    InputError
        If one of them is none, or does not go with the others.
    """
    check_choice(assignment, "assignment", ("hard", "soft"))
    if assignment == "hard":
        if n_nearest is not None or alpha is not None:
            raise InputError("n_nearest and alpha are for assignment='soft': leave them out, or choose that")
        return 1
    if alpha is not None:
        check_positive_float(alpha, "alpha")
    if n_nearest is None:
        return n_clusters
    if check_positive_int(n_nearest, "n_nearest") > n_clusters:
        raise InputError(f"n_nearest={n_nearest} is more than n_clusters={n_clusters}: choose fewer")
    return n_nearest


def memberships(
    x: NDArray[np.float32],
    centers: NDArray[np.float32],
    *,
    n_nearest: int,
    alpha: float | None,
    origins: NDArray[np.float32] | None,
    backend: Backend,
    n_threads: int,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Cells of each descriptor and its weight in each.

    Parameters
    ----------
    x : ndarray of float32, shape (N, D)
    centers : ndarray of float32, shape (K, D)
    n_nearest : int
        The r nearest centres count.
    alpha : float or None
        None: the nearest centre alone, exactly.
    origins : ndarray of float32, shape (K, D), or None
        For normalisation of residuals: what they are taken to; weights are divided by their lengths.
    backend, n_threads
        What finds hard labels and lengths.

    Returns
    -------
    cells : ndarray of int32, shape (N, r)
    weights : ndarray of float64, shape (N, r)
    """
    if alpha is None:
        cells = np.asarray(backend.assign(x, centers, n_threads=n_threads))[:, None]
        weights = np.ones(cells.shape)
    else:
        squared = _squared_distances(x, centers)
        if n_nearest < len(centers):
            # By distance, then by index: a stable sort of so few columns costs less than the product above.
            cells = np.argsort(squared, axis=1, kind="stable")[:, :n_nearest].astype(np.int32)
            squared = np.take_along_axis(squared, cells, axis=1)
        else:
            cells = np.tile(np.arange(len(centers), dtype=np.int32), (len(x), 1))
        weights = np.exp(-alpha * (squared - squared.min(axis=1, keepdims=True)))
        weights /= weights.sum(axis=1, keepdims=True)
    if origins is not None:
        for j in range(cells.shape[1]):
            own = np.ascontiguousarray(cells[:, j])
            lengths = np.sqrt(backend.squared_distances(x, origins, own, n_threads=n_threads))
            weights[:, j] *= np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths >= NORM_FLOOR)
    return np.ascontiguousarray(cells), weights


def softness(x: NDArray[np.float32], centers: NDArray[np.float32]) -> float:
    """Return the alpha of the module's head for descriptors `x` (N, D)."""
    if len(centers) < 2:
        return 1.0  # every weight is 1, whatever alpha
    rows = x[np.unique(np.linspace(0, len(x) - 1, min(len(x), _ALPHA_ROWS)).astype(np.int64))]
    nearest = np.partition(_squared_distances(rows, centers), 1, axis=1)[:, :2]
    difference = float((nearest[:, 1] - nearest[:, 0]).mean())
    if not difference > 0:
        raise InputError(
            "every descriptor has two nearest centres, so alpha cannot be found: give one, or fewer clusters"
        )
    return math.log(_CONTRAST) / difference


def _squared_distances(x: NDArray[np.float32], centers: NDArray[np.float32]) -> Any:
    """Squared distances (N, K) in float64, about the mean of the centres, where less is lost to rounding."""
    origin = centers.mean(axis=0, dtype=np.float64)
    rows, c = x - origin, centers - origin
    squared = rows @ (-2.0 * c.T)
    squared += np.einsum("nd,nd->n", rows, rows)[:, None]
    squared += np.einsum("kd,kd->k", c, c)
    return np.maximum(squared, 0.0, out=squared)
