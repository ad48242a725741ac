"""Kernel launches for descriptors on the GPU that have weights, or belong to several cells.

``kernels/weighted.cu`` has the mathematics. A block of images takes up to three kernels:

    weighted_sums     residuals, masses and reaches of all cells, in float64
    normalise_cells   mass, power and intra-normalisation; only if there is one of them, or L2 normalisation
    write_weighted    L2 normalisation and rounding to float32
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad.backends.cuda_kernels import launch
from medvlad.backends.cuda_launches import halves, output
from medvlad.backends.normalise import Normalisation
from medvlad.descriptors.gpu_array import GpuArray, import_cupy

__all__ = ["distances_resident", "encode_weighted_resident"]

_WARPS = 8  # of a block of weighted.cu
_SLICE = 128  # dimensions of a warp of weighted_sums
_TILE = 32  # rows, and centres, of a block of center_distances
_MOST_IMAGES = 65535  # the limit of a grid's second dimension
_NULL = np.uint64(0)


def encode_weighted_resident(
    x: GpuArray,
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    cells: Any,
    weights: Any,
    how: Normalisation,
    scales: Any,
) -> tuple[Any, Any]:
    """Return vectors (B, K * D) and masses (B, K) on the device. Images are halved if memory is short."""
    cupy = import_cupy()
    n_images, k = len(offsets) - 1, len(centers)
    out, masses = output(cupy, (n_images, centers.size)), cupy.empty((n_images, k), np.float64)
    c = cupy.asarray(centers)
    entries = [None if a is None else cupy.asarray(a) for a in (cells, weights, scales)]
    todo = deque((i, min(i + _MOST_IMAGES, n_images)) for i in range(0, n_images, _MOST_IMAGES))
    while todo:
        first, last = todo.popleft()
        begin, end = int(offsets[first]), int(offsets[last])
        own = [None if a is None else a[begin:end] for a in entries]
        own_offsets = cupy.asarray(offsets[first : last + 1] - begin)
        try:
            _encode_block(x[begin:end], own_offsets, c, own, how, out[first:last], masses[first:last])
        except cupy.cuda.memory.OutOfMemoryError as error:
            todo.extendleft(reversed(halves(first, last, error, f"image {first}")))
    return out, masses


def _encode_block(
    x: GpuArray,
    offsets: Any,
    centers: Any,
    entries: list[Any],
    how: Normalisation,
    out: Any,
    masses: Any,
) -> None:
    cupy = import_cupy()
    cells, weights, scales = entries
    n_images, (k, d) = len(masses), centers.shape
    sums, reaches = cupy.empty((n_images, k, d), np.float64), cupy.empty((n_images, k), np.float64)
    size = np.int32(k), np.int32(d)
    members = cells, weights, _NULL if scales is None else scales, np.int32(cells.shape[1])
    grid = -(-k * -(-d // _SLICE) // _WARPS), n_images
    arguments = (x.values, offsets, *members, centers, *size, sums, masses, reaches)
    launch("weighted", "weighted_sums", grid, 256, arguments, x.element)
    norms: tuple[Any, Any] = _NULL, _NULL
    grid = -(-k // _WARPS), n_images
    if how.has_norm or how.mass_norm or how.power != 1.0:
        norms = cupy.empty((n_images, k), np.float64), cupy.empty((n_images, k), np.float64)
        modes = np.float64(how.power), np.int32(how.mass_norm), np.int32(how.intra_norm)
        steps = (centers, *size, masses, reaches, *modes, sums, *norms)
        launch("weighted", "normalise_cells", grid, 256, steps, x.element)
    launch(
        "weighted", "write_weighted", grid, 256, (sums, *norms, *size, np.int32(how.l2_norm), out), x.element
    )


def distances_resident(x: GpuArray, centers: NDArray[np.float32]) -> Any:
    """Return the squared distances (N, K) of descriptors on the device to all centres, in float64."""
    cupy = import_cupy()
    (n, d), k = x.shape, len(centers)
    distances = cupy.empty((n, k), np.float64)
    arguments = (x.values, np.int64(n), np.int32(d), cupy.asarray(centers), np.int32(k), distances)
    launch("weighted", "center_distances", (-(-n // _TILE), -(-k // _TILE)), 256, arguments, x.element)
    return distances
