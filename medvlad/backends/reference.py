r"""The written specification: assignment, residuals and normalisation in float64 NumPy, short and slow.

Symbols: descriptors x_1..x_N in R^D, cluster centres c_1..c_K in R^D, images b = 1..B owning runs of rows;
x.c is the scalar product and ``|x|`` the Euclidean length.

**Assignment.** The nearest centre minimises ``|x - c_k|^2 = |x|^2 - 2 (x.c_k - |c_k|^2 / 2)``, so::

    label(x) = argmax_k s_k,    s_k = x.c_k - |c_k|^2 / 2,    the lowest k on a tie.

The argmax is that of the real numbers s_k, not of their rounded values. In float64, with unit
roundoff u = 2^-53 and any order of summation, the computed score differs from s_k by at most::

    eps(x) = gamma (|x| max_k |c_k| + max_k |c_k|^2 / 2),   gamma = m u / (1 - m u),   m = D + 4

(Higham, Accuracy and Stability of Numerical Algorithms, 2002, eq. 3.5, with Cauchy-Schwarz; the 4
covers halving, the last addition and the rounding of eps itself). Where another score
comes within 2 eps of the best, the sign of s_j - s_k is taken from an exactly rounded sum of products
of float32 numbers, each of which float64 holds without error. So duplicated centres and other true
ties go to the lowest index whatever the machine, its BLAS or its number of threads.

**VLAD** (Jegou, Douze, Schmid, Perez, CVPR 2010, section 3). For image b and cell k::

    V_bk = sum over rows x of image b with label k of (x - c_k),      n_bk = number of these rows.

Where a row is in several cells, or counts otherwise than once (:mod:`medvlad.encoders.memberships`), it
has a weight w_k in each: V_bk = sum of w_k (x - c_k), and its mass is m_bk = sum of w_k.

**Normalisation,** in this order, all but the last where wanted; powers and signs are taken number by number::

    residual    x - c_k <- (x - c_k) / |x - c_k|        (Delhumeau et al., ACM MM 2013), before the sum
    mass        V_bk <- V_bk / m_bk                     (the mean residual; NetVLAD and VLFeat offer it)
    local axes  V_bk <- R_k V_bk                        (Delhumeau et al.; R_k: medvlad.encoders.vlad)
    power       v <- sign(v) |v|^power                  (Jegou et al., PAMI 2012)
    intra       V_bk <- V_bk / |V_bk|                   (Arandjelovic and Zisserman, CVPR 2013)
    L2          (V_b1, ..., V_bK) <- the same / its norm

A norm below 1e-12 gives zeros; an image without descriptors encodes to zeros. Everything is computed in
float64 and cast to float32 once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "NORM_FLOOR",
    "aggregate",
    "assign",
    "candidate_distances",
    "column_sums",
    "encode",
    "encode_weighted",
    "normalised",
    "place",
    "squared_distances",
    "take",
    "unit",
]

#: Norms below this leave zeros.
NORM_FLOOR = 1e-12

_UNIT_ROUNDOFF = 2.0**-53
_BLOCK_ROWS = 8192
_POTENTIAL_ROWS = 1024


def assign(x: NDArray[np.float32], centers: NDArray[np.float32], *, n_threads: int = 1) -> NDArray[np.int32]:
    """Label of the nearest centre of each row.

    Parameters
    ----------
    x : ndarray of float32, shape (N, D)
    centers : ndarray of float32, shape (K, D)
    n_threads : int
        Not used: one way of computing, whatever the machine.

    Returns
    -------
    ndarray of int32, shape (N,)
    """
    c = centers.astype(np.float64)
    labels = np.empty(len(x), np.int32)
    for start in range(0, len(x), _BLOCK_ROWS):
        block = x[start : start + _BLOCK_ROWS].astype(np.float64)
        labels[start : start + len(block)] = _assign_block(block, c)
    return labels


def _assign_block(x: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.intp]:
    """Argmax of the scores of float64 rows `x` (n, D) against centres `c` (K, D)."""
    half_norms = 0.5 * np.einsum("kd,kd->k", c, c)
    scores = x @ c.T - half_norms
    labels: NDArray[np.intp] = scores.argmax(axis=1)
    m_u = (x.shape[1] + 4) * _UNIT_ROUNDOFF
    largest = half_norms.max()
    row_norms = np.sqrt(np.einsum("nd,nd->n", x, x))
    eps = m_u / (1 - m_u) * (row_norms * math.sqrt(2 * largest) + largest)
    near = scores >= (scores.max(axis=1) - 2 * eps)[:, None]
    for row in np.flatnonzero(near.sum(axis=1) > 1):
        labels[row] = _exact_argmax(x[row], c, np.flatnonzero(near[row]))
    return labels


def _exact_argmax(x: NDArray[np.float64], c: NDArray[np.float64], candidates: NDArray[np.intp]) -> int:
    """Lowest index among `candidates` of the largest real score of one row `x` (D,)."""
    best = int(candidates[0])
    for k in candidates[1:]:
        # 2 (s_k - s_best), every term exact in float64, the sum rounded once: its sign is exact.
        terms = np.concatenate([2 * x * c[k], -2 * x * c[best], -c[k] * c[k], c[best] * c[best]])
        if math.fsum(terms) > 0:
            best = int(k)
    return best


def aggregate(
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    *,
    n_threads: int = 1,
    labels_out: NDArray[np.int32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Un-normalised VLAD: summed residuals and the number of descriptors of each cell.

    Parameters
    ----------
    x : ndarray of float32, shape (N, D)
    offsets : ndarray of int64, shape (B + 1,)
    centers : ndarray of float32, shape (K, D)
    n_threads : int
        Not used.
    labels_out : ndarray of int32, shape (N,), optional
        Filled with the label of each row.

    Returns
    -------
    residuals : ndarray of float32, shape (B, K, D)
    counts : ndarray of int64, shape (B, K)
    """
    residuals = np.empty((len(offsets) - 1, *centers.shape), np.float32)
    counts = np.empty((len(offsets) - 1, len(centers)), np.int64)
    labels = assign(x, centers)
    if labels_out is not None:
        labels_out[:] = labels
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, as in C++
        for b, (v, n) in enumerate(_residuals(x, offsets, centers, labels)):
            residuals[b], counts[b] = v, n
    return residuals, counts


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
) -> NDArray[np.float32]:
    """VLAD of each image, normalised.

    Parameters
    ----------
    x : ndarray of float32, shape (N, D)
    offsets : ndarray of int64, shape (B + 1,)
    centers : ndarray of float32, shape (K, D)
    power : float
        Exponent of the signed power; 1 leaves it out.
    intra_norm, l2_norm : bool
    n_threads : int
        Not used.
    out : ndarray of float32, shape (B, K * D), optional
        Where to write; a new array without it.
    labels_out : ndarray of int32, shape (N,), optional
        Filled with the label of each row.
    counts_out : ndarray of int64, shape (B, K), optional
        Filled with the number of descriptors of each cell.

    Returns
    -------
    ndarray of float32, shape (B, K * D)
        `out`, where it was given.
    """
    labels = assign(x, centers)
    if labels_out is not None:
        labels_out[:] = labels
    encoded = np.empty((len(offsets) - 1, centers.size), np.float32) if out is None else out
    with np.errstate(over="ignore"):
        for b, (v, n) in enumerate(_residuals(x, offsets, centers, labels)):
            encoded[b] = normalised(v, power=power, intra_norm=intra_norm, l2_norm=l2_norm).ravel()
            if counts_out is not None:
                counts_out[b] = n
    return encoded


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
    """VLAD of each image, normalised, of rows whose cells and weights are known.

    Parameters
    ----------
    cells : ndarray of int32, shape (N, r)
        Cells of each row, none of them twice.
    weights : ndarray of float64, shape (N, r)
        How much of the row is in each.
    mass_norm : bool
        Divide each cell's residual by the sum of its weights.
    masses_out : ndarray of float64, shape (B, K), optional
        Filled with those sums.
    x, offsets, centers, power, intra_norm, l2_norm, n_threads
        See :func:`encode`.

    Returns
    -------
    ndarray of float32, shape (B, K * D)
    """
    encoded = np.empty((len(offsets) - 1, centers.size), np.float32)
    c = centers.astype(np.float64)
    for b, (first, last) in enumerate(pairwise(offsets)):
        v, masses = np.zeros(c.shape), np.zeros(len(c))
        for i in range(first, last):
            v[cells[i]] += weights[i][:, None] * (x[i] - c[cells[i]])
            masses[cells[i]] += weights[i]
        if masses_out is not None:
            masses_out[b] = masses
        if mass_norm:
            large = np.abs(masses) >= NORM_FLOOR
            v *= np.divide(1.0, masses, out=np.zeros_like(masses), where=large)[:, None]
        with np.errstate(over="ignore"):
            encoded[b] = normalised(v, power=power, intra_norm=intra_norm, l2_norm=l2_norm).ravel()
    return encoded


