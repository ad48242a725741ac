r"""A test whether groups of images differ, in which a patient counts once.

Images of one patient resemble one another, so a chi-squared test that takes them for independent finds
differences where there are none. Here a *unit* is one patient, or a set of copies, in one group. A unit has
the means :math:`f_u` of its images: the share of each class, or the share of images with a border. Let
:math:`m_g` be the number of units in group g, :math:`\bar f_g` their mean, and S the covariance of all
:math:`f_u`. The statistic is

.. math::

    Q = \sum_g m_g \, (\bar f_g - \bar f)^T S^{-1} (\bar f_g - \bar f)

The p-value is the share of 9,999 random assignments of units to groups with at least this Q (Good,
Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005). If Q is far from a finding, or there are
more than 5,000 units, the chi-squared distribution is used instead. If every unit is a single image, the
p-value is that of Pearson's chi-squared test.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, chi2_contingency

__all__ = ["group_p_value"]

_PERMUTATIONS = 9_999
_PERMUTED_UNITS = 5_000
_CLEAR = 0.1  # p-value of the chi-squared distribution above which no permutation is needed
_BLOCK = 1 << 21  # assignments of a unit in memory at a time


def group_p_value(
    groups: NDArray[np.integer],
    outcomes: NDArray[np.integer],
    units: NDArray[np.integer],
    random_state: int,
) -> float:
    """Return the p-value of "the outcome does not depend on the group".

    Parameters
    ----------
    groups : ndarray of int, shape (n,)
        Part or class of each image.
    outcomes : ndarray of int, shape (n,)
        What is compared: the class, or 1 for an image with a border and 0 without.
    units : ndarray of int, shape (n,)
        Images with the same number are not independent: those of one patient, and copies.
    random_state : int
        Seed of the permutations.

    Returns
    -------
    float
        1 if there is a single group or a single outcome.
    """
    kinds, outcome = np.unique(outcomes, return_inverse=True)
    present, group = np.unique(groups, return_inverse=True)
    if len(kinds) < 2 or len(present) < 2:
        return 1.0
    cells, own = np.unique(np.column_stack([units, group]), axis=0, return_inverse=True)
    own = own.reshape(-1)
    counts = np.zeros((len(cells), len(kinds)))
    np.add.at(counts, (own, outcome), 1)
    of_cell = cells[:, 1]
    if len(cells) == len(groups):
        table = np.stack([counts[of_cell == g].sum(axis=0) for g in range(len(present))])
        return float(chi2_contingency(table, correction=False).pvalue)
    z = _whitened(counts / counts.sum(axis=1, keepdims=True))
    sizes = np.bincount(of_cell)
    statistic = float(_statistics(of_cell[None], z, sizes)[0])
    p = float(chi2.sf(statistic, (len(present) - 1) * z.shape[1]))
    if p > _CLEAR or len(cells) > _PERMUTED_UNITS:
        return p
    rng = np.random.default_rng(random_state)
    n_larger, step = 0, max(1, _BLOCK // len(cells))
    for start in range(0, _PERMUTATIONS, step):
        drawn = np.tile(of_cell, (min(step, _PERMUTATIONS - start), 1))
        n_larger += int((_statistics(rng.permuted(drawn, axis=1), z, sizes) >= statistic * (1 - 1e-9)).sum())
    return (1 + n_larger) / (1 + _PERMUTATIONS)


def _whitened(f: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of units (U, K), centred and with unit covariance, in the dimensions that vary."""
    centred = f - f.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    whitened: NDArray[np.float64] = left[:, values > 1e-9 * values[0]] * np.sqrt(len(f) - 1)
    return whitened


def _statistics(
    groups: NDArray[np.integer], z: NDArray[np.float64], sizes: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return Q of each assignment (B, U) of units with whitened means z (U, r)."""
    total = np.zeros(len(groups))
    for g, size in enumerate(sizes):
        total += (((groups == g) @ z) ** 2).sum(axis=1) / size
    return total
