"""The GPU: chooses the kernels' launch shapes, moves arrays.

The mathematics stands in ``kernels/*.cu`` and :mod:`medvlad.backends.candidate_centers`. One call of
`encode` runs

    images          many images of few rows: a block each, from descriptors to the vector

or, for few images and large ones,

    assign          scores on the tensor cores (float32 units before compute capability 8.0), candidates
    decide          rows with several candidates, exactly
    cells           norms, then residuals and normalisation, a warp a cell and slice

Descriptors are NumPy arrays or :class:`~medvlad.descriptors.gpu_array.GpuArray`. What is on a GPU stays
there, and is computed on its library's stream. Host arrays go through two pairs of pinned buffers, block by
block. So copies in, kernels and copies out overlap, and the batch may be larger than the GPU's memory.
No kernel adds floating-point numbers in an order that could change: the same bits on every run.

`encode` and `assign` of a GpuArray wait for the device before they return: they look whether every number was
finite. So what they were given may be released by then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.backends import host_backend
from medvlad.backends.candidate_centers import TILE_CENTERS, CandidateCenters, candidate_centers
from medvlad.backends.cuda_kernels import capability, launch
from medvlad.descriptors.checks import check_finite
from medvlad.descriptors.gpu_array import GpuArray, import_cupy

__all__ = [
    "aggregate",
    "assign",
    "candidate_distances",
    "column_sums",
    "describe",
    "encode",
    "encode_weighted",
    "place",
    "squared_distances",
    "take",
]

P = ParamSpec("P")
R = TypeVar("R")

_WARP = 32
_ASSIGN_ROWS = 128  # of a block with one warp across
_DECIDE_ROWS = 128
_CELLS_OF_A_BLOCK = 8
_SLICE = 128  # dimensions of a warp in cells.cu; those of images.cu are fewer and wider
_ROW_THREADS = 256 // 8  # rows of a block in kmeans.cu
_RUN_ROWS = 1024

# Rows whose candidates are kept at a time.
_PASS_ROWS = 1 << 20
# Rows of the host that are labelled together at least.
_STEP_ROWS = 4096
# With fewer images than this for each multiprocessor their cells are spread over the device.
_IMAGES_A_MULTIPROCESSOR = 2
# An image of more rows than this is spread over many blocks.
_LARGE_IMAGE = 8192
# Input and output bytes of a block of images that comes from the host.
_BLOCK_BYTES = 128 << 20


def _in_one_sentence(function: Callable[P, R]) -> Callable[P, R]:
    """Make what is left of running out of memory an InputError."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except MemoryError as error:  # CuPy's is one
            raise InputError(
                f"the GPU's memory is not enough for this many descriptors ({error}): give fewer at a time, "
                "or use backend='native'"
            ) from error

    return wrapped


def describe() -> str:
    """Return "ok: NAME, compute capability M.N", or raise ImportError with the reason."""
    cupy = import_cupy()
    try:
        n_devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise ImportError(f"no CUDA driver that CuPy can use ({error})") from error
    if n_devices == 0:
        raise ImportError("no CUDA device found")
    device = cupy.cuda.Device()
    name = cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode()
    major, minor = capability(device)
    return f"ok: {name}, compute capability {major}.{minor}"


@_in_one_sentence
def assign(
    x: Any, centers: NDArray[np.float32], *, n_threads: int = 1, method: str = "auto"
) -> NDArray[np.int32] | Any:
    """See :func:`medvlad.backends.reference.assign`; labels of a GpuArray are a cupy.ndarray."""
    if isinstance(x, GpuArray):
        with x.stream():
            cupy = import_cupy()
            labels, unbounded = cupy.empty(len(x), np.int32), cupy.zeros(1, np.int32)
            _label(x, _upload(centers, method), labels, unbounded)
            if int(unbounded[0]):
                check_finite(x)
            return labels
    labels = np.empty(len(x), np.int32)
    steps = np.arange(0, len(x) + _STEP_ROWS, _STEP_ROWS).clip(max=len(x))
    _from_host(x, steps, _upload(centers, method), None, {"labels": labels})
    return labels


