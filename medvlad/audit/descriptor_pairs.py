r"""Find pairs of images of one scene by the descriptors of a network.

Hashes of pixels (:mod:`medvlad.audit.near_pairs`) miss a copy that is cut by more than 3 %, turned, or
mirrored and cut, and the next frame of a video. Here candidates come from a network, and pixels decide.

**Rule.** Two images are one scene if

1. one is among the 10 nearest images of the other, by the sum of the cosines of four vectors: the mean
   descriptor of the whole map, and of its central parts with 0.8, 0.5 and 0.3 of each side, of which a copy
   that is cut still has most. All images are compared, block by block.
2. their pixels can be aligned by an affine map with a correlation of at least
   :data:`medvlad.audit.alignment.SAME_SCENE`.

A pair with less correlation, down to :data:`UNCERTAIN`, is listed for a person to decide.

**Vectors.** Let :math:`x` be vectors of one kind, :math:`S` their covariance, and :math:`d_j` the differences
between altered copies of some images (:mod:`medvlad.images.altered_copies`) and these images. With

.. math::

   S_w = \frac{1}{m} \sum_j d_j d_j^T + 0.01 \, S ,

vectors are centred, projected on up to 64 generalised eigenvectors with the largest eigenvalues of
:math:`S a = \lambda S_w a`, where :math:`a^T S_w a = 1`, and scaled to unit length. This is Fisher's linear
discriminant (Annals of Eugenics 1936), in which an image and its copies are a class: directions in which
copies differ count less.

**Choice of 0.84.** Of 5,856 chest X-rays, 9 proposed pairs of different patients have a correlation of at
least 0.84. One is a copy of a file, and by eye four or fewer are different children. Of 1,200 planted copies
one has less than 0.84: they were cut by up to 15 % on each side, mirrored, turned by up to 4 degrees,
shifted, blurred, brightened or saved again.

**Limit.** If all images look alike, ten neighbours may not hold every copy. A layer with a finer map
helps: docs/howto/audit.md has the shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from medvlad.audit.alignment import SAME_SCENE, align_pairs, details
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.ragged import Descriptors

__all__ = ["UNCERTAIN", "ScenePairs", "nearest_pairs", "scene_pairs", "window_means"]

UNCERTAIN = 0.6
"""Least correlation of a pair that a person is asked about."""

_NEAREST = 10
_WINDOWS = (1.0, 0.8, 0.5, 0.3)  # parts of the sides of a map
_COMPONENTS = 64
_PER_COMPONENT = 4  # images for each component
_SHARE = 0.01  # of the covariance of images, in that of copies
_RIDGE = 1e-6  # of the mean variance, for directions in which nothing varies
_BLOCK = 512


@dataclass(frozen=True, eq=False)
class ScenePairs:
    """Pairs of images that may show one scene, by falling correlation.

    Attributes
    ----------
    pairs : ndarray of shape (m, 2), int
        The lower index first.
    correlation : ndarray of shape (m,), float64
        At least `UNCERTAIN`.
    mirrored : ndarray of shape (m,), bool
    """

    pairs: NDArray[np.intp]
    correlation: NDArray[np.float64]
    mirrored: NDArray[np.bool_]

    @classmethod
    def none(cls) -> ScenePairs:
        """Return no pairs."""
        return cls(np.empty((0, 2), np.intp), np.empty(0), np.empty(0, bool))

    def same(self) -> ScenePairs:
        """Return the pairs of one scene."""
        return self._where(self.correlation >= SAME_SCENE)

    def uncertain(self) -> ScenePairs:
        """Return the pairs that a person must decide."""
        return self._where(self.correlation < SAME_SCENE)

    def _where(self, chosen: NDArray[np.bool_]) -> ScenePairs:
        return ScenePairs(self.pairs[chosen], self.correlation[chosen], self.mirrored[chosen])


def scene_pairs(
    vectors: Sequence[NDArray[np.float32]],
    changes: Sequence[NDArray[np.float32]],
    pictures: NDArray[np.uint8],
    *,
    n_threads: int = 1,
) -> ScenePairs:
    """Find pairs of images of one scene.

    Parameters
    ----------
    vectors : sequence of ndarray of shape (n, D), float32
        Mean descriptors of each image, see :func:`window_means`.
    changes : sequence of ndarray of shape (m, D), float32
        Mean descriptors of altered copies of some images, minus those of the images.
    pictures : ndarray of shape (n, FINE_SIDE, FINE_SIDE), uint8
        Grey thumbnails.
    n_threads : int, default=1
        It changes no result.

    Returns
    -------
    ScenePairs
    """
    pairs = nearest_pairs(vectors, changes)
    correlation, mirrored = align_pairs(details(pictures), pairs, n_threads=n_threads)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -correlation))
    order = order[correlation[order] >= UNCERTAIN]
    return ScenePairs(pairs[order], correlation[order], mirrored[order])


def window_means(
    images: Descriptors | DescriptorBlocks, grids: Sequence[tuple[int, int]]
) -> list[NDArray[np.float32]]:
    """Return mean descriptors (n, D) of images: of the whole map, and of its central parts.

    Parameters
    ----------
    images : Descriptors or DescriptorBlocks, n
        Each image has the descriptors of all `grids`, one map after the other, row by row.
    grids : sequence of (int, int)
        Height and width of each map, as `grids_` of a CNNDescriptors.
    """
    windows = [np.concatenate([_window(*grid, part) for grid in grids]) for part in _WINDOWS]
    means = [np.empty((len(images), images.n_features), np.float32) for _ in windows]
    blocks = images.blocks() if isinstance(images, DescriptorBlocks) else [(np.arange(len(images)), images)]
    for indices, block in blocks:
        maps = np.asarray(block.values).reshape(len(indices), len(windows[0]), -1)
        for mean, window in zip(means, windows, strict=True):
            mean[indices] = maps[:, window].mean(axis=1, dtype=np.float64)
    return means


def _window(height: int, width: int, part: float) -> NDArray[np.bool_]:
    """Return which places of a map lie in its centre, which has a part of both sides."""
    inside = np.zeros((height, width), bool)
    top, left = (min(round(side * (1 - part) / 2), (side - 1) // 2) for side in (height, width))
    inside[top : height - top, left : width - left] = True
    return inside.ravel()


def nearest_pairs(
    vectors: Sequence[NDArray[np.float32]],
    changes: Sequence[NDArray[np.float32]],
    n_nearest: int = _NEAREST,
) -> NDArray[np.intp]:
    """Return pairs of which one image is among the nearest images of the other, in ascending order.

    Parameters
    ----------
    vectors, changes
        See :func:`scene_pairs`. The sum of the cosines of each kind of vectors counts.
    n_nearest : int, default=10
        Number of images that are near to each image.

    Returns
    -------
    ndarray of shape (m, 2), int
        The lower index first. Empty for fewer than two images.
    """
    n = len(vectors[0])
    n_nearest = min(n_nearest, n - 1)
    if n_nearest < 1:
        return np.empty((0, 2), np.intp)
    unit = np.hstack([_projected(*kind) for kind in zip(vectors, changes, strict=True)])
    found = []
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, n))
        cosine = unit[rows] @ unit.T
        cosine[np.arange(len(rows)), rows] = -np.inf
        near = np.argpartition(-cosine, n_nearest - 1, axis=1)[:, :n_nearest]
        found.append(np.column_stack([np.repeat(rows, n_nearest), near.ravel()]))
    pairs: NDArray[np.intp] = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    return pairs


def _projected(vectors: NDArray[np.float32], changes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors of unit length, centred and projected on discriminant directions."""
    n, width = vectors.shape
    centred = vectors - vectors.mean(axis=0)
    total = _second_moment(centred)
    within = _second_moment(changes) + _SHARE * total
    within[np.diag_indices(width)] += max(_RIDGE * np.trace(total) / width, 1e-12)
    n_components = min(_COMPONENTS, width, max(1, n // _PER_COMPONENT))
    _, axes = eigh(total, within, subset_by_index=(width - n_components, width - 1))
    projected = centred @ axes.astype(np.float32)
    length = np.linalg.norm(projected, axis=1, keepdims=True)
    found: NDArray[np.float32] = projected / np.maximum(length, 1e-12)
    return found


def _second_moment(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean of the products of a row with itself. In float32 it could have negative eigenvalues."""
    moment = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK].astype(np.float64)
        moment += block.T @ block
    return moment / max(len(rows), 1)