def normalised(
    v: NDArray[np.float64], *, power: float, intra_norm: bool, l2_norm: bool
) -> NDArray[np.float64]:
    """Power, intra- and L2 normalisation of residuals `v` (..., K, D)."""
    if power != 1.0:
        v = np.sign(v) * np.abs(v) ** power
    if intra_norm:
        v = unit(v)
    if l2_norm:
        v = unit(v.reshape(*v.shape[:-2], -1)).reshape(v.shape)
    return v


def squared_distances(
    x: NDArray[np.float32], centers: NDArray[np.float32], labels: NDArray[np.int32], *, n_threads: int = 1
) -> NDArray[np.float64]:
    """Squared distance of each row to the centre of its label.

    Parameters
    ----------
    x : ndarray of float32, shape (N, D)
    centers : ndarray of float32, shape (K, D)
    labels : ndarray of int32, shape (N,)
    n_threads : int
        Not used.

    Returns
    -------
    ndarray of float64, shape (N,)
    """
    distances = np.empty(len(x))
    for start in range(0, len(x), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        difference = x[rows].astype(np.float64) - centers[labels[rows]]
        distances[rows] = _ordered_sum(difference * difference)
    return distances


def candidate_distances(
    x: NDArray[np.float32],
    norms: NDArray[np.float64],
    candidates: NDArray[np.int64],
    closest: NDArray[np.float64],
    *,
    n_threads: int = 1,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One step of greedy k-means++: what the distances to the nearest seed become with each candidate.

    Parameters
    ----------
    x : ndarray of float32, shape (N, D)
    norms : ndarray of float64, shape (N,)
        Squared norms of the rows, as :func:`squared_distances` gives them for a centre of zeros.
    candidates : ndarray of int64, shape (T,)
        Rows of `x`.
    closest : ndarray of float64, shape (N,)
        Squared distance of each row to its nearest seed so far.
    n_threads : int
        Not used.

    Returns
    -------
    distances : ndarray of float64, shape (T, N)
        min(closest, |x - c|^2); 0 where |x - c|^2 is within its rounding error of 0.
    potentials : ndarray of float64, shape (T,)
        Their sums: over runs of 1024 rows, then over the runs, each in order.
    """
    rounding = 4 * (x.shape[1] + 4) * _UNIT_ROUNDOFF
    distances = np.empty((len(candidates), len(x)))
    for t, row in enumerate(candidates):
        for start in range(0, len(x), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            scale = norms[rows] + norms[row]
            squared = scale - 2.0 * _ordered_sum(x[rows].astype(np.float64) * x[row])
            squared[~(squared > rounding * scale)] = 0.0
            distances[t, rows] = np.minimum(squared, closest[rows])
    runs = [
        np.cumsum(distances[:, i : i + _POTENTIAL_ROWS], axis=1)[:, -1]
        for i in range(0, len(x), _POTENTIAL_ROWS)
    ]
    return distances, np.cumsum(runs, axis=0)[-1]


def place(x: Any) -> Any:
    """Descriptors where they are."""
    return x


def take(x: NDArray[np.float32], rows: NDArray[np.integer]) -> NDArray[np.float32]:
    """Copy rows of `x` (N, D)."""
    taken: NDArray[np.float32] = x[rows]
    return taken


def column_sums(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum of `x` (N, D), feature by feature, in float64."""
    total: NDArray[np.float64] = np.zeros(x.shape[1])
    for start in range(0, len(x), _BLOCK_ROWS):
        total += x[start : start + _BLOCK_ROWS].sum(axis=0, dtype=np.float64)
    return total


def _ordered_sum(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum `terms` (N, D) along rows in the order that every backend keeps, so that sums agree to the bit.

    Eight running sums, folded by halves; then what D leaves over after division by eight, one by one.
    """
    whole = terms.shape[1] - terms.shape[1] % 8
    lanes = np.zeros((len(terms), 8))
    for j in range(0, whole, 8):
        lanes += terms[:, j : j + 8]
    lanes = lanes[:, :4] + lanes[:, 4:]
    lanes = lanes[:, :2] + lanes[:, 2:]
    total: NDArray[np.float64] = lanes[:, 0] + lanes[:, 1]
    for j in range(whole, terms.shape[1]):
        total += terms[:, j]
    return total


def _residuals(
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    labels: NDArray[np.int32],
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Yield the float64 residual sums (K, D) and counts (K,) of each image."""
    c = centers.astype(np.float64)
    for first, last in pairwise(offsets):
        v = np.zeros(c.shape)
        own = labels[first:last]
        np.add.at(v, own, x[first:last] - c[own])
        yield v, np.bincount(own, minlength=len(c))


def unit(v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale the vectors along the last axis to unit length; zeros where the norm is below the floor."""
    norm = np.linalg.norm(v, axis=-1, keepdims=True)
    scaled: NDArray[np.float64] = np.divide(v, norm, out=np.zeros_like(v), where=norm >= NORM_FLOOR)
    return scaled
