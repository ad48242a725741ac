"""Recipes: from a short name and settings to the estimators between descriptors and classifier.

::

    descriptors   DescriptorProjection     unit length, PCA                          where wanted
    encode        VLAD, GlobalPool, ...    or several, VLADs of several vocabularies: FeatureUnion;
                                           each tile by tile (SpatialTiles) where wanted
    reduce        PCA of scikit-learn      whitening                                 where wanted
    normalise     Normalizer               unit length again                         behind those two

Several vocabularies, PCA and whitening are from Jegou & Chum, ECCV 2012.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Self

import numpy as np
from sklearn.decomposition import PCA
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import Normalizer

from medvlad._util.validate import InputError, check_positive_int
from medvlad.encoders.bag_of_words import BagOfWords
from medvlad.encoders.fisher import FisherVector
from medvlad.encoders.pooling import POOL, GlobalPool
from medvlad.encoders.projection import DescriptorProjection
from medvlad.encoders.second_order import SecondOrderPool
from medvlad.encoders.spatial_tiles import SpatialTiles
from medvlad.encoders.vlad import VLAD

__all__ = ["PRESETS", "Recipe", "VectorPCA", "encoder_steps"]

#: What `--preset` sets; whatever else is given goes before. "paper" is the paper's text, with C = 1 and no
#: other choice made; how "best" was found, on training folds only, stands in docs/results.md.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"encode": "avg,vlad64"},
    "best": {
        "encode": "vlad64",
        "scales": (0, 1),
        "descriptor_norm": True,
        "power": 0.5,
        "C": "cv",
        "class_weight": "balanced",
        "calibration": "platt",
        "adapt_threshold": None,
    },
}


class VectorPCA(PCA):
    """scikit-learn's PCA, which says in this package's words that it is asked for too much."""

    def fit(self, X: Any, y: object = None) -> Self:
        """Find the components of rows `X`."""
        self._check(X)
        super().fit(X)
        return self

    def fit_transform(self, X: Any, y: object = None) -> Any:
        """Find the components of rows `X` and project them."""
        self._check(X)
        return super().fit_transform(X)

    def _check(self, X: Any) -> None:
        n_images, width = np.shape(X)
        if self.n_components > min(n_images, width):
            raise InputError(
                f"PCA cannot keep {self.n_components} numbers of the vectors of {n_images} training images, "
                f"{width} long: choose a smaller --reduce, or leave it out"
            )


@dataclass(frozen=True)
class Recipe:
    """Settings of the way from descriptors to vectors.

    Attributes
    ----------
    descriptor_norm : bool
        Scale each descriptor to unit length.
    n_components : int or None
        Dimensions that PCA keeps of each descriptor; None: no PCA.
    assignment, n_nearest, power, residual_norm, mass_norm, local_axes, intra_norm
        See :class:`medvlad.VLAD`; `power` is of FisherVector and SecondOrderPool too.
    tiles : tuple of (int, int)
        Rows and columns of tiles, level by level, see :class:`medvlad.SpatialTiles`; none: no tiles.
    vocabularies : int
        VLADs with codebooks of their own, side by side.
    reduce : int or None
        Dimensions that PCA keeps of each vector; None: no PCA.
    whiten : bool
        Scale those to unit variance.
    """

    descriptor_norm: bool = False
    n_components: int | None = None
    assignment: str = "hard"
    n_nearest: int | None = None
    power: float = 1.0
    residual_norm: bool = False
    mass_norm: bool = False
    local_axes: bool = False
    intra_norm: bool = False
    tiles: tuple[tuple[int, int], ...] = ()
    vocabularies: int = 1
    reduce: int | None = None
    whiten: bool = False

    def encoder(
        self,
        name: str,
        *,
        backend: str = "auto",
        n_threads: int | None = None,
        random_state: int = 0,
        grids: Sequence[tuple[int, int]] = (),
        mirrored: Sequence[bool] | None = None,
    ) -> Any:
        """Return the estimator that a short name stands for, from descriptors to vectors.

        Parameters
        ----------
        name : str
            "avg", "sum", "max" or "gem" for GlobalPool; "vlad64", "fisher64", "bow1024" for VLAD,
            FisherVector and BagOfWords with that many centres; "second-order" for SecondOrderPool; several of
            them side by side, with + between: "avg+vlad64".
        backend, n_threads
            Passed to VLAD.
        random_state : int
            Seed of k-means, of draws and of PCA.
        grids, mirrored
            Of the descriptors, where there are tiles: what CNNDescriptors has as `grids_` and `mirrored_`.

        Raises
        ------
        InputError
            If the name is none of these, or the settings do not fit.
        """
        check_positive_int(self.vocabularies, "vocabularies")
        if self.whiten and self.reduce is None:
            raise InputError("whitening is of the numbers that PCA keeps: give reduce as well")
        parts = [
            part for short in name.split("+") for part in self._parts(short, backend, n_threads, random_state)
        ]
        if self.tiles:
            tiling: dict[str, Any] = {"grids": tuple(grids), "mirrored": mirrored, "tiles": self.tiles}
            parts = [(part, SpatialTiles(encoder, **tiling)) for part, encoder in parts]
        names = [part for part, _ in parts]
        if len(set(names)) < len(names):
            raise InputError(f"the encoding {name!r} names one twice: name each once")
        encode = FeatureUnion(parts) if len(parts) > 1 else parts[0][1]
        steps: list[tuple[str, Any]] = []
        if self.descriptor_norm or self.n_components is not None:
            projection = DescriptorProjection(
                self.n_components, l2_norm=self.descriptor_norm, random_state=random_state
            )
            steps.append(("descriptors", projection))
        steps.append(("encode", encode))
        if self.reduce is not None:
            n = check_positive_int(self.reduce, "reduce")
            steps.append(("reduce", VectorPCA(n, whiten=self.whiten, random_state=random_state)))
        if self.reduce is not None or isinstance(encode, FeatureUnion):
            steps.append(("normalise", Normalizer()))
        return Pipeline(steps) if len(steps) > 1 else encode

    def _parts(
        self, short: str, backend: str, n_threads: int | None, random_state: int
    ) -> list[tuple[str, Any]]:
        """Names and estimators of one short name: several VLADs where several vocabularies are wanted."""
        if short in POOL:
            return [(short, GlobalPool(short))]
        if short == "second-order":
            return [(short, SecondOrderPool(power=self.power))]
        counted = re.fullmatch(r"(vlad|fisher|bow)([1-9][0-9]*)", short)
        if counted is None:
            close = get_close_matches(short, (*POOL, "second-order", "vlad64", "fisher64", "bow1024"), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(
                f"unknown encoding {short!r}: use {_names()}, or several with + between (avg+vlad64){hint}"
            )
        kind, n = counted[1], int(counted[2])
        if kind == "fisher":
            return [(short, FisherVector(n, power=self.power, random_state=random_state))]
        computed: dict[str, Any] = {"backend": backend, "n_threads": n_threads}
        if kind == "bow":
            return [(short, BagOfWords(n, random_state=random_state, **computed))]
        return [
            (
                f"{short}-{i}" if i else short,
                VLAD(
                    n,
                    assignment=self.assignment,
                    n_nearest=self.n_nearest,
                    power=self.power,
                    residual_norm=self.residual_norm,
                    mass_norm=self.mass_norm,
                    local_axes=self.local_axes,
                    intra_norm=self.intra_norm,
                    random_state=_seed(random_state, i),
                    **computed,
                ),
            )
            for i in range(self.vocabularies)
        ]


def _names() -> str:
    return f"{', '.join(POOL)}, second-order, vlad64, fisher64, bow1024 (any number)"


def encoder_steps(encoder: Any) -> list[tuple[str, Any]]:
    """Names and estimators of what :meth:`Recipe.encoder` returned, fitted or not."""
    return list(encoder.steps) if isinstance(encoder, Pipeline) else [("encode", encoder)]


def _seed(random_state: int, vocabulary: int) -> int:
    """Seed of a vocabulary: the first has that of the run."""
    if vocabulary == 0:
        return random_state
    return int(np.random.SeedSequence([random_state, vocabulary]).generate_state(1)[0])
