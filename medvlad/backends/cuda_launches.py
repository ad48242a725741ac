"""Kernel launches for descriptors that are on the GPU: labels, and VLAD vectors.

One call of :func:`encode_block` runs one of two sequences of kernels. For many small images:

    images          one block for each image, from descriptors to the vector

For few images, and for large ones:

    assign          scores on the tensor cores (float32 units before compute capability 8.0), candidates
    decide          exact decision for rows with several candidates
    cells           norms, then residuals and normalisation; one warp for each cell and slice
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.backends.candidate_centers import TILE_CENTERS, CandidateCenters, candidate_centers
from medvlad.backends.cuda_kernels import capability, launch
from medvlad.backends.normalise import Normalisation
from medvlad.descriptors.checks import check_finite
from medvlad.descriptors.gpu_array import GpuArray, import_cupy

__all__ = ["DeviceCenters", "encode_block", "encode_resident", "halves", "label", "output", "upload"]

_ASSIGN_ROWS = 128  # rows of a block of assign.cu, if one warp is enough for the centres
_DECIDE_ROWS = 128  # rows of a block of decide.cu
_CELLS_OF_A_BLOCK = 8
_SLICE = 128  # dimensions of a warp of cells.cu; images.cu has fewer and wider slices

# Rows whose candidates are kept at a time.
_PASS_ROWS = 1 << 20
# With fewer images than this for each multiprocessor, their cells are spread over the device.
_IMAGES_A_MULTIPROCESSOR = 2
# An image of more rows than this is spread over many blocks.
_LARGE_IMAGE = 8192


class DeviceCenters:
    """Centres on the current device, exact and rounded for the first pass.

    Parameters
    ----------
    centers : ndarray of float32, shape (K, D)
    host : CandidateCenters
        The same centres as the first pass needs them.
    way : {"tensor_cores", "float32_units"}
        Units that multiply in the first pass.
    """

    def __init__(self, centers: NDArray[np.float32], host: CandidateCenters, way: str) -> None:
        cupy = import_cupy()
        self.k, self.d = centers.shape
        self.host = host
        self.way = way
        self.values = cupy.asarray(centers)
        self.rounded, self.half = cupy.asarray(host.rounded), cupy.asarray(host.half)
        self.half_norms = cupy.asarray(host.half_norms)
        self.words = len(host.half) // TILE_CENTERS

    def rounded_arguments(self) -> tuple[Any, ...]:
        """Return the arguments of the first pass, in the order of the kernels that run it."""
        host = self.host
        k_padded, d_padded = host.rounded.shape
        return (
            *(self.rounded, self.half, np.int32(self.k), np.int32(k_padded), np.int32(d_padded)),
            *(np.int32(host.warps_across), host.max_center, host.max_center_error, host.max_half, host.gamma),
        )

    def exact_arguments(self) -> tuple[Any, ...]:
        """Return the arguments of the exact decision."""
        return self.values, self.half_norms, np.float64(self.host.max_norm)


def upload(centers: NDArray[np.float32], method: str) -> DeviceCenters:
    """Copy centres to the current device.

    `method` is "auto", or the units to multiply with: "tensor_cores" or "float32_units".
    """
    way = method
    if method == "auto":
        way = "tensor_cores" if capability(import_cupy().cuda.Device())[0] >= 8 else "float32_units"
    host = candidate_centers(centers, tensor_cores=way == "tensor_cores")
    try:
        return DeviceCenters(centers, host, way)
    except import_cupy().cuda.memory.OutOfMemoryError as error:
        k, d = centers.shape
        raise InputError(
            f"{k} centres of {d} numbers do not fit into the GPU's memory ({error}): free some of it"
        ) from error


def label(x: GpuArray, centers: DeviceCenters, labels: Any, unbounded: Any) -> None:
    """Launch the kernels that fill `labels` (N,). They set `unbounded` (1,) if a row may not be finite."""
    cupy, n = import_cupy(), len(x)
    pass_rows = min(n, _PASS_ROWS)
    while True:
        try:
            candidates = cupy.empty((pass_rows, centers.words), np.uint64)
            break
        except cupy.cuda.memory.OutOfMemoryError:
            if pass_rows <= _ASSIGN_ROWS:
                raise
            pass_rows //= 2
    d = np.int32(centers.d)
    for first in range(0, n, max(1, pass_rows)):
        values = x.values[first : first + pass_rows]
        own, rows = labels[first : first + len(values)], np.int64(len(values))
        scores = (values, rows, d, *centers.rounded_arguments(), own, candidates, unbounded)
        blocks = -(-len(values) * centers.host.warps_across // _ASSIGN_ROWS)
        launch("assign", f"assign_{centers.way}", blocks, 128, scores, x.element)
        decisions = (values, rows, d, *centers.exact_arguments(), candidates, np.int32(centers.words), own)
        launch("decide", "decide", -(-len(values) // _DECIDE_ROWS), 128, decisions, x.element)


def encode_resident(
    x: GpuArray,
    offsets: NDArray[np.int64],
    centers: DeviceCenters,
    how: Normalisation,
    out: Any,
    labels: Any,
    counts: Any,
) -> Any:
    """Encode descriptors that are on the device: all images at once, or in halves if memory is short."""
    cupy = import_cupy()
    if out is None:
        out = output(cupy, (len(offsets) - 1, centers.k * centers.d))
    unbounded = cupy.zeros(1, np.int32)
    todo = deque([(0, len(offsets) - 1)])
    while todo:
        first, last = todo.popleft()
        begin, end = int(offsets[first]), int(offsets[last])
        own_labels = None if labels is None else labels[begin:end]
        own_counts = None if counts is None else counts[first:last]
        own_offsets = offsets[first : last + 1] - begin
        try:
            own = out[first:last]
            encode_block(x[begin:end], own_offsets, centers, how, own, own_labels, own_counts, unbounded)
        except cupy.cuda.memory.OutOfMemoryError as error:
            todo.extendleft(reversed(halves(first, last, error, f"image {first}")))
    if int(unbounded[0]):
        check_finite(x, offsets)
    return out


def output(cupy: Any, shape: tuple[int, int]) -> Any:
    """Return a new array for encoded images, or raise InputError if it does not fit."""
    try:
        return cupy.empty(shape, np.float32)
    except cupy.cuda.memory.OutOfMemoryError as error:
        raise InputError(
            f"{shape[0]} encoded images of {shape[1]} numbers do not fit into the GPU's memory ({error}): "
            "encode fewer at a time"
        ) from error


def halves(first: int, last: int, error: Exception, what: str) -> list[tuple[int, int]]:
    """Return the two halves of a block of images that did not fit."""
    import_cupy().get_default_memory_pool().free_all_blocks()
    if last - first <= 1:
        raise InputError(
            f"{what} does not fit into the GPU's memory ({error}): free some of it, or use backend='native'"
        ) from error
    middle = (first + last) // 2
    return [(first, middle), (middle, last)]


def encode_block(
    x: GpuArray,
    offsets: NDArray[np.int64],
    centers: DeviceCenters,
    how: Normalisation,
    out: Any,
    labels: Any,
    counts: Any,
    unbounded: Any,
) -> None:
    """Launch the kernels that encode a block of images with descriptors `x`. All arrays are on the device."""
    cupy = import_cupy()
    n_images = len(offsets) - 1
    if labels is None:
        labels = cupy.empty(len(x), np.int32)
    slices = -(-centers.d // _SLICE)
    # Intra-normalisation needs two numbers for each slice, see encode.cuh.
    numbers = centers.k * slices * (2 if how.intra_norm else 1)
    norms = cupy.empty((n_images if how.has_norm else 0, numbers), np.float64)
    on_device = cupy.asarray(offsets)
    k, d = np.int32(centers.k), np.int32(centers.d)
    modes = np.float64(how.power), np.int32(how.intra_norm), np.int32(how.l2_norm)
    for first, last, spread in _runs(offsets):
        outputs = norms[first:], out[first:], np.uint64(0) if counts is None else counts[first:]
        arguments = (x.values, on_device[first:], labels, centers.values, k, d, *modes, *outputs)
        if not spread:
            candidates = cupy.empty((len(x), centers.words), np.uint64)
            rest = (*centers.rounded_arguments(), *centers.exact_arguments()[1:], candidates, unbounded)
            name = f"encode_images_{centers.way}"
            launch("images", name, last - first, 128, (*arguments, *rest), x.element)
            continue
        begin, end = int(offsets[first]), int(offsets[last])
        label(x[begin:end], centers, labels[begin:end], unbounded)
        grid = (-(-centers.k * slices // _CELLS_OF_A_BLOCK), last - first)
        if how.has_norm:
            launch("cells", "cell_norms", grid, 256, arguments, x.element)
        launch("cells", "write_cells", grid, 256, arguments, x.element)


def _runs(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int, bool]]:
    """Yield runs of images and whether each is spread over many blocks.

    An image is spread if there are too few images to fill the device, or if the image is large.
    """
    n_images, most = len(offsets) - 1, 65535  # the limit of a grid's second dimension
    multiprocessors = import_cupy().cuda.Device().attributes["MultiProcessorCount"]
    if n_images < _IMAGES_A_MULTIPROCESSOR * multiprocessors:
        for first in range(0, n_images, most):
            yield first, min(first + most, n_images), True
        return
    first = 0
    for image in np.flatnonzero(np.diff(offsets) > _LARGE_IMAGE).tolist():
        if image > first:
            yield first, image, False
        yield image, image + 1, True
        first = image + 1
    if n_images > first:
        yield first, n_images, False
