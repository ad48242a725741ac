"""VLAD of descriptors that have weights, or belong to several cells.

It computes soft assignment, normalisation of residuals and mass, local axes, descriptor weights, and
residuals to adapted centres, in blocks of descriptors. Descriptors on a GPU are encoded there. Local axes are
applied in host memory, so the vectors are copied there and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.backends.normalise import NORM_FLOOR, Normalisation, without_rounding
from medvlad.descriptors.checks import check_encoded, check_finite
from medvlad.descriptors.gpu_array import GpuArray, array_module, host_array, import_cupy
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.local_axes import rotated
from medvlad.encoders.memberships import Memberships

__all__ = ["WeightedVLAD", "adapted_centers"]

# Number of rows whose weights in all cells are in memory at a time. A GPU needs more work to be busy.
_BLOCK_ROWS = 8192
_GPU_BLOCK_ROWS = 65536

_SUMS = Normalisation(l2_norm=False)


@dataclass(frozen=True, eq=False)
class WeightedVLAD:
    """Encoder of images whose descriptors belong to cells with weights.

    Attributes
    ----------
    memberships : Memberships
        Finds cells and weights. Its backend also sums the residuals.
    origins : ndarray of float32, shape (K, D)
        Points that residuals start from.
    normalisation : Normalisation
    rotations : ndarray of float32, shape (K, D, D), or None
        Local axes. None: residuals are not rotated.
    """

    memberships: Memberships
    origins: NDArray[np.float32]
    normalisation: Normalisation
    rotations: NDArray[np.float32] | None = None

    def encode(self, descriptors: Descriptors, *, out: Any = None) -> Any:
        """Return the vector of each image.

        Parameters
        ----------
        descriptors : Descriptors
            In host memory, or on a GPU if the backend is cuda.
        out : ndarray of float32, shape (B, K * D), optional
            Array to write into, in the same memory. None: a new array.

        Returns
        -------
        ndarray of float32, shape (B, K * D)
            `out`, if it was given. If the descriptors are on a GPU, an array of their library. The device has
            finished then.

        Raises
        ------
        InputError
            If a descriptor is not finite, or a vector is too large for float32 before it is rotated, or at
            the end without normalisation.
        """
        values = descriptors.values
        on_device = isinstance(values, GpuArray)
        if on_device:
            check_finite(values, descriptors.offsets)
        with values.stream() if on_device else nullcontext():
            encoded = out
            if out is None:
                encoded = array_module(values).empty((len(descriptors), self.origins.size), np.float32)
            for start, part in _runs(descriptors):
                try:
                    encoded[start : start + len(part)] = self._encode_run(part)
                except InputError:
                    check_finite(values, descriptors.offsets)  # names the image among all, not in the run
                    raise
            if on_device:
                import_cupy().cuda.get_current_stream().synchronize()
        if not self.normalisation.has_norm:
            check_encoded(GpuArray(encoded) if on_device else encoded)
        return values.give_back(encoded) if on_device else encoded

    def _encode_run(self, part: Descriptors) -> Any:
        xp = array_module(part.values)
        cells, weights = self.memberships.of(part.values)
        if part.weights is not None:
            weights *= xp.asarray(part.weights)[:, None]
        scales = self.memberships.scales(part.values, cells)
        rotations, how = self.rotations, self.normalisation
        # The backends cannot rotate, so they only sum and divide by the mass if there are local axes.
        vectors = self.memberships.backend.encode_weighted(
            part.values,
            part.offsets,
            self.origins,
            cells,
            weights,
            how if rotations is None else replace(_SUMS, mass_norm=how.mass_norm),
            n_threads=self.memberships.n_threads,
            scales=scales,
        )
        if rotations is None:
            return vectors
        vectors = host_array(vectors)
        check_encoded(vectors)  # rotations would turn an overflow into NaN, and norms that into zeros
        turned = rotated(vectors, rotations)
        if how.intra_norm:
            cells, weights, scales = map(host_array, (cells, weights, scales))
            reach = self._reach(part, cells, weights if scales is None else weights * scales)
            if how.mass_norm:
                masses = self._reach(part, cells, weights)
                reach = np.divide(reach, masses, out=np.zeros_like(reach), where=masses >= NORM_FLOOR)
            turned = without_rounding(turned, reach, self.origins)
        return xp.asarray(how.apply(turned).reshape(len(part), -1).astype(np.float32))

    def _reach(
        self, part: Descriptors, cells: NDArray[np.int32], factors: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the sums of the absolute factors (N, r) in the cells of each image, shape (B, K)."""
        shape = len(part), len(self.origins)
        image = np.repeat(np.arange(len(part)), np.diff(part.offsets))
        places = (image[:, None] * shape[1] + cells).ravel()
        reach: NDArray[np.float64] = np.zeros(shape)
        np.add.at(reach.ravel(), places, np.abs(factors).ravel())
        return reach


def adapted_centers(parts: Iterable[Descriptors], memberships: Memberships) -> NDArray[np.float32]:
    """Return the mean of the descriptors in each cell: the centres adapted to new images.

    Parameters
    ----------
    parts : iterable of Descriptors
        Blocks of images, in host memory, or on a GPU if the backend is cuda.
    memberships : Memberships
        Assignment to the cells.

    Returns
    -------
    ndarray of float32, shape (K, D)
        A cell without descriptors keeps its centre.

    Raises
    ------
    InputError
        If a descriptor is not finite, or a mean is too large for float32.
    """
    centers = memberships.centers
    total, mass = np.zeros(centers.shape), np.zeros(len(centers))
    for part in parts:
        check_finite(part.values, part.offsets)  # `adapt` has not looked
        with part.values.stream() if isinstance(part.values, GpuArray) else nullcontext():
            for start in range(0, len(part.values), _BLOCK_ROWS):
                rows = slice(start, start + _BLOCK_ROWS)
                own = None if part.weights is None else part.weights[rows]
                sums, masses = _sums_and_masses(part.values[rows], own, memberships)
                total += sums
                mass += masses
    moved = total / np.where(mass > 0, mass, 1.0)[:, None]
    with np.errstate(over="ignore"):
        adapted = (centers + moved).astype(np.float32)
    check_finite(adapted, name="adapted centres, too large for float32,")
    return adapted


def _sums_and_masses(
    x: Any, own_weights: NDArray[np.float64] | None, memberships: Memberships
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the summed residuals (K, D) and the masses (K,) of the cells, in host memory."""
    centers = memberships.centers
    cells, weights = memberships.of(x)
    if own_weights is not None:
        weights *= array_module(x).asarray(own_weights)[:, None]
    masses = np.empty((1, len(centers)))
    offsets = np.array([0, len(x)], np.int64)
    sums = memberships.backend.encode_weighted(
        x, offsets, centers, cells, weights, _SUMS, n_threads=memberships.n_threads, masses_out=masses
    )
    return host_array(sums).reshape(centers.shape), masses[0]


def _runs(descriptors: Descriptors) -> Iterator[tuple[int, Descriptors]]:
    """Yield runs of images and the index of their first image.

    A run has at most `_BLOCK_ROWS` descriptors, `_GPU_BLOCK_ROWS` on a GPU, or is a single image.
    """
    start = 0
    step = _GPU_BLOCK_ROWS if isinstance(descriptors.values, GpuArray) else _BLOCK_ROWS
    while start < len(descriptors):
        most = descriptors.offsets[start] + step
        stop = max(start + 1, int(np.searchsorted(descriptors.offsets, most, side="right")) - 1)
        yield start, descriptors[start:stop]
        start = stop
