r"""The specification of the backends: assignment, residuals and normalisation in float64 NumPy.

It is short and slow, and every other backend is tested against it. Descriptors :math:`x_1, \ldots, x_N` and
centres :math:`c_1, \ldots, c_K` are vectors of D numbers. Each image owns a run of consecutive descriptors.

**Assignment.** The nearest centre minimises
:math:`\|x - c_k\|^2 = \|x\|^2 - 2 (x \cdot c_k - \|c_k\|^2 / 2)`. The label of x is therefore

.. math::

    \operatorname{label}(x) = \arg\max_k s_k, \qquad s_k = x \cdot c_k - \tfrac{1}{2} \|c_k\|^2,

and the lowest k wins a tie. The maximum is that of the real numbers :math:`s_k`, not of their rounded values.
In float64, with unit roundoff :math:`u = 2^{-53}` and any order of summation, a computed score differs from
:math:`s_k` by at most

.. math::

    \varepsilon(x) = \gamma \left( \|x\| \max_k \|c_k\| + \tfrac{1}{2} \max_k \|c_k\|^2 \right),
    \qquad \gamma = \frac{m u}{1 - m u}, \qquad m = D + 4

(Higham, Accuracy and Stability of Numerical Algorithms, 2002, eq. 3.5, with the Cauchy-Schwarz inequality).
The 4 covers halving, the last addition and the rounding of :math:`\varepsilon` itself. If another score is
within :math:`2 \varepsilon` of the best, the sign of :math:`s_j - s_k` decides. It is taken from an exactly
rounded sum of products of float32 numbers; float64 holds each of these products without error. Duplicated
centres and other true ties therefore go to the lowest index on every machine and with every BLAS.

**VLAD** (Jegou, Douze, Schmid, Perez, CVPR 2010, section 3). For image b and cell k,

.. math::

    V_{bk} = \sum_{\operatorname{label}(x) = k} (x - c_k),

summed over the descriptors x of image b. A descriptor may also belong to several cells, or have a weight (see
:mod:`medvlad.encoders.memberships`). It then has a weight :math:`w_k(x)` in each cell. With hard assignment
the weight is 1 in the nearest cell and 0 elsewhere. The sum and the mass of a cell are

.. math::

    V_{bk} = \sum_x w_k(x) \, r_k(x), \qquad m_{bk} = \sum_x w_k(x),

where :math:`r_k(x)` is the residual :math:`x - c_k`, or the unit residual :math:`(x - c_k) / \|x - c_k\|`
with residual normalisation. The mass is the same with both. :math:`V_{bk} / m_{bk}` is therefore the mean
residual, or the mean unit residual.

**Normalisation.** The steps have this order. Each is optional; p is the power:

.. math::

    r_k(x) &\leftarrow (x - c_k) / \|x - c_k\| \\
    V_{bk} &\leftarrow V_{bk} / m_{bk} \\
    V_{bk} &\leftarrow R_k V_{bk} \\
    v &\leftarrow \operatorname{sign}(v) \, |v|^p \quad \text{for each number } v \\
    V_{bk} &\leftarrow V_{bk} / \|V_{bk}\| \\
    V_b &\leftarrow V_b / \|V_b\|

In words:

1. Scale each residual to unit length before the sum (Delhumeau et al., ACM Multimedia 2013).
2. Divide by the mass, which leaves the mean residual (an option of NetVLAD and VLFeat too). A descriptor at
   the centre counts in the mass, although its residual is zero.
3. Rotate into local axes (Delhumeau et al.; see :mod:`medvlad.encoders.local_axes`).
4. Apply the signed power (Jegou et al., PAMI 2012).
5. Scale each cell to unit length: intra-normalisation (Arandjelovic and Zisserman, CVPR 2013).
6. Scale the whole vector to unit length.

A mass or a norm below 1e-12 leaves zeros. An image without descriptors encodes to zeros. Everything is
computed in float64 and cast to float32 once, at the end.

**Rounding is not blown up.** Centres are float32, so :math:`c_k` stands for a vector within about
:math:`\rho \|c_k\|` of it, with :math:`\rho = 2^{-22}`. A residual of that size says nothing: if a cell was
learnt from the descriptors of one image, the sum of their residuals is rounding and not zero. Scaling it to
unit length would make it as large as any other cell. Steps 1 and 5 therefore leave zeros if

.. math::

    \|x - c_k\| \le \rho \, \|c_k\|, \qquad
    \|V_{bk}\| \le \rho \, \|c_k\| \sum_x \left| \frac{w_k(x)}{\ell_k(x)} \right|,

where :math:`\ell_k(x)` is the length that step 1 divided by, and 1 without step 1. The second test is made
on the sum, before the steps 2 to 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from medvlad.backends.normalise import Normalisation, divided_by_mass, without_rounding
from medvlad.backends.reference_distances import (
    by_column,
    candidate_distances,
    center_distances,
    column_sums,
    place,
    seeding,
    squared_distances,
    take,
)
from medvlad.descriptors.checks import check_encoded, check_finite

__all__ = [
    "aggregate",
    "assign",
    "by_column",
    "candidate_distances",
    "center_distances",
    "column_sums",
    "encode",
    "encode_weighted",
    "place",
    "seeding",
    "squared_distances",
    "take",
]

_UNIT_ROUNDOFF = 2.0**-53
_BLOCK_ROWS = 8192


def assign(
    x: NDArray[np.float32],
    centers: NDArray[np.float32],
    *,
    offsets: NDArray[np.int64] | None = None,
    n_threads: int = 1,
) -> NDArray[np.int32]:
    """Return the index of the nearest centre of each row.

    Parameters
    ----------
    x : ndarray of float32, shape (N, D)
    centers : ndarray of float32, shape (K, D)
    offsets : ndarray of int64, shape (B + 1,), optional
        First rows of the images, for the message of the error.
    n_threads : int
        Not used. The reference computes the same way on every machine.

    Returns
    -------
    ndarray of int32, shape (N,)

    Raises
    ------
    InputError
        If `x` holds NaN or infinity. `aggregate` and `encode` raise it as well. What they have written into
        given outputs is undefined then.
    """
    check_finite(x, offsets)
    c = centers.astype(np.float64)
    labels = np.empty(len(x), np.int32)
    for start in range(0, len(x), _BLOCK_ROWS):
        block = x[start : start + _BLOCK_ROWS].astype(np.float64)
        labels[start : start + len(block)] = _assign_block(block, c)
    return labels


def _assign_block(x: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the index of the largest score of each float64 row `x` (n, D) against centres `c` (K, D)."""
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
    """Return the lowest index among `candidates` with the largest real score of one row `x` (D,)."""
    best = int(candidates[0])
    for k in candidates[1:]:
        # 2 (s_k - s_best). Every term is exact in float64 and fsum rounds once, so the sign is exact.
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
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the un-normalised VLAD: summed residuals and number of descriptors of each cell.

    Parameters
    ----------
    x : ndarray of float32, shape (N, D)
    offsets : ndarray of int64, shape (B + 1,)
    centers : ndarray of float32, shape (K, D)
    n_threads : int
        Not used.

    Returns
    -------
    residuals : ndarray of float32, shape (B, K, D)
    counts : ndarray of int64, shape (B, K)
    """
    residuals = np.empty((len(offsets) - 1, *centers.shape), np.float32)
    counts = np.empty((len(offsets) - 1, len(centers)), np.int64)
    labels = assign(x, centers, offsets=offsets)
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite, as in C++
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
    """Return the normalised VLAD of each image.

    Parameters
    ----------
    x : ndarray of float32, shape (N, D)
    offsets : ndarray of int64, shape (B + 1,)
    centers : ndarray of float32, shape (K, D)
    power : float
        Exponent of the signed power. 1: no power.
    intra_norm : bool
        Scale each cell's residual to unit length.
    l2_norm : bool
        Scale the whole vector to unit length.
    n_threads : int
        Not used.
    out : ndarray of float32, shape (B, K * D), optional
        Array to write into. None: a new array.
    labels_out : ndarray of int32, shape (N,), optional
        Filled with the label of each row.
    counts_out : ndarray of int64, shape (B, K), optional
        Filled with the number of descriptors of each cell.

    Returns
    -------
    ndarray of float32, shape (B, K * D)
        `out`, if it was given.

    Raises
    ------
    InputError
        If `x` holds NaN or infinity, or a vector without norm is beyond float32.
    """
    how = Normalisation(power=power, intra_norm=intra_norm, l2_norm=l2_norm)
    labels = assign(x, centers, offsets=offsets)
    if labels_out is not None:
        labels_out[:] = labels
    encoded = np.empty((len(offsets) - 1, centers.size), np.float32) if out is None else out
    with np.errstate(over="ignore"):
        for b, (v, n) in enumerate(_residuals(x, offsets, centers, labels)):
            if intra_norm:
                v = without_rounding(v, n, centers)
            encoded[b] = how.apply(v).ravel()
            if counts_out is not None:
                counts_out[b] = n
    if not how.has_norm:
        check_encoded(encoded)
    return encoded


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
    """Return the normalised VLAD of each image from rows whose cells and weights are known.

    Parameters
    ----------
    x, offsets, centers, n_threads
        See :func:`encode`.
    cells : ndarray of int32, shape (N, r)
        Cells of each row. A row has no cell twice.
    weights : ndarray of float64, shape (N, r)
        Weight of the row in each of its cells.
    normalisation : Normalisation
    scales : ndarray of float64, shape (N, r), optional
        Factor of the residual of the row in each of its cells: one over its length, for residual
        normalisation. None: all 1. Masses do not depend on it.
    masses_out : ndarray of float64, shape (B, K), optional
        Filled with the sum of the weights in each cell.

    Returns
    -------
    ndarray of float32, shape (B, K * D)
    """
    encoded = np.empty((len(offsets) - 1, centers.size), np.float32)
    c = centers.astype(np.float64)
    for b, (first, last) in enumerate(pairwise(offsets)):
        v, masses, reach = np.zeros(c.shape), np.zeros(len(c)), np.zeros(len(c))
        for i in range(first, last):
            factors = weights[i] if scales is None else weights[i] * scales[i]
            v[cells[i]] += factors[:, None] * (x[i] - c[cells[i]])
            masses[cells[i]] += weights[i]
            reach[cells[i]] += np.abs(factors)
        if masses_out is not None:
            masses_out[b] = masses
        if normalisation.intra_norm:
            v = without_rounding(v, reach, centers)
        if normalisation.mass_norm:
            v = divided_by_mass(v, masses)
        with np.errstate(over="ignore"):
            encoded[b] = normalisation.apply(v).ravel()
    return encoded


def _residuals(
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    labels: NDArray[np.int32],
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Yield the summed residuals (K, D) in float64 and the counts (K,) of each image."""
    c = centers.astype(np.float64)
    for first, last in pairwise(offsets):
        v = np.zeros(c.shape)
        own = labels[first:last]
        np.add.at(v, own, x[first:last] - c[own])
        yield v, np.bincount(own, minlength=len(c))
