r"""Test for images that are unlike the training images.

An image is represented by the mean of its descriptors, scaled to unit length. Its novelty is its mean
distance to the five nearest of at most 1,000 training images,

.. math::

   d(x) = \frac{1}{5} \sum_{r \in N_5(x)} \lVert x - r \rVert .

Five images are more robust than one: a single unusual training image would make similar images look usual.

The novelty is compared with that of held-out images, from folds inside the training images. The p-value of an
image is conformal (:mod:`medvlad.decisions.conformal`): one plus the number of the :math:`n` held-out images
that are at least as novel, divided by :math:`n + 1`. If each patient has one image, an image that is
exchangeable with the training images has a p-value below 0.05 with a probability of about 5 %. No theorem
bounds this, because held-out images are compared with other training images than new ones. If patients have
several images, the number of patients counts: with few patients the probability is larger.

Mean descriptors are used for every encoding. VLAD vectors are much worse for this test: they are sums of
residuals that are scaled to unit length, so they do not contain the distance to the centres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from medvlad._util.validate import InputError
from medvlad.descriptors.array_api import on_host
from medvlad.encoders.pooling import GlobalPool

__all__ = [
    "FLAGGED_BELOW",
    "MAX_REFERENCES",
    "Novelty",
    "make_references",
    "mean_descriptors",
    "novelty_of",
]

#: An image with a lower p-value is called unlike the training images.
FLAGGED_BELOW = 0.05
#: Maximum number of training images that a model keeps for comparison.
MAX_REFERENCES = 1000

_NEAREST = 5
_ROWS = 256  # images in a block

Vector = NDArray[np.float64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Novelty:
    """Test of new images. The module docstring has the formulas.

    Attributes
    ----------
    references : ndarray of float32, shape (m, D)
        Mean descriptors of training images.
    held_out : ndarray of float64, shape (n,)
        Novelty of held-out training images, in ascending order.
    """

    references: Vectors
    held_out: Vector

    def p_values(self, vectors: Any) -> Vector:
        """Return the p-value of each image.

        Parameters
        ----------
        vectors : ndarray of float, shape (n, D)
            Mean descriptors, see `mean_descriptors`.

        Returns
        -------
        ndarray of float64, shape (n,)
            Above 0, at most 1. Small: unlike the training images.

        Raises
        ------
        InputError
            If the vectors have another length.
        """
        vectors = np.asarray(vectors)
        width = self.references.shape[1]
        if vectors.ndim != 2 or vectors.shape[1] != width:
            raise InputError(
                f"novelty needs mean descriptors of shape (n, {width}), got {vectors.shape}: make them with "
                "medvlad.decisions.mean_descriptors"
            )
        found = novelty_of(self.references, vectors)
        at_least = len(self.held_out) - np.searchsorted(self.held_out, found, side="left")
        return np.asarray((1 + at_least) / (len(self.held_out) + 1), np.float64)


def mean_descriptors(descriptors: Any) -> Vectors:
    """Return the mean of each image's descriptors, scaled to unit length.

    Parameters
    ----------
    descriptors : Descriptors, DescriptorBlocks, list of (n_i, D) or array (B, n, D)

    Returns
    -------
    ndarray of float32, shape (B, D)
        Zeros for an image without descriptors.
    """
    pooled = GlobalPool().set_output(transform="default").fit(descriptors).transform(descriptors)
    return np.asarray(on_host(pooled, "descriptors"), np.float32)


def make_references(
    vectors: NDArray[Any], *, n_references: int = MAX_REFERENCES, random_state: int = 0
) -> Vectors:
    """Choose the training images that new images are compared with.

    Parameters
    ----------
    vectors : ndarray of float, shape (n, D)
        Mean descriptors of training images.
    n_references : int, default=1000
        Maximum number. More images are subsampled at random.
    random_state : int, default=0
        Seed of the subsample.

    Returns
    -------
    ndarray of float32, shape (m, D)
    """
    if len(vectors) > n_references:
        rows = np.random.default_rng(random_state).choice(len(vectors), n_references, replace=False)
        vectors = vectors[np.sort(rows)]
    return np.ascontiguousarray(vectors, np.float32)


def novelty_of(references: Vectors, vectors: NDArray[Any]) -> Vector:
    """Return the mean distance of each vector (n, D) to its five nearest references (m, D).

    With fewer references all of them are used.
    """
    found = np.empty(len(vectors))
    nearest = min(_NEAREST, len(references))
    for start in range(0, len(vectors), _ROWS):
        distance = cdist(vectors[start : start + _ROWS], references)  # in float64, from differences
        distance.partition(nearest - 1, axis=1)
        found[start : start + _ROWS] = np.sort(distance[:, :nearest], axis=1).mean(axis=1)
    return found
