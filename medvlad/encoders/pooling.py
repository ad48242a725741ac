r"""Global pooling of the n descriptors :math:`x_i` of an image, feature by feature.

"avg" is the mean, the paper's baseline. "sum" is the sum, which equals "avg" after L2 normalisation. "max" is
the maximum. "gem" is the generalised mean (Radenovic, Tolias, Chum, PAMI 2019):

.. math::

    \left( \frac{1}{n} \sum_i \max(x_i, 10^{-6})^p \right)^{1/p}

The result is scaled to unit length unless `l2_norm` is off. A norm below 1e-12 gives zeros.

Descriptors may have weights :math:`w_i`. Each term of a sum is then multiplied by its weight, and n becomes
:math:`\sum_i w_i`. The maximum ignores descriptors of weight 0 and treats the others alike. Sums are computed
in float64, the result is float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medvlad._util.choices import PoolMode, words_of
from medvlad._util.validate import check_choice, check_interval
from medvlad.backends.normalise import unit
from medvlad.descriptors.checks import check_finite
from medvlad.descriptors.gpu_array import GpuArray, import_cupy
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.base import Encoder, counted_in_host_memory, validated

__all__ = ["POOL", "GlobalPool"]

_GEM_FLOOR = 1e-6
_COPIED_BYTES = 64 << 20  # of descriptors in float64 at a time
_POOL_BYTES = 1 << 20  # of descriptors pooled at a time, so that a second look finds them in the cache


class GlobalPool(Encoder):
    """Pool the descriptors of each image into one. Average pooling is the paper's baseline.

    Parameters
    ----------
    mode : {"avg", "sum", "max", "gem"}, default="avg"
        Way of pooling.
    l2_norm : bool, default=True
        Scale the pooled vector to unit length. A norm below 1e-12 gives zeros.
    p : float in (0, 100], default=3.0
        Exponent of "gem".

    Attributes
    ----------
    n_features_in_ : int
        Width D of a descriptor, and of the result.

    Notes
    -----
    Descriptors on a GPU are copied to the host and pooled there. The result is copied back.
    """

    def __init__(self, mode: PoolMode = "avg", *, l2_norm: bool = True, p: float = 3.0) -> None:
        self.mode = mode
        self.l2_norm = l2_norm
        self.p = p

    def fit(self, X: Any, y: object = None) -> Self:
        """Check the parameters and remember the width of a descriptor.

        Parameters
        ----------
        X : Descriptors, StoredDescriptors, list of (n_i, D), array (B, n, D) or array (B, D)
            Only its width is used.
        y : ignored

        Returns
        -------
        self
        """
        check_choice(self.mode, "mode", words_of(PoolMode))
        check_interval(self.p, "p", 0.0, 100.0)
        validated(self, X, reset=True)
        return self

    @property
    def _finds_not_finite(self) -> bool:
        return True

    def _encode_images(self, given: Descriptors) -> Any:
        check_choice(self.mode, "mode", words_of(PoolMode))
        descriptors = counted_in_host_memory(given)
        pooled = np.zeros((len(descriptors), descriptors.n_features), np.float32)
        rows = _POOL_BYTES // (4 * descriptors.n_features)
        for start, stop in _runs(descriptors.offsets, rows):
            part = descriptors[start:stop]
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
            # Columns are independent, and copies in float64 of a whole slide would be large.
            step = max(1, _COPIED_BYTES // (8 * len(x)))
            columns = (x[:, k : k + step] for k in range(0, x.shape[1], step))
            with np.errstate(invalid="ignore"):  # infinities are found below
                values = np.concatenate(
                    [
                        POOL[self.mode](_Images(own, weights, first, counts[filled], masses), float(self.p))
                        for own in columns
                    ],
                    axis=1,
                )
            # A sum shows NaN and infinities. A maximum hides minus infinity, but the minimum shows it.
            hides = self.mode in ("max", "gem")
            if not np.isfinite(values).all() or (hides and not np.isfinite(x.min())):
                check_finite(given.to_host().values, given.offsets)
            if self.l2_norm:
                values = unit(values)
            pooled[start:stop][filled] = values
        if isinstance(given.values, GpuArray):
            with given.values.stream():
                on_gpu_again = import_cupy().asarray(pooled)
            return given.values.give_back(on_gpu_again)
        return pooled

    @property
    def _n_features_out(self) -> int:
        return int(self.n_features_in_)


def _runs(offsets: NDArray[np.int64], rows: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of runs of images with at most `rows` descriptors, or of a single image."""
    start, n_images = 0, len(offsets) - 1
    while start < n_images:
        last = int(np.searchsorted(offsets, offsets[start] + rows, side="right")) - 1
        stop = max(start + 1, last)
        yield start, stop
        start = stop


@dataclass(frozen=True)
class _Images:
    """Descriptors of images, none of which is empty.

    Attributes
    ----------
    x : ndarray of float32, shape (N, D)
    weights : ndarray of float64, shape (N, 1), or None
    first : ndarray of int64, shape (B,)
        Row at which each image begins.
    counts : ndarray of int64, shape (B,)
        Number of rows of each image.
    masses : ndarray of float64, shape (B, 1)
        Sum of the weights of each image, or its number of rows.
    """

    x: NDArray[np.float32]
    weights: NDArray[np.float64] | None
    first: NDArray[np.int64]
    counts: NDArray[np.int64]
    masses: NDArray[np.float64]

    def sums(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Return the weighted sum of the rows of each image."""
        weighted = x if self.weights is None else x * self.weights
        return np.asarray(np.add.reduceat(weighted, self.first, axis=0, dtype=np.float64))


def _average(images: _Images, p: float) -> NDArray[np.float64]:
    return images.sums(images.x) / images.masses


def _total(images: _Images, p: float) -> NDArray[np.float64]:
    return images.sums(images.x)


def _maximum(images: _Images, p: float) -> NDArray[np.float64]:
    return np.maximum.reduceat(images.x, images.first, axis=0).astype(np.float64)


def _generalised_mean(images: _Images, p: float) -> NDArray[np.float64]:
    # Divide by the image's own largest value, so that no power overflows.
    floored = np.maximum(images.x.astype(np.float64), _GEM_FLOOR)
    largest = np.maximum.reduceat(floored, images.first, axis=0)
    powers = images.sums((floored / np.repeat(largest, images.counts, axis=0)) ** p)
    return np.asarray(largest * (powers / images.masses) ** (1 / p))


#: Mode -> function that pools the rows of images.
POOL = {"avg": _average, "sum": _total, "max": _maximum, "gem": _generalised_mean}
