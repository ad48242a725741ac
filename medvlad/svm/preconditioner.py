r"""Preconditioner of the conjugate gradients: the largest eigenvalues of the curvature, from one pass.

The matrices of the Newton steps are :math:`H = I + B`, with :math:`B = \sum_i c_i x_i x_i^T` over the active
rows. Encoded images have few directions with much larger eigenvalues than the others, the mean above all, and
the number of passes grows with the square root of the largest. The randomised Nyström approximation of rank
:math:`r` (Frangella, Tropp & Udell, SIAM J. Matrix Anal. Appl. 44, 2023) takes them out:

.. math::

   \hat B = Y (\Omega^T Y)^{-1} Y^T = U \Lambda U^T , \qquad Y = B \, \Omega ,

with :math:`r` orthonormal random columns :math:`\Omega`. :math:`Y` is one product with a block of columns, in
the same pass as the first gradient. The preconditioner is

.. math::

   M^{-1} = I + U \, \mathrm{diag}\!\left( \frac{s \lambda_r + 1}{s \lambda_i + 1} - 1 \right) U^T .

:math:`B` is summed over all rows. The share :math:`s` of the weights that are active in a step scales it. If
the eigenvalues do not fall, :math:`M = I`. :math:`U` is in float64. Rounded to float32, it would cost fifty
times as many passes if the mean of the rows is a thousand times their spread.
"""

from __future__ import annotations

import numpy as np

from medvlad.svm.blocks import Vector

__all__ = ["apply", "nystrom", "random_columns", "rank_for"]

_MOST_COLUMNS = 256
_MOST_ENTRIES = 1 << 22


def rank_for(n_samples: int, size: int) -> int:
    """Return the number of columns for a matrix with `size` rows. It depends on the shape only."""
    return max(0, min(_MOST_COLUMNS, _MOST_ENTRIES // size, min(n_samples, size) // 4))


def random_columns(size: int, rank: int) -> Vector:
    """Return orthonormal columns (size, rank). They are always the same for a shape."""
    drawn = np.random.default_rng(0).standard_normal((size, rank))
    columns: Vector = np.linalg.qr(drawn)[0]
    return columns


def nystrom(columns: Vector, products: Vector, eps: float) -> tuple[Vector, Vector]:
    """Return U (size, rank) and the eigenvalues, largest first.

    Parameters
    ----------
    columns, products : ndarray of float64, shape (size, rank)
        Omega and Y of the module docstring.
    eps : float
        Relative rounding error of the products.
    """
    shift = np.sqrt(len(columns)) * eps * float(np.linalg.norm(products))
    if not shift > 0:
        return np.zeros((len(columns), 0)), np.zeros(0)
    shifted = products + shift * columns
    middle = columns.T @ shifted
    values, vectors = np.linalg.eigh((middle + middle.T) / 2)
    values = np.maximum(values, shift)
    half = shifted @ (vectors / np.sqrt(values))
    squares, vectors = np.linalg.eigh(half.T @ half)
    keep = np.flatnonzero(squares > shift)[::-1]
    basis = half @ (vectors[:, keep] / np.sqrt(squares[keep]))
    return basis, squares[keep] - shift


def apply(basis: Vector, eigenvalues: Vector, share: float, residual: Vector) -> Vector:
    """Return the product of the inverse preconditioner and a residual (size,)."""
    if not len(eigenvalues):
        return residual.copy()
    scaled = share * eigenvalues
    factors = (scaled[-1] + 1.0) / (scaled + 1.0) - 1.0
    product: Vector = residual + basis @ (factors * (basis.T @ residual))
    return product
