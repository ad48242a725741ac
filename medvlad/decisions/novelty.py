r"""A test for images that are unlike the training images.

The novelty of an image is the distance of its vector to the nearest of at most 1,000 training vectors
:math:`r`, divided by the distance of that vector to its own nearest neighbour among them,

.. math::

   d(x) = \frac{\lVert x - r \rVert}{\min_{r' \ne r} \lVert r - r' \rVert}, \qquad
   r = \operatorname{argmin}_r \lVert x - r \rVert .

The novelty of the held-out images inside the training folds shows what is usual. The p-value of an image is
conformal (:mod:`medvlad.decisions.conformal`): one plus the number of the :math:`n` held-out images that
are at least as novel, divided by :math:`n + 1`. An image like the training images has a p-value below 0.05
with a probability of 5 %, whatever the distribution is.

**Long vectors.** Vectors longer than 512 numbers are reduced to 512 before the comparison: each number
goes, with a random sign, into one of 512 sums (count sketch; Charikar, Chen & Farach-Colton, ICALP 2002).
Squared distances keep their expected values, with a relative standard deviation of at most
:math:`\sqrt{2 / 512}` (6 %) for vectors that are spread over many numbers. So a model file grows by about 2
MB, whatever the encoding is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist

__all__ = ["FLAGGED_BELOW", "MAX_REFERENCES", "Novelty", "References", "make_references", "p_values_of"]

#: An image with a lower p-value is called unlike the training images.
FLAGGED_BELOW = 0.05
#: Maximum number of training vectors that a model keeps.
MAX_REFERENCES = 1000

_WIDTH = 512  # numbers of a reduced vector
_ROWS = 256  # vectors in a block
_FLOOR = 1e-12

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class References:
    """Training vectors that new ones are compared with.

    Attributes
    ----------
    vectors : ndarray of float32, shape (m, w)
        Vectors, reduced if they are long.
    scales : ndarray of float64, shape (m,)
        Distance of each to the nearest other one.
    cells : ndarray of int64, shape (d,), or None
        Sum that each of the d numbers of a vector goes to, from 1. Negative if the number changes its sign.
        None: vectors are not reduced.
    """

    vectors: NDArray[np.float32]
    scales: Vector
    cells: NDArray[np.int64] | None

    def novelty(self, vectors: Any) -> Vector:
        """Return the novelty of vectors (n, d). 0 is a training vector; values have no upper limit."""
        found = np.empty(len(vectors))
        for start in range(0, len(vectors), _ROWS):
            distance = cdist(_reduced(vectors[start : start + _ROWS], self.cells), self.vectors)
            nearest = distance.argmin(axis=1)
            own = distance[np.arange(len(distance)), nearest]
            found[start : start + _ROWS] = own / np.maximum(self.scales[nearest], _FLOOR)
        return found


@dataclass(frozen=True, eq=False)
class Novelty:
    """Test of new images, see the module docstring.

    Attributes
    ----------
    references : References
    held_out : ndarray of float64, shape (n,)
        Novelty of held-out training images.
    """

    references: References
    held_out: Vector

    def p_values(self, vectors: Any) -> Vector:
        """Return the p-value of each image.

        Parameters
        ----------
        vectors : ndarray of float, shape (n, d)
            Encoded images.

        Returns
        -------
        ndarray of float64, shape (n,)
            Above 0, at most 1. Small: unlike the training images.
        """
        return p_values_of(self.references.novelty(vectors), self.held_out)


def p_values_of(novelty: Vector, held_out: Vector) -> Vector:
    """Return the conformal p-values of novelties (n,), given those of held-out images (m,)."""
    ordered = np.sort(held_out)
    at_least = len(ordered) - np.searchsorted(ordered, novelty, side="left")
    return np.asarray((1 + at_least) / (len(ordered) + 1), np.float64)


def make_references(
    vectors: Any, *, n_references: int = MAX_REFERENCES, random_state: int = 0
) -> References | None:
    """Choose the vectors that new ones are compared with.

    Parameters
    ----------
    vectors : ndarray of float, shape (n, d)
        Encoded training images.
    n_references : int, default=1000
        Maximum number. More vectors are subsampled at random.
    random_state : int, default=0
        Seed of the subsample and of the reduction.

    Returns
    -------
    References or None
        None if there are fewer than two vectors.
    """
    rng = np.random.default_rng(random_state)
    width = vectors.shape[1]
    cells = None
    if width > _WIDTH:
        cells = rng.integers(1, _WIDTH + 1, width) * rng.choice([-1, 1], width)
    rows = np.arange(len(vectors))
    if len(rows) > n_references:
        rows = np.sort(rng.choice(rows, n_references, replace=False))
    if len(rows) < 2:
        return None
    blocks = [_reduced(vectors[rows[i : i + _ROWS]], cells) for i in range(0, len(rows), _ROWS)]
    kept = np.concatenate(blocks).astype(np.float32)
    scales = np.empty(len(kept))
    for start in range(0, len(kept), _ROWS):
        distance = cdist(kept[start : start + _ROWS], kept)
        distance[np.arange(len(distance)), np.arange(start, start + len(distance))] = np.inf
        scales[start : start + _ROWS] = distance.min(axis=1)
    return References(kept, scales, cells)


def _reduced(vectors: Any, cells: NDArray[np.int64] | None) -> NDArray[Any]:
    """Return vectors (n, d) as (n, w): the signed sums, or the vectors themselves."""
    rows = np.asarray(vectors)
    if cells is None:
        return rows
    signs = np.sign(cells).astype(np.float64)
    sums = csr_array((signs, (np.abs(cells) - 1, np.arange(len(cells)))), shape=(_WIDTH, len(cells)))
    return np.asarray((sums @ rows.T).T)
