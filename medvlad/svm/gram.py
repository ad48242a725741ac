r"""The Gram matrix of the linear SVM: in float64, or faster from approximate products.

The rows minus their mean, :math:`z_i`, have the parts :math:`l_i` along the unit vector :math:`e` of
:mod:`medvlad.svm.newton`, and :math:`r_i = z_i - l_i e`. The matrix is :math:`M = R R^T`.

**Float64.** :math:`M = Z Z^T - l l^T`, summed over blocks of columns.

**Fast products.** Let :math:`e = (d, c)`, where :math:`c` belongs to the constant feature. Then

.. math::

   M = R_d R_d^T + c^2 \, l l^T , \qquad R_d = Z - l d^T .

The entries of :math:`R_d` are computed in float64 and then rounded, so an offset of the rows costs no digits.
Processors with tiles of bfloat16 take two bfloat16 for each entry (``csrc/simd/gram_tiles.hpp``). Others take
float32. Both sum short runs of columns in float32, and the runs in float64. The relative error is about
:math:`2^{-17}`; :mod:`medvlad.svm.refinement` measures and corrects its effect.

**Choice.** Fast products save time that grows with the square of the number of rows, and the refinement costs
passes over the rows. So they are used from a number of rows and of multiplications on, see
``has_fast_gram``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import ssyrk

from medvlad import backends
from medvlad._util.processors import usable_processors
from medvlad.svm.blocks import BLAS_WORK, GRAM_BLOCK, Vector, add_product, blocks

__all__ = ["fast_gram", "gram", "has_fast_gram"]

# From these on, fast products take less time than float64. See "Choice" above.
_LEAST_ROWS = 1000
_LEAST_PRODUCTS = 2e10
_RUN = 8192  # columns that float32 sums


def has_fast_gram(n_samples: int, n_features: int) -> bool:
    """Return whether approximate products are faster for a matrix of this shape."""
    return n_samples >= _LEAST_ROWS and float(n_samples) ** 2 * n_features >= _LEAST_PRODUCTS


def gram(x: NDArray[Any], mean: Vector, along: Vector) -> Vector:
    """Return the lower triangle of M in float64, in Fortran order.

    Parameters
    ----------
    x : ndarray of float32 or float64, shape (n_samples, n_features)
    mean : ndarray of float64, shape (n_features,)
    along : ndarray of float64, shape (n_samples,)
        :math:`l` of the module docstring.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        matrix: Vector = np.multiply.outer(along, -along).T  # symmetric, so that it is in Fortran order
    for _, block in blocks(x, 1, GRAM_BLOCK, shift=mean):
        matrix = add_product(matrix, block, outer=True)
    return matrix


def fast_gram(x: NDArray[Any], mean: Vector, along: Vector, direction: Vector, constant: float) -> Vector:
    """Return an approximation of the lower triangle of M, as float64 in Fortran order.

    Parameters
    ----------
    x, mean, along
        See :func:`gram`.
    direction : ndarray of float64, shape (n_features,)
    constant : float
        :math:`d` and :math:`c` of the module docstring.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        matrix: Vector = np.multiply.outer(constant * constant * along, along).T
        shifted = backends.ShiftedRows(x, mean, along, direction)
        if not backends.add_gram(shifted, matrix.T, n_threads=usable_processors().number):
            _add_gram_of_floats(shifted, matrix)
    return matrix


def _add_gram_of_floats(rows: backends.ShiftedRows, matrix: Vector) -> None:
    """Add the products of the shifted rows in float32 to the lower triangle of a Fortran array."""
    x, mean, along, direction = rows
    n, filled = len(x), 0
    sums = np.zeros((n, n), np.float32, order="F")
    np.empty(BLAS_WORK, np.uint8)  # see add_product
    for columns, block in blocks(x, 1, GRAM_BLOCK, shift=mean):
        block -= np.multiply.outer(along, direction[columns])
        part = block.astype(np.float32)
        sums = ssyrk(1.0, part.T, beta=float(filled > 0), c=sums, trans=1, lower=1, overwrite_c=1)
        filled += part.shape[1]
        if filled >= _RUN:
            matrix += sums
            filled = 0
    if filled:
        matrix += sums
