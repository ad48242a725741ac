"""Recipes: build the estimators between descriptors and classifier from a short name and settings.

A recipe has up to four steps:

::

    descriptors   DescriptorProjection     unit length and PCA of descriptors (optional)
    encode        VLAD, GlobalPool, ...    one encoder, or several side by side in a FeatureUnion;
                                           each may encode tile by tile (SpatialTiles)
    reduce        PCA of scikit-learn      fewer numbers, whitening (optional)
    normalise     Normalizer               unit length again, after several encoders or `reduce`

Several vocabularies, PCA and whitening are from Jegou and Chum (ECCV 2012).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, cast

import numpy as np
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import Normalizer

from medvlad._util.choices import Assignment, BackendName, PoolMode
from medvlad._util.validate import InputError, check_positive_int
from medvlad.encoders.bag_of_words import BagOfWords
from medvlad.encoders.fisher import FisherVector
from medvlad.encoders.pooling import POOL, GlobalPool
from medvlad.encoders.projection import DescriptorProjection
from medvlad.encoders.second_order import SecondOrderPool
from medvlad.encoders.spatial_tiles import SpatialTiles
from medvlad.encoders.vlad import VLAD

__all__ = ["PRESETS", "Recipe", "encoder_steps", "vector_width"]

#: What the presets chosen by benchmarks/presets.py have in common.
_CHOSEN: dict[str, Any] = {
    "model": "efficientnet-lite2",
    "weights": "bundled",
    "C": "cv",
    "class_weight": "balanced",
    "calibration": "platt",
    "adapt_threshold": None,
}
#: Settings of each preset. Settings that the user gives override them. "paper" follows the text of the paper,
#: with C = 1. docs/results.md has the rule by which "best" and "fast" were chosen, on training images.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"encode": "avg,vlad64"},
    "best": _CHOSEN | {"layer": "block20", "encode": "avg", "scales": (0, 1)},
    "fast": _CHOSEN
    | {"layer": "block14", "encode": "vlad64", "scales": (0,), "descriptor_norm": True, "power": 0.5},
}


@dataclass(frozen=True)
class Recipe:
    """Settings of the steps from descriptors to vectors.

    Attributes
    ----------
    descriptor_norm : bool
        Scale each descriptor to unit length.
    n_components : int or None
        Number of dimensions that PCA keeps of each descriptor. None: no PCA.
    assignment, n_nearest, power, residual_norm, mass_norm, local_axes, intra_norm
        See :class:`medvlad.VLAD`. FisherVector and SecondOrderPool use `power` too.
    tiles : tuple of (int, int)
        Number of rows and columns of tiles of each level, see :class:`medvlad.SpatialTiles`. Empty: no tiles.
    vocabularies : int
        Number of VLADs side by side, each with its own codebook.
    codebook_samples : int or None
        Maximum number of descriptors for k-means of VLAD and BagOfWords, see `max_samples` of
        :class:`medvlad.KMeansCodebook`. None: all.
    reduce : int or None
        Number of dimensions that PCA keeps of each vector. None: no PCA.
    whiten : bool
        Scale these dimensions to unit variance. Dimensions in which the training vectors do not vary are left
        out with a warning.
    """

    descriptor_norm: bool = False
    n_components: int | None = None
    assignment: Assignment = "hard"
    n_nearest: int | None = None
    power: float = 1.0
    residual_norm: bool = False
    mass_norm: bool = False
    local_axes: bool = False
    intra_norm: bool = False
    tiles: tuple[tuple[int, int], ...] = ()
    vocabularies: int = 1
    codebook_samples: int | None = 500_000
    reduce: int | None = None
    whiten: bool = False

    def encoder(
        self,
        name: str,
        *,
        backend: BackendName = "auto",
        n_threads: int | None = None,
        random_state: int = 0,
        grids: Sequence[tuple[int, int]] = (),
        mirrored: Sequence[bool] | None = None,
    ) -> Any:
        """Return the estimator for a short name. It turns descriptors into vectors.

        Parameters
        ----------
        name : str
            "avg", "sum", "max" or "gem" for GlobalPool, "second-order" for SecondOrderPool. "vlad64",
            "fisher64" and "bow1024" for VLAD, FisherVector and BagOfWords with this number of centres. Join
            several by + to have them side by side: "avg+vlad64".
        backend : str, default="auto"
            Backend of VLAD and BagOfWords.
        n_threads : int or None, default=None
            Number of threads of VLAD and BagOfWords. None: all processors that this process may use.
        random_state : int, default=0
            Seed of k-means, of subsamples and of PCA.
        grids, mirrored
            `grids_` and `mirrored_` of the CNNDescriptors. Needed if there are tiles.

        Returns
        -------
        estimator
            An encoder, or a Pipeline if there are several steps.

        Raises
        ------
        InputError
            If there is no such encoding, or the settings do not fit together.
        """
        check_positive_int(self.vocabularies, "vocabularies")
        if self.codebook_samples is not None:
            check_positive_int(self.codebook_samples, "codebook_samples")
        if self.whiten and self.reduce is None:
            raise InputError("whiten=True scales the dimensions that PCA keeps: give reduce as well")
        parts = [
            part for short in name.split("+") for part in self._parts(short, backend, n_threads, random_state)
        ]
        if self.tiles:
            tiling: dict[str, Any] = {"grids": tuple(grids), "mirrored": mirrored, "tiles": self.tiles}
            parts = [(part, SpatialTiles(encoder, **tiling)) for part, encoder in parts]
        names = [part for part, _ in parts]
        if len(set(names)) < len(names):
            raise InputError(f"the encoding {name!r} names one encoder twice: name each once")
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
            from medvlad.encoders.vector_pca import VectorPCA  # takes long, and few recipes need it

            steps.append(("reduce", VectorPCA(n, whiten=self.whiten, random_state=random_state)))
        if self.reduce is not None or isinstance(encode, FeatureUnion):
            steps.append(("normalise", Normalizer()))
        return Pipeline(steps) if len(steps) > 1 else encode

    def _parts(
        self, short: str, backend: BackendName, n_threads: int | None, random_state: int
    ) -> list[tuple[str, Any]]:
        """Return names and estimators for one short name: several VLADs if `vocabularies` is more than 1."""
        if short in POOL:
            return [(short, GlobalPool(cast(PoolMode, short)))]
        if short == "second-order":
            return [(short, SecondOrderPool(power=self.power))]
        counted = re.fullmatch(r"(vlad|fisher|bow)([1-9][0-9]*)", short)
        if counted is None:
            close = get_close_matches(short, (*POOL, "second-order", "vlad64", "fisher64", "bow1024"), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(
                f"unknown encoding {short!r}: use {_names()}, or several joined by + (avg+vlad64){hint}"
            )
        kind, n = counted[1], int(counted[2])
        if kind == "fisher":
            return [(short, FisherVector(n, power=self.power, random_state=random_state))]
        computed: dict[str, Any] = {"backend": backend, "n_threads": n_threads}
        computed["max_samples"] = self.codebook_samples
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
    """Return names and estimators of the steps that :meth:`Recipe.encoder` returned, fitted or not."""
    return list(encoder.steps) if isinstance(encoder, Pipeline) else [("encode", encoder)]


def vector_width(encoder: Any, n_features: int) -> int:
    """Return the width of the vectors of an encoder that :meth:`Recipe.encoder` returned, fitted or not.

    Parameters
    ----------
    encoder : estimator
    n_features : int
        Width of a descriptor.

    Returns
    -------
    int
        With ``whiten=True`` the fitted width may be smaller, see :class:`Recipe`.
    """
    width = n_features
    for _, step in encoder_steps(encoder):
        width = _step_width(step, width)
    return width


def _step_width(step: Any, width: int) -> int:
    """Return the width of the output of a step if its input has the width `width`."""
    if isinstance(step, FeatureUnion):
        return sum(_step_width(part, width) for _, part in step.transformer_list)
    if isinstance(step, SpatialTiles):
        return _step_width(step.encoder, width) * sum(rows * columns for rows, columns in step.tiles)
    if isinstance(step, VLAD):
        return step.n_clusters * width
    if isinstance(step, FisherVector):
        return 2 * step.n_components * width
    if isinstance(step, BagOfWords):
        return step.n_clusters
    if isinstance(step, SecondOrderPool):
        return width * (width + 1) // 2
    return getattr(step, "n_components", None) or width  # a PCA; the other steps keep the width


def _seed(random_state: int, vocabulary: int) -> int:
    """Return the seed of a vocabulary. The first vocabulary has the seed of the run."""
    if vocabulary == 0:
        return random_state
    return int(np.random.SeedSequence([random_state, vocabulary]).generate_state(1)[0])