@_in_one_sentence
def aggregate(
    x: Any,
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    *,
    n_threads: int = 1,
    labels_out: Any = None,
    method: str = "auto",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """See :func:`medvlad.backends.reference.aggregate`; the results are in host memory."""
    counts = np.empty((len(offsets) - 1, len(centers)), np.int64)
    residuals = np.empty((len(offsets) - 1, centers.size), np.float32)
    how = {"power": 1.0, "intra_norm": False, "l2_norm": False}
    if isinstance(x, GpuArray):
        cupy = import_cupy()
        with x.stream():
            on_device = cupy.empty(counts.shape, np.int64)
            encoded = _encode_resident(x, offsets, _upload(centers, method), how, None, labels_out, on_device)
            residuals, counts = cupy.asnumpy(encoded), cupy.asnumpy(on_device)
    else:
        outputs = {"labels": labels_out, "vectors": residuals, "counts": counts}
        _from_host(x, offsets, _upload(centers, method), how, outputs)
    return residuals.reshape(len(counts), *centers.shape), counts


@_in_one_sentence
def encode(
    x: Any,
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    *,
    power: float = 1.0,
    intra_norm: bool = False,
    l2_norm: bool = True,
    n_threads: int = 1,
    out: Any = None,
    labels_out: Any = None,
    counts_out: Any = None,
    method: str = "auto",
) -> Any:
    """See :func:`medvlad.backends.reference.encode`; a GpuArray gives cupy.ndarrays, and takes them.

    Raises
    ------
    InputError
        If an image does not fit into the GPU's memory, or descriptors on the GPU are not finite.
    """
    how = {"power": power, "intra_norm": intra_norm, "l2_norm": l2_norm}
    if isinstance(x, GpuArray):
        with x.stream():
            return _encode_resident(x, offsets, _upload(centers, method), how, out, labels_out, counts_out)
    if out is None:
        out = np.empty((len(offsets) - 1, centers.size), np.float32)
    outputs = {"labels": labels_out, "vectors": out, "counts": counts_out}
    _from_host(x, offsets, _upload(centers, method), how, outputs)
    return out


def encode_weighted(
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    cells: NDArray[np.int32],
    weights: NDArray[np.float64],
    **settings: Any,
) -> NDArray[np.float32]:
    """See :func:`medvlad.backends.reference.encode_weighted`; by the host, there is no kernel for it."""
    return host_backend().encode_weighted(x, offsets, centers, cells, weights, **settings)


@_in_one_sentence
def squared_distances(
    x: Any, centers: NDArray[np.float32], labels: NDArray[np.int32], *, n_threads: int = 1
) -> NDArray[np.float64]:
    """See :func:`medvlad.backends.reference.squared_distances`."""
    cupy, x = import_cupy(), place(x)
    n, d = x.shape
    with x.stream():
        distances = cupy.empty(n, np.float64)
        arguments = (
            *(x.float32(), np.int64(n), np.int32(d), cupy.asarray(centers), cupy.asarray(labels)),
            distances,
        )
        launch("kmeans", "squared_distances", -(-n // _ROW_THREADS), 256, arguments)
        return np.asarray(cupy.asnumpy(distances))


@_in_one_sentence
def candidate_distances(
    x: Any,
    norms: NDArray[np.float64],
    candidates: NDArray[np.int64],
    closest: NDArray[np.float64],
    *,
    n_threads: int = 1,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """See :func:`medvlad.backends.reference.candidate_distances`."""
    cupy, x = import_cupy(), place(x)
    (n, d), t = x.shape, len(candidates)
    runs = -(-n // _RUN_ROWS)
    with x.stream():
        distances, sums = cupy.empty((t, n), np.float64), cupy.empty((t, runs), np.float64)
        arguments = (
            *(x.float32(), np.int64(n), np.int32(d), cupy.asarray(norms), cupy.asarray(candidates)),
            *(np.int32(t), cupy.asarray(closest), distances),
        )
        launch("kmeans", "candidate_distances", -(-n // _ROW_THREADS), 256, arguments)
        launch("kmeans", "run_sums", -(-t * runs // 256), 256, (distances, np.int64(n), np.int32(t), sums))
        return cupy.asnumpy(distances), np.cumsum(cupy.asnumpy(sums), axis=1)[:, -1]


def place(x: Any) -> GpuArray:
    """Put descriptors onto the GPU for many calls; those that are there stay as they are.

    Raises
    ------
    InputError
        If they do not fit.
    """
    if isinstance(x, GpuArray):
        return x
    cupy = import_cupy()
    try:
        return GpuArray(cupy.asarray(x))
    except cupy.cuda.memory.OutOfMemoryError as error:
        raise InputError(
            f"{len(x)} descriptors of {x.shape[1]} do not fit into the GPU's memory ({error}): "
            "use partial_fit on parts of them, or backend='native'"
        ) from error


@_in_one_sentence
def take(x: Any, rows: NDArray[np.integer]) -> NDArray[np.float32]:
    """Rows of placed descriptors, in host memory."""
    placed = place(x)
    with placed.stream():
        return placed[import_cupy().asarray(rows)].to_host()


@_in_one_sentence
def column_sums(x: Any) -> NDArray[np.float64]:
    """Sum of placed descriptors, feature by feature, in float64."""
    placed = place(x)
    with placed.stream():
        return np.asarray(import_cupy().asnumpy(placed.float32().sum(axis=0, dtype=np.float64)))


class _Centers:
    """Centres on the current device."""

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
        """Arguments of the first pass, in the order of every kernel that makes it."""
        host = self.host
        k_padded, d_padded = host.rounded.shape
        return (
            *(self.rounded, self.half, np.int32(self.k), np.int32(k_padded), np.int32(d_padded)),
            *(np.int32(host.warps_across), host.max_center, host.max_center_error, host.max_half, host.gamma),
        )

    def exact_arguments(self) -> tuple[Any, ...]:
        """Arguments of the decision."""
        return self.values, self.half_norms, np.float64(self.host.max_norm)


def _upload(centers: NDArray[np.float32], method: str) -> _Centers:
    way = method
    if method == "auto":
        way = "tensor_cores" if capability(import_cupy().cuda.Device())[0] >= 8 else "float32_units"
    host = candidate_centers(centers, tensor_cores=way == "tensor_cores")
    try:
        return _Centers(centers, host, way)
    except import_cupy().cuda.memory.OutOfMemoryError as error:
        k, d = centers.shape
        raise InputError(f"{k} centres of {d} do not fit into the GPU's memory ({error})") from error


def _label(x: GpuArray, centers: _Centers, labels: Any, unbounded: Any) -> None:
    """Launch what fills `labels` (N,), and sets `unbounded` (1,) where descriptors may not be finite."""
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


def _encode_resident(
    x: GpuArray,
    offsets: NDArray[np.int64],
    centers: _Centers,
    how: dict[str, Any],
    out: Any,
    labels: Any,
    counts: Any,
) -> Any:
    """Encode descriptors that are on the device; all images at once, or in halves where memory is short."""
    cupy = import_cupy()
    if out is None:
        out = _output(cupy, (len(offsets) - 1, centers.k * centers.d))
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
            _encode_block(x[begin:end], own_offsets, centers, how, own, own_labels, own_counts, unbounded)
        except cupy.cuda.memory.OutOfMemoryError as error:
            todo.extendleft(reversed(_halves(first, last, error)))
    if int(unbounded[0]):
        check_finite(x, offsets)
    return out


def _output(cupy: Any, shape: tuple[int, int]) -> Any:
    try:
        return cupy.empty(shape, np.float32)
    except cupy.cuda.memory.OutOfMemoryError as error:
        raise InputError(
            f"{shape[0]} encoded images of {shape[1]} numbers do not fit into the GPU's memory ({error}): "
            "encode fewer at a time"
        ) from error


def _halves(first: int, last: int, error: Exception, what: str = "image") -> list[tuple[int, int]]:
    """Two halves of a block of images that did not fit."""
    import_cupy().get_default_memory_pool().free_all_blocks()
    if last - first <= 1:
        raise InputError(
            f"{what} {first} does not fit into the GPU's memory ({error}): free some, or use backend='native'"
        ) from error
    middle = (first + last) // 2
    return [(first, middle), (middle, last)]


def _encode_block(
    x: GpuArray,
    offsets: NDArray[np.int64],
    centers: _Centers,
    how: dict[str, Any],
    out: Any,
    labels: Any,
    counts: Any,
    unbounded: Any,
) -> None:
    """Launch everything for a block of images whose descriptors are `x`; all arrays are on the device."""
    cupy = import_cupy()
    n_images = len(offsets) - 1
    if labels is None:
        labels = cupy.empty(len(x), np.int32)
    normalised = how["l2_norm"] or how["intra_norm"]
    slices = -(-centers.d // _SLICE)
    norms = cupy.empty((n_images if normalised else 0, centers.k * slices), np.float64)
    on_device = cupy.asarray(offsets)
    k, d = np.int32(centers.k), np.int32(centers.d)
    modes = np.float64(how["power"]), np.int32(how["intra_norm"]), np.int32(how["l2_norm"])
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
        _label(x[begin:end], centers, labels[begin:end], unbounded)
        grid = (-(-centers.k * slices // _CELLS_OF_A_BLOCK), last - first)
        if normalised:
            launch("cells", "cell_norms", grid, 256, arguments, x.element)
        launch("cells", "write_cells", grid, 256, arguments, x.element)


def _runs(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int, bool]]:
    """Yield runs of images, and whether each is spread over many blocks: too few images, or a large one."""
    n_images, most = len(offsets) - 1, 65535  # of a grid's second dimension
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


class _Slot:
    """One block of images on its way from the host through the device and back."""

    def __init__(self) -> None:
        cupy = import_cupy()
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._pinned: dict[str, Any] = {}
        self._results: list[tuple[NDArray[Any], NDArray[Any]]] = []

    def start(
        self,
        x: NDArray[np.float32],
        offsets: NDArray[np.int64],
        centers: _Centers,
        how: dict[str, Any] | None,
        outputs: dict[str, NDArray[Any] | None],
    ) -> None:
        """Begin copying in, computing and copying out; `outputs` are filled by `finish`."""
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
            unbounded = cupy.zeros(1, np.int32)  # host descriptors were looked at before
            labels = on_device["labels"]
            if how is None:
                _label(GpuArray(values), centers, labels, unbounded)
            else:
                vectors, counts = on_device["vectors"], on_device["counts"]
                _encode_block(GpuArray(values), offsets, centers, how, vectors, labels, counts, unbounded)
            for name, result in on_device.items():
                out = outputs[name]
                if out is not None and result is not None:
                    staged = self._staged(name, out.shape, out.dtype)
                    result.get(stream=self._stream, out=staged, blocking=False)
                    self._results.append((out, staged))

    def finish(self) -> None:
        """Wait for what was begun and copy it to where it belongs."""
        self.wait()
        for out, staged in self._results:
            out[...] = staged
        self._results.clear()

    def wait(self) -> None:
        """Wait for what was begun."""
        self._stream.synchronize()

    def _staged(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return a pinned array, in a buffer of that name that grows as needed."""
        cupy, n_bytes = import_cupy(), int(np.prod(shape)) * np.dtype(dtype).itemsize
        if name not in self._pinned or self._pinned[name].mem.size < n_bytes:
            self._pinned[name] = cupy.cuda.alloc_pinned_memory(max(n_bytes, 1))
        flat: NDArray[Any] = np.frombuffer(self._pinned[name], dtype, int(np.prod(shape)))
        return flat.reshape(shape)


def _from_host(
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: _Centers,
    how: dict[str, Any] | None,
    outputs: dict[str, Any],
) -> None:
    """Encode host descriptors (label them, where `how` is None) into host `outputs`, block by block."""
    # The centres are there before other streams read them.
    import_cupy().cuda.get_current_stream().synchronize()
    slots = deque([_Slot(), _Slot()])
    todo = deque(_blocks(offsets, x.shape[1], 0 if how is None else centers.k))
    try:
        _run_blocks(x, offsets, centers, how, outputs, slots, todo)
    finally:  # nothing may be on its way to memory that is given back
        for slot in slots:
            slot.wait()


def _run_blocks(
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: _Centers,
    how: dict[str, Any] | None,
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
            what = "image" if how is not None else f"block of {_STEP_ROWS} descriptors"
            todo.extendleft(reversed(_halves(first, last, error, what)))
            continue
        slots.rotate(-1)
    for slot in slots:
        slot.finish()


def _part(array: Any, first: int, last: int) -> Any:
    return None if array is None else array[first:last]


def _blocks(offsets: NDArray[np.int64], d: int, k: int) -> Iterator[tuple[int, int]]:
    """Yield runs of images that take about `_BLOCK_BYTES`, in and out, at least one image each."""
    n_images = len(offsets) - 1
    ends = 4 * d * (offsets[1:] + k * np.arange(1, n_images + 1))
    first = 0
    while first < n_images:
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _BLOCK_BYTES, side="right")))
        yield first, last
        first = last
