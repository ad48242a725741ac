"""Descriptors in host memory, block by block through the GPU and back.

Two pairs of pinned buffers take turns. Copies to the device, kernels and copies back therefore overlap, and a
batch may be larger than the GPU's memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad.backends.cuda_launches import DeviceCenters, encode_block, halves, label
from medvlad.backends.normalise import Normalisation
from medvlad.descriptors.gpu_array import GpuArray, import_cupy

__all__ = ["encode_from_host", "label_from_host"]

# Smallest number of host rows that are labelled together.
_STEP_ROWS = 4096
# Input and output bytes of a block of images in host memory.
_BLOCK_BYTES = 128 << 20


def label_from_host(x: NDArray[np.float32], centers: DeviceCenters, labels: NDArray[np.int32]) -> None:
    """Fill `labels` (N,) with the nearest centres of rows `x` (N, D)."""
    steps = np.arange(0, len(x) + _STEP_ROWS, _STEP_ROWS).clip(max=len(x))
    _from_host(x, steps, centers, None, {"labels": labels})


def encode_from_host(
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: DeviceCenters,
    how: Normalisation,
    outputs: dict[str, Any],
) -> None:
    """Encode images.

    Fill `outputs`: "vectors" (B, K * D), and "labels" (N,) and "counts" (B, K) unless they are None.
    """
    _from_host(x, offsets, centers, how, outputs)


class _Slot:
    """Streams and pinned buffers for one block of images, from the host through the device and back."""

    def __init__(self) -> None:
        cupy = import_cupy()
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._pinned: dict[str, Any] = {}
        self._results: list[tuple[NDArray[Any], NDArray[Any]]] = []

    def start(
        self,
        x: NDArray[np.float32],
        offsets: NDArray[np.int64],
        centers: DeviceCenters,
        how: Normalisation | None,
        outputs: dict[str, NDArray[Any] | None],
    ) -> None:
        """Start the copy in, the kernels and the copy out of a block. `finish` fills `outputs`."""
        cupy = import_cupy()
        with self._stream:
            values = cupy.empty(x.shape, np.float32)
            staged = self._staged("x", x.shape, np.float32)
            staged[...] = x
            values.set(staged, stream=self._stream)
            on_device = {
                name: None if out is None else cupy.empty(out.shape, out.dtype)
                for name, out in outputs.items()
            }
            unbounded = cupy.zeros(1, np.int32)  # host descriptors were checked before
            labels = on_device["labels"]
            if how is None:
                label(GpuArray(values), centers, labels, unbounded)
            else:
                vectors, counts = on_device["vectors"], on_device["counts"]
                encode_block(GpuArray(values), offsets, centers, how, vectors, labels, counts, unbounded)
            for name, result in on_device.items():
                out = outputs[name]
                if out is not None and result is not None:
                    staged = self._staged(name, out.shape, out.dtype)
                    result.get(stream=self._stream, out=staged, blocking=False)
                    self._results.append((out, staged))

    def finish(self) -> None:
        """Wait for the block and copy its results into the outputs."""
        self.wait()
        for out, staged in self._results:
            out[...] = staged
        self._results.clear()

    def wait(self) -> None:
        """Wait until the stream is idle."""
        self._stream.synchronize()

    def _staged(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return a pinned array in the buffer `name`, which grows if it is too small."""
        cupy, n_bytes = import_cupy(), int(np.prod(shape)) * np.dtype(dtype).itemsize
        if name not in self._pinned or self._pinned[name].mem.size < n_bytes:
            self._pinned[name] = cupy.cuda.alloc_pinned_memory(max(n_bytes, 1))
        flat: NDArray[Any] = np.frombuffer(self._pinned[name], dtype, int(np.prod(shape)))
        return flat.reshape(shape)


def _from_host(
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: DeviceCenters,
    how: Normalisation | None,
    outputs: dict[str, Any],
) -> None:
    """Encode host descriptors into host `outputs`, block by block. If `how` is None, only label them."""
    # The centres must be on the device before other streams read them.
    import_cupy().cuda.get_current_stream().synchronize()
    slots = deque([_Slot(), _Slot()])
    todo = deque(_blocks(offsets, x.shape[1], 0 if how is None else centers.k))
    try:
        _run_blocks(x, offsets, centers, how, outputs, slots, todo)
    finally:  # no copy may be running when its memory is released
        for slot in slots:
            slot.wait()


def _run_blocks(
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: DeviceCenters,
    how: Normalisation | None,
    outputs: dict[str, Any],
    slots: deque[_Slot],
    todo: deque[tuple[int, int]],
) -> None:
    cupy = import_cupy()
    while todo:
        first, last = todo.popleft()
        begin, end = int(offsets[first]), int(offsets[last])
        parts = {
            "labels": _part(outputs.get("labels"), begin, end),
            "vectors": _part(outputs.get("vectors"), first, last),
            "counts": _part(outputs.get("counts"), first, last),
        }
        slot = slots[0]
        slot.finish()
        try:
            slot.start(x[begin:end], offsets[first : last + 1] - begin, centers, how, parts)
        except cupy.cuda.memory.OutOfMemoryError as error:
            for other in slots:
                other.finish()
            labels_only = f"block {first}, of {_STEP_ROWS} descriptors,"
            what = labels_only if how is None else f"image {first}"
            todo.extendleft(reversed(halves(first, last, error, what)))
            continue
        slots.rotate(-1)
    for slot in slots:
        slot.finish()


def _part(array: Any, first: int, last: int) -> Any:
    return None if array is None else array[first:last]


def _blocks(offsets: NDArray[np.int64], d: int, k: int) -> Iterator[tuple[int, int]]:
    """Yield runs of at least one image whose inputs and outputs take about `_BLOCK_BYTES`."""
    n_images = len(offsets) - 1
    ends = 4 * d * (offsets[1:] + k * np.arange(1, n_images + 1))
    first = 0
    while first < n_images:
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _BLOCK_BYTES, side="right")))
        yield first, last
        first = last
