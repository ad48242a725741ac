r"""Spatial tiles: the descriptors of each part of an image are encoded by themselves.

The vector then depends on where in the image something is. Tiles come in levels. An example with two levels:

::

    tiles = ((1, 1), (2, 2))          the whole image, then its quarters row by row: 5 vectors side by side
    grid (7, 7), descriptor (i, j)    belongs to the tile that holds ((i + 1/2) / 7, (j + 1/2) / 7)

A descriptor belongs to the tile that holds the middle of its cell of the grid. This is the spatial pyramid of
Lazebnik, Schmid and Ponce (CVPR 2006) with any encoder in place of their histograms. Arandjelovic and
Zisserman used tiles with VLAD (MultiVLAD, CVPR 2013). Residuals are sums over descriptors, so those of the
tiles of a level add up to those of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from operator import index
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from medvlad._util.validate import InputError
from medvlad.backends.normalise import unit
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.descriptors.checks import check_finite
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.base import Encoder, validated

__all__ = ["SpatialTiles"]


def _are_pairs(pairs: Any) -> bool:
    """Return whether `pairs` is a sequence of (rows, columns), both integers of at least 1."""
    try:
        counts = [(index(rows), index(columns)) for rows, columns in pairs]
    except (TypeError, ValueError):
        return False
    return len(counts) > 0 and min(map(min, counts)) >= 1


class SpatialTiles(Encoder):
    """Encode each tile of an image and join the vectors.

    Parameters
    ----------
    encoder : estimator
        Encoder of the descriptors of a tile, such as VLAD or GlobalPool. It is fitted on whole images.
    grids : sequence of (int, int), default=((7, 7),)
        Height and width of each grid of descriptors: the `grids_` of :class:`medvlad.CNNDescriptors`.
    mirrored : sequence of bool or None, default=None
        Whether each grid is of the mirror image: the `mirrored_` of :class:`medvlad.CNNDescriptors`. None: no
        grid is.
    tiles : sequence of (int, int), default=((1, 1), (2, 2))
        Number of rows and columns of tiles of each level.
    l2_norm : bool, default=True
        Scale the whole vector to unit length.

    Attributes
    ----------
    encoder_ : estimator
        The fitted encoder.
    n_features_in_ : int
        Width D of a descriptor.

    Notes
    -----
    `transform` returns vectors (B, T * d) in host memory, for T tiles and vectors of d numbers from the
    encoder. Tiles are ordered level by level, and row by row within a level.

    References
    ----------
    Lazebnik, Schmid, Ponce: Beyond bags of features. CVPR 2006.
    Arandjelovic, Zisserman: All about VLAD. CVPR 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from medvlad import GlobalPool
    >>> maps = np.random.default_rng(0).random((3, 4, 4, 8))
    >>> SpatialTiles(GlobalPool(), grids=[(4, 4)]).fit_transform(maps).shape
    (3, 40)
    """

    _learnt = "encoder_"

    def __init__(
        self,
        encoder: Any,
        *,
        grids: Sequence[tuple[int, int]] = ((7, 7),),
        mirrored: Sequence[bool] | None = None,
        tiles: Sequence[tuple[int, int]] = ((1, 1), (2, 2)),
        l2_norm: bool = True,
    ) -> None:
        self.encoder = encoder
        self.grids = grids
        self.mirrored = mirrored
        self.tiles = tiles
        self.l2_norm = l2_norm

    def fit(self, X: Any, y: object = None) -> Self:
        """Fit the encoder on whole images.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or (B, H, W, D)
            Descriptors of the training images.
        y : array-like or None, default=None
            Passed to the encoder.

        Returns
        -------
        self

        Raises
        ------
        InputError
            If grids or tiles are not pairs of integers, or an image and the grids differ in the number of
            descriptors.
        """
        given = validated(self, X, reset=True, finite=not isinstance(self.encoder, Encoder))
        self._check_lengths(given)
        self.encoder_ = clone(self.encoder).fit(given, y)
        return self

    @property
    def _finds_not_finite(self) -> bool:
        return True  # the encoder of the tiles does

    def _encode_images(self, given: Descriptors) -> NDArray[np.float32]:
        self._check_lengths(given)
        descriptors = given.to_host()
        if not isinstance(self.encoder_, Encoder):
            check_finite(descriptors.values, descriptors.offsets)
        try:
            parts = [np.asarray(self.encoder_.transform(part)) for _, part in self.tiles_of(descriptors)]
        except InputError:
            # The encoder has named the row of a tile. This names that of the image.
            check_finite(descriptors.values, descriptors.offsets)
            raise
        vectors = np.concatenate(parts, axis=1)
        if self.l2_norm:
            return unit(vectors.astype(np.float64)).astype(np.float32)
        return vectors

    def _transform_in_blocks(self, X: Any) -> NDArray[np.float32]:
        if isinstance(X, DescriptorBlocks):
            self._check_lengths(X)  # here, so that messages count the images of the whole store
        return super()._transform_in_blocks(X)

    def tiles_of(self, descriptors: Descriptors) -> Iterator[tuple[NDArray[np.int64], Descriptors]]:
        """Yield each tile of all images, in the order of the vector.

        Parameters
        ----------
        descriptors : Descriptors
            In host memory.

        Yields
        ------
        rows : ndarray of int64
            Rows of `descriptors` that are in the tile.
        part : Descriptors
            These rows, image by image.
        """
        here = np.flatnonzero(np.diff(descriptors.offsets))
        for own in self.rows_of_tiles():
            rows = (descriptors.offsets[here][:, None] + own).ravel()
            sizes = np.zeros(len(descriptors), np.int64)
            sizes[here] = len(own)
            weights = None if descriptors.weights is None else descriptors.weights[rows]
            offsets = np.concatenate([[0], np.cumsum(sizes)])
            yield rows, Descriptors(descriptors.values[rows], offsets, weights)

    def rows_of_tiles(self) -> Iterator[NDArray[np.int64]]:
        """Yield the indices of an image's descriptors in each tile, in the order of the vector."""
        for rows, columns in self.tiles:
            tile = self._tile_of_each(rows, columns)
            for t in range(rows * columns):
                yield np.flatnonzero(tile == t)

    def _tile_of_each(self, rows: int, columns: int) -> NDArray[np.int64]:
        """Return the tile of each descriptor of an image."""
        found = []
        mirrored = [False] * len(self.grids) if self.mirrored is None else self.mirrored
        for (h, w), flipped in zip(self.grids, mirrored, strict=True):
            row = (2 * np.arange(h) + 1) * rows // (2 * h)
            column = (2 * np.arange(w) + 1) * columns // (2 * w)
            found.append((row[:, None] * columns + (column[::-1] if flipped else column)).ravel())
        return np.concatenate(found)

    def _check_lengths(self, given: Descriptors | DescriptorBlocks) -> None:
        for name, pairs in (("grids", self.grids), ("tiles", self.tiles)):
            if not _are_pairs(pairs):
                raise InputError(f"{name} must be pairs of integers of at least 1, got {pairs!r}")
        mirrored = self.mirrored
        if mirrored is not None and (not isinstance(mirrored, Sized) or len(mirrored) != len(self.grids)):
            raise InputError(
                f"mirrored must hold True or False for each of {len(self.grids)} grids, got {self.mirrored!r}"
            )
        expected = sum(h * w for h, w in self.grids)
        lengths = np.diff(given.offsets)
        wrong = np.flatnonzero((lengths != expected) & (lengths > 0))
        if len(wrong):
            raise InputError(
                f"image {wrong[0]} has {lengths[wrong[0]]} descriptors, but grids={self.grids!r} have "
                f"{expected}: use the grids_ of the CNNDescriptors that made the descriptors"
            )

    @property
    def _n_features_out(self) -> int:
        width = len(self.encoder_.get_feature_names_out())
        return width * sum(rows * columns for rows, columns in self.tiles)
