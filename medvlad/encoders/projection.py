r"""Projection of descriptors before a codebook sees them: unit length, PCA, whitening.

The steps have this order, and each is optional:

.. math::

    x &\leftarrow x / \|x\| \quad\text{(a norm below 1e-12 leaves zeros)} \\
    x &\leftarrow P (x - m) \quad\text{(PCA: Jegou and Chum, ECCV 2012)} \\
    x_j &\leftarrow x_j / \sqrt{\text{variance of component } j} \quad\text{(whitening)}

m is the mean of the training descriptors after the first step. The rows of P are the first `n_components`
eigenvectors of their covariance, computed in float64. The entry of largest magnitude in an eigenvector is
positive, which fixes its sign. Sums are taken of differences from the mean of the first block of descriptors.
A large mean therefore costs no digits of the covariance.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from medvlad._util.validate import InputError, check_positive_int
from medvlad.backends.normalise import unit
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.checks import check_finite
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.base import blocks, drawn_rows, validated
from medvlad.encoders.projected_blocks import ProjectedBlocks

__all__ = ["DescriptorProjection"]

_BLOCK_ROWS = 8192
_IN_MEMORY = 1 << 30  # bytes; a larger result is not held in memory if the input is not


class DescriptorProjection(TransformerMixin, BaseEstimator):
    """Scale descriptors to unit length, reduce their dimensions by PCA, or both.

    Parameters
    ----------
    n_components : int or None, default=None
        Number of dimensions that PCA keeps. None: no PCA.
    l2_norm : bool, default=True
        Scale each descriptor to unit length before PCA.
    whiten : bool, default=False
        Scale each component to unit variance.
    max_samples : int or None, default=500_000
        Maximum number of descriptors used to fit PCA. Larger inputs are subsampled. None: all.
    random_state : int, RandomState or None, default=None
        Seed of the subsample.

    Attributes
    ----------
    n_features_in_ : int
        Width D of a descriptor.
    mean_ : ndarray of float64, shape (D,)
        Mean of the training descriptors. Exists with PCA only, as do the next two.
    components_ : ndarray of float64, shape (n_components, D)
        Principal components, one per row, largest variance first.
    explained_variance_ : ndarray of float64, shape (n_components,)
        Variance of each component.

    Examples
    --------
    >>> import numpy as np
    >>> images = [np.random.default_rng(i).random((5 + i, 8)) for i in range(4)]
    >>> DescriptorProjection(2).fit_transform(images)
    Descriptors(4 images, 26 descriptors of 2)
    """

    mean_: NDArray[np.float64]
    components_: NDArray[np.float64]
    explained_variance_: NDArray[np.float64]

    def __init__(
        self,
        n_components: int | None = None,
        *,
        l2_norm: bool = True,
        whiten: bool = False,
        max_samples: int | None = 500_000,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.l2_norm = l2_norm
        self.whiten = whiten
        self.max_samples = max_samples
        self.random_state = random_state

    def fit(self, X: Any, y: object = None) -> Self:
        """Find the principal components, if `n_components` is given.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or array (B, D)
            Training descriptors.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        InputError
            If there are fewer descriptors or dimensions than components, or if a component to be whitened
            does not vary.
        """
        given = validated(self, X, reset=True)
        if self.n_components is None:
            return self
        n_components = check_positive_int(self.n_components, "n_components")
        rows = drawn_rows(given, self.max_samples, check_random_state(self.random_state))
        n_rows, width = len(rows), self.n_features_in_
        if n_components > min(width, n_rows):
            raise InputError(
                f"n_components={n_components} is more than the number of descriptors ({n_rows}) or of their "
                f"features ({width}): choose fewer"
            )
        self.mean_, covariance, second_moment = self._moments(rows)
        variance, vectors = eigh(covariance, subset_by_index=(width - n_components, width - 1))
        components = vectors.T[::-1]
        largest = np.abs(components).argmax(axis=1)
        components = components * np.sign(components[np.arange(n_components), largest])[:, None]
        self.components_ = np.ascontiguousarray(components)
        self.explained_variance_ = variance[::-1].clip(0)
        # The variance of a constant dimension is not exactly 0 but a rounding error.
        constant = self.explained_variance_ <= width * np.finfo(np.float64).eps * second_moment
        if self.whiten and constant.any():
            raise InputError(
                f"only {int((~constant).sum())} of n_components={n_components} vary, so they cannot all be "
                "whitened: choose fewer"
            )
        return self

    def transform(self, X: Any) -> Any:
        """Project each descriptor.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or array (B, D)
            Descriptors in a store are read block by block, those on a GPU are copied to the host.

        Returns
        -------
        Descriptors or DescriptorBlocks
            The same images, in host memory. If `X` is read block by block, and the result takes more than
            1 GiB or `X` has a runner, it is projected block by block as well, when it is read.
        """
        check_is_fitted(self)
        given = validated(self, X, reset=False, finite=False)
        width = self.n_features_in_ if self.n_components is None else len(self.components_)
        if isinstance(given, DescriptorBlocks) and (
            given.runner is not None or 4 * width * given.offsets[-1] > _IN_MEMORY
        ):
            return ProjectedBlocks(given, width, self._project_into).on(given.runner)
        values = np.empty((int(given.offsets[-1]), width), np.float32)
        for images, part in blocks(given):
            check_finite(part.values, part.offsets)
            projected = np.empty((len(part.values), width), np.float32)
            self._project_into(part.values, projected)
            for i, first, last in zip(images, part.offsets[:-1], part.offsets[1:], strict=True):
                values[given.offsets[i] : given.offsets[i + 1]] = projected[first:last]
        return Descriptors(values, given.offsets, getattr(given, "weights", None))

    def set_output(self, *, transform: str | None = None) -> Self:
        """Do nothing: Descriptors have no columns. A pipeline calls this on all of its steps."""
        return self

    def _moments(self, rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Return the mean (D,) and the covariance (D, D), and the mean squared distance from the shift.

        Products are summed of differences from a shift near the mean. With products of the rows themselves,
        a large mean would cancel the digits of the covariance.
        """
        width = self.n_features_in_
        total, products, shift = np.zeros(width), np.zeros((width, width)), np.zeros(0)
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = self._scaled(rows[start : start + _BLOCK_ROWS])
            if start == 0:  # relative to a row, so that the shift of a constant dimension is exact
                shift = block[0] + (block - block[0]).mean(axis=0)
            block -= shift
            total += block.sum(axis=0)
            products += block.T @ block
        offset = total / len(rows)
        second_moments = products / len(rows)
        return shift + offset, second_moments - np.outer(offset, offset), float(np.trace(second_moments))

    def _scaled(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        rows = x.astype(np.float64)
        if self.l2_norm:
            return unit(rows)
        return rows

    def _project_into(self, x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        for start in range(0, len(x), _BLOCK_ROWS):
            out[start : start + _BLOCK_ROWS] = self._project(x[start : start + _BLOCK_ROWS])

    def _project(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        rows = self._scaled(x)
        if self.n_components is None:
            return rows
        rows = (rows - self.mean_) @ self.components_.T
        if self.whiten:
            rows /= np.sqrt(self.explained_variance_)
        return rows

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")
