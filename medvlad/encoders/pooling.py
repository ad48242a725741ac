"""Global pooling: over the n descriptors x_i of an image, feature by feature.

::

    avg   (1/n) sum x_i                         the paper's baseline
    sum   sum x_i                               as avg after L2 normalisation
    max   max x_i
    gem   ((1/n) sum max(x_i, 1e-6)^p)^(1/p)    generalised mean (Radenovic, Tolias, Chum, PAMI 2019)

then unit length (a norm below 1e-12 gives zeros), unless told otherwise. Where descriptors have weights w_i,
1/n is 1 / sum w_i and each term is multiplied by its weight; for the maximum a weight of 0 leaves out, and
others do not matter. Sums are taken in float64, the result is float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import check_choice, check_interval
from medvlad.backends.reference import unit
from medvlad.descriptors.gpu_array import GpuArray, import_cupy
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.base import Encoder, in_host_memory, validated

__all__ = ["POOL", "GlobalPool"]

_GEM_FLOOR = 1e-6
_POOL_IMAGES = 256  # images pooled at a time, which bounds the float64 copy


class GlobalPool(Encoder):
    """One pooled descriptor an image; average pooling is the paper's baseline.

    Parameters
    ----------
    mode : {"avg", "sum", "max", "gem"}, default="avg"
    l2_norm : bool, default=True
        Scale the pooled vector to unit length (a norm below 1e-12 gives zeros).
    p : float in (0, 100], default=3.0
        Exponent of "gem".

    Attributes
    ----------
    n_features_in_ : int
        Width D of a descriptor, and of the result.

    Notes
    -----
    Descriptors on a GPU are pooled by the host, and the result goes back.
    """

    def __init__(self, mode: str = "avg", *, l2_norm: bool = True, p: float = 3.0) -> None:
        self.mode = mode
        self.l2_norm = l2_norm
        self.p = p

    def fit(self, X: Any, y: object = None) -> Self:
        """Check the parameters and remember the width of a descriptor.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or array (B, D)
        y : ignored

        Returns
        -------
        self
        """
        check_choice(self.mode, "mode", tuple(POOL))
        check_interval(self.p, "p", 0.0, 100.0)
        validated(self, X, reset=True)
        return self

    def _encode_images(self, given: Descriptors) -> Any:
        check_choice(self.mode, "mode", tuple(POOL))
        descriptors = in_host_memory(given).counted()
        pooled = np.zeros((len(descriptors), descriptors.n_features), np.float32)
        for start in range(0, len(descriptors), _POOL_IMAGES):
            part = descriptors[start : start + _POOL_IMAGES]
            counts = np.diff(part.offsets)
            filled = counts > 0
            if not filled.any():
                continue
            first = part.offsets[:-1][filled]
            x, masses = part.values, counts[filled, None].astype(np.float64)
            weights = None
            if part.weights is not None:
                weights = part.weights[:, None]
                masses = np.add.reduceat(weights, first, axis=0)
            values = POOL[self.mode](_Images(x, weights, first, counts[filled], masses), float(self.p))
            if self.l2_norm:
                values = unit(values)
            pooled[start : start + len(part)][filled] = values
        if isinstance(given.values, GpuArray):
            with given.values.stream():
                on_gpu_again = import_cupy().asarray(pooled)
            return given.values.give_back(on_gpu_again)
        return pooled

    @property
    def _n_features_out(self) -> int:
        return int(self.n_features_in_)


@dataclass(frozen=True)
class _Images:
    """Rows x (N, D) of images that begin at `first` (B,), their weights (N, 1) or None, and sums of those."""

    x: NDArray[np.float32]
    weights: NDArray[np.float64] | None
    first: NDArray[np.int64]
    counts: NDArray[np.int64]
    masses: NDArray[np.float64]

    def sums(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Weighted sums of rows, image by image."""
        weighted = x if self.weights is None else x * self.weights
        return np.asarray(np.add.reduceat(weighted, self.first, axis=0, dtype=np.float64))


def _average(images: _Images, p: float) -> NDArray[np.float64]:
    return images.sums(images.x) / images.masses


def _total(images: _Images, p: float) -> NDArray[np.float64]:
    return images.sums(images.x)


def _maximum(images: _Images, p: float) -> NDArray[np.float64]:
    return np.maximum.reduceat(images.x, images.first, axis=0).astype(np.float64)


def _generalised_mean(images: _Images, p: float) -> NDArray[np.float64]:
    # Relative to the image's own largest value, so that no power overflows.
    floored = np.maximum(images.x.astype(np.float64), _GEM_FLOOR)
    largest = np.maximum.reduceat(floored, images.first, axis=0)
    powers = images.sums((floored / np.repeat(largest, images.counts, axis=0)) ** p)
    return np.asarray(largest * (powers / images.masses) ** (1 / p))


#: mode -> pooling of images' rows.
POOL = {"avg": _average, "sum": _total, "max": _maximum, "gem": _generalised_mean}
