r"""What is done to each descriptor before a codebook sees it: unit length, and fewer numbers by PCA.

::

    L2        x <- x / |x|                                        (a norm below 1e-12 leaves zeros)
    PCA       x <- P (x - m)                                      (Jegou & Chum, ECCV 2012)
    whiten    x_j <- x_j / sqrt(variance of the j-th component)

m, and the rows of P, the first n_components eigenvectors of the covariance, come from the descriptors that
`fit` is given, after L2, computed in float64. The sign of an eigenvector is such that its entry of largest
magnitude is positive.
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
from medvlad.backends.reference import unit
from medvlad.descriptors.checks import check_finite
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.base import blocks, drawn_rows, validated

__all__ = ["DescriptorProjection"]

_BLOCK_ROWS = 8192


class DescriptorProjection(TransformerMixin, BaseEstimator):
    """Descriptors of unit length, of fewer dimensions, or both.

    Parameters
    ----------
    n_components : int or None, default=None
        Dimensions that PCA keeps; None: no PCA.
    l2_norm : bool, default=True
        Scale each descriptor to unit length, before PCA.
    whiten : bool, default=False
        Scale each component to unit variance.
    max_samples : int or None, default=500_000
        Most descriptors that PCA looks at; of more, so many are drawn. None: all.
    random_state : int, RandomState or None, default=None
        Seed of that draw.

    Attributes
    ----------
    n_features_in_ : int
    mean_ : ndarray of float64, shape (D,)
        Of PCA; absent without.
    components_ : ndarray of float64, shape (n_components, D)
    explained_variance_ : ndarray of float64, shape (n_components,)

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
        """Find the principal components, where they are wanted.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or array (B, D)
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        InputError
            If there are fewer descriptors or dimensions than components, or one of those to be whitened does
            not vary.
        """
        given = validated(self, X, reset=True)
        if self.n_components is None:
            return self
        n_components = check_positive_int(self.n_components, "n_components")
        rows = drawn_rows(given, self.max_samples, check_random_state(self.random_state))
        n_rows, width = len(rows), self.n_features_in_
        if n_components > min(width, n_rows):
            raise InputError(
                f"n_components={n_components} is more than there are descriptors ({n_rows}) or numbers "
                f"in one ({width}): choose fewer"
            )
        total, products = np.zeros(width), np.zeros((width, width))
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = self._scaled(rows[start : start + _BLOCK_ROWS])
            total += block.sum(axis=0)
            products += block.T @ block
        self.mean_ = total / len(rows)
        covariance = products / len(rows) - np.outer(self.mean_, self.mean_)
        variance, vectors = eigh(covariance, subset_by_index=(width - n_components, width - 1))
        components = vectors.T[::-1]
        largest = np.abs(components).argmax(axis=1)
        components = components * np.sign(components[np.arange(n_components), largest])[:, None]
        self.components_ = np.ascontiguousarray(components)
        self.explained_variance_ = variance[::-1].clip(0)
        # What a constant dimension leaves is rounding.
        constant = self.explained_variance_ <= width * np.finfo(np.float64).eps * np.trace(products) / len(
            rows
        )
        if self.whiten and constant.any():
            raise InputError(
                f"only {int((~constant).sum())} of n_components={n_components} vary, so they cannot all be "
                "whitened: choose fewer"
            )
        return self

    def transform(self, X: Any) -> Descriptors:
        """Project each descriptor.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or array (B, D)
            What is in a store is read block by block, what is on a GPU copied to the host.

        Returns
        -------
        Descriptors
            In host memory, of as many images.
        """
        check_is_fitted(self)
        given = validated(self, X, reset=False)
        width = self.n_features_in_ if self.n_components is None else len(self.components_)
        values = np.empty((int(given.offsets[-1]), width), np.float32)
        for images, part in blocks(given):
            check_finite(part.values, part.offsets)  # not looked at before where it comes from a GPU
            projected = np.empty((len(part.values), width), np.float32)
            for start in range(0, len(part.values), _BLOCK_ROWS):
                projected[start : start + _BLOCK_ROWS] = self._project(
                    part.values[start : start + _BLOCK_ROWS]
                )
            for i, first, last in zip(images, part.offsets[:-1], part.offsets[1:], strict=True):
                values[given.offsets[i] : given.offsets[i + 1]] = projected[first:last]
        return Descriptors(values, given.offsets, getattr(given, "weights", None))

    def _scaled(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        rows = x.astype(np.float64)
        if self.l2_norm:
            return unit(rows)
        return rows

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
