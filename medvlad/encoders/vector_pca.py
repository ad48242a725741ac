"""Reduce the vectors of images with scikit-learn's PCA, and check the number of components.

It is a module of its own, because importing scikit-learn's PCA takes longer than loading most models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.utils.validation import check_is_fitted

from medvlad._util.caller_warning import warn_caller
from medvlad._util.validate import InputError, check_n_threads
from medvlad.encoders.row_blocks import RowBlocks, equal_blocks

__all__ = ["VectorPCA"]


_ALL_EQUAL = "the vectors of all training images are equal, so they cannot be whitened: leave out whiten"


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
            raise InputError(_ALL_EQUAL)
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

    def fit_blocks(
        self, source: RowBlocks, *, tol: float = 1e-3, max_passes: int = 8, n_threads: int | None = None
    ) -> Self:
        """Find the components of vectors that lie outside memory, in a few passes.

        The components are those of a randomised decomposition, see :mod:`medvlad.encoders.block_pca`. The
        parameters `svd_solver`, `tol` and `iterated_power` of scikit-learn do not apply.

        Parameters
        ----------
        source : RowBlocks
            :class:`medvlad.encoders.row_blocks.MappedVectors` or
            :class:`medvlad.encoders.row_blocks.EncodedVectors`.
        tol : float, default=1e-3
            Stop when a pass adds less than this share of the total variance.
        max_passes : int, default=8
            Maximum number of passes over the vectors, at least 2.
        n_threads : int or None, default=None
            Number of threads, which changes no bit. None: all processors.

        Returns
        -------
        VectorPCA
            Also with the attributes `error_bound_` (bound on the largest singular value of what the
            components leave out), `residuals_` (k,) and `n_passes_`.

        Raises
        ------
        InputError
            If there are fewer vectors or features than components, or a vector is not finite.

        Warns
        -----
        UserWarning
            If whitening keeps fewer components than `n_components`.
        """
        from medvlad.encoders.block_pca import components_of_blocks

        n_images, width = source.shape
        self._check_shape(n_images, width)
        found = components_of_blocks(
            source,
            self.n_components,
            random_state=self.random_state,
            tol=tol,
            max_passes=max_passes,
            n_threads=check_n_threads(n_threads),
        )
        dtype, free = source.dtype, max(1, n_images - 1)
        self.mean_, self.components_ = found.mean.astype(dtype), found.components.astype(dtype)
        self.singular_values_ = np.sqrt(found.eigenvalues).astype(dtype)
        self.explained_variance_ = (found.eigenvalues / free).astype(dtype)
        self.explained_variance_ratio_ = (found.eigenvalues / (found.total or 1.0)).astype(dtype)
        n_left = min(n_images, width) - self.n_components
        lost = max(0.0, found.total - float(found.eigenvalues.sum()))
        self.noise_variance_ = lost / free / n_left if n_left else 0.0
        self.n_samples_, self.n_features_in_, self.n_components_ = n_images, width, self.n_components
        self.error_bound_, self.residuals_ = found.error_bound, found.residuals
        self.n_passes_ = 1 + len(found.gains)
        if self.whiten:
            largest = float(found.eigenvalues[0])
            if not largest > np.finfo(dtype).eps * (found.total + n_images * float(found.mean @ found.mean)):
                raise InputError(_ALL_EQUAL)
            # The products leave errors of some eps in the largest eigenvalue, and so in each smaller one.
            self._keep(int((found.eigenvalues > 32 * np.finfo(dtype).eps * largest).sum()))
        return self

    def transform_blocks(
        self, source: RowBlocks, *, n_threads: int | None = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """Project vectors that lie outside memory, with memory for the components and two blocks.

        Parameters
        ----------
        source : RowBlocks
        n_threads : int or None, default=None
            Number of threads, which changes no bit. None: all processors.

        Yields
        ------
        indices : ndarray of int64, shape (b,)
            Indices of the vectors of a block.
        rows : ndarray of the dtype of `source`, shape (b, n_components)
            What `transform` gives for them, except for rounding.

        Raises
        ------
        InputError
            If a vector is not finite.
        """
        from medvlad.encoders.block_pca import sharing_threads
        from medvlad.encoders.zero_tiles import ZeroTiles

        check_is_fitted(self)
        axes = np.array(self.components_.T, source.dtype, order="C")  # a copy
        if self.whiten:
            axes /= np.sqrt(self.explained_variance_)
        mean = self.mean_.astype(source.dtype)
        with sharing_threads(check_n_threads(n_threads)) as share:
            for indices, rows in equal_blocks(source):
                reduced = ZeroTiles(rows, mean, share).times(axes)
                if not np.isfinite(reduced).all():
                    raise InputError(
                        "a vector holds NaN, infinity or a very large number: check the descriptors"
                    )
                yield indices, reduced

    def _cut(self, x: NDArray[Any]) -> None:
        """Drop the components beyond the numerical rank of the centred rows."""
        # Subtracting the mean and the decomposition leave errors of a few eps |x|, more with many rows.
        x = x if x.dtype == np.float32 else x.astype(np.float64, copy=False)
        rounding = 2 * np.sqrt(len(x)) * np.finfo(x.dtype).eps * np.linalg.norm(x)
        self._keep(max(1, int((self.singular_values_ > rounding).sum())))

    def _keep(self, rank: int) -> None:
        """Keep the first `rank` components, and warn if there are more."""
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
        self._check_shape(*np.shape(X))

    def _check_shape(self, n_images: int, width: int) -> None:
        if self.n_components > min(n_images, width):
            raise InputError(
                f"reduce={self.n_components} is more than the number of training images ({n_images}) or of "
                f"features of their vectors ({width}): choose fewer, or leave it out"
            )
