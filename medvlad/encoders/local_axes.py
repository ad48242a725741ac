r"""Local axes: each cell's residual is rotated into the principal axes of that cell.

.. math::

    V_k \leftarrow R_k V_k

The rows of :math:`R_k` are the principal axes of the training residuals :math:`x - c_k` of cell k, largest
first. The rotation comes after the division by mass and before the signed power. It gives the power axes
along which the data of the cell vary. This is the local coordinate system of Delhumeau, Gosselin, Jegou and
Perez (Revisiting the VLAD image representation, ACM Multimedia 2013).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from medvlad.encoders.memberships import Memberships

__all__ = ["principal_axes", "rotated"]


def principal_axes(x: NDArray[np.float32], memberships: Memberships) -> NDArray[np.float32]:
    """Return the principal axes of the residuals of each cell.

    Parameters
    ----------
    x : ndarray of float32, shape (N, D)
        Training descriptors.
    memberships : Memberships
        Holds the centres, and decides whether residuals get unit length first. A descriptor belongs to the
        cell of its nearest centre here, even with soft assignment.

    Returns
    -------
    ndarray of float32, shape (K, D, D)
        One axis per row, largest variance first. The entry of largest magnitude in a row is positive.
    """
    centers = memberships.centers
    n_clusters, width = centers.shape
    labels = memberships.labels(x)
    scales = memberships.scales(x, labels[:, None])
    axes = np.empty((n_clusters, width, width), np.float32)
    for k in range(n_clusters):
        rows = x[labels == k].astype(np.float64) - centers[k]
        if scales is not None:
            rows *= scales[labels == k]
        _, vectors = eigh(rows.T @ rows)
        largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(width)]
        axes[k] = (vectors * np.where(largest < 0, -1.0, 1.0)).T[::-1]
    return axes


def rotated(vectors: NDArray[np.float32], rotations: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rotate summed residuals into the axes of their cells.

    Parameters
    ----------
    vectors : ndarray of float32, shape (B, K * D)
    rotations : ndarray of float32, shape (K, D, D)

    Returns
    -------
    ndarray of float64, shape (B, K, D)
    """
    n_clusters, width, _ = rotations.shape
    by_cell = vectors.reshape(len(vectors), n_clusters, width).swapaxes(0, 1)
    turned: NDArray[np.float32] = np.matmul(by_cell, rotations.swapaxes(1, 2)).swapaxes(0, 1)
    return turned.astype(np.float64)
