"""Reduce the vectors of images with scikit-learn's PCA, and check the number of components.

It is a module of its own, because importing scikit-learn's PCA takes longer than loading most models.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from medvlad._util.caller_warning import warn_caller
from medvlad._util.validate import InputError

__all__ = ["VectorPCA"]


class VectorPCA(PCA):
    """scikit-learn's PCA with checks of the number of components.

    If there are fewer vectors or features than components, that is an InputError. Whitening keeps only the
    components along which the vectors vary. The variance of the others is rounding, and dividing by it would
    turn rounding of new vectors into the largest numbers of all.
    """

    def fit(self, X: Any, y: object = None) -> Self:
        """Find the components of rows `X`.

        Warns
        -----
        UserWarning
            If whitening keeps fewer components than `n_components`.
        """
        self._check(X)
        if not self.whiten:
            super().fit(X)
            return self
        x = np.asarray(X)
        if (x == x[0]).all():
            raise InputError(
                "the vectors of all training images are equal, so they cannot be whitened: leave out whiten"
            )
        n_images, width = x.shape
        solver: str = self.get_params()["svd_solver"]
        if solver == "auto" and width <= 1000 and n_images >= 10 * width:
            # scikit-learn would take the eigenvalues of X^T X, which has only half of the digits.
            self.svd_solver = "full"
        try:
            super().fit(X)
        finally:
            self.svd_solver = solver
        self._cut(x)
        return self

    def fit_transform(self, X: Any, y: object = None) -> Any:
        """Find the components of rows `X` and project them."""
        if self.whiten:
            return self.fit(X).transform(X)
        self._check(X)
        return super().fit_transform(X)

    def _cut(self, x: NDArray[Any]) -> None:
        """Drop the components beyond the numerical rank of the centred rows."""
        # Subtracting the mean and the decomposition leave errors of a few eps |x|, more with many rows.
        x = x if x.dtype == np.float32 else x.astype(np.float64, copy=False)
        rounding = 2 * np.sqrt(len(x)) * np.finfo(x.dtype).eps * np.linalg.norm(x)
        rank = max(1, int((self.singular_values_ > rounding).sum()))
        if rank == len(self.components_):
            return
        warn_caller(
            f"only {rank} of reduce={self.n_components} components vary over the training images, so "
            f"whitening keeps {rank}: choose reduce={rank} or fewer",
            UserWarning,
        )
        self.n_components_ = rank
        for name in ("components_", "explained_variance_", "explained_variance_ratio_", "singular_values_"):
            setattr(self, name, getattr(self, name)[:rank])

    def _check(self, X: Any) -> None:
        n_images, width = np.shape(X)
        if self.n_components > min(n_images, width):
            raise InputError(
                f"reduce={self.n_components} is more than the number of training images ({n_images}) or of "
                f"features of their vectors ({width}): choose fewer, or leave it out"
            )
