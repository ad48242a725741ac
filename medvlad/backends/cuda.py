"""The GPU backend.

The mathematics stands in ``kernels/*.cu`` and :mod:`medvlad.backends.candidate_centers`. Kernels are launched
in :mod:`medvlad.backends.cuda_launches`, host arrays copied in :mod:`medvlad.backends.cuda_transfer`.

Descriptors are NumPy arrays or :class:`~medvlad.descriptors.gpu_array.GpuArray`. Arrays on a GPU stay there,
and kernels run on the stream of the library they came from. No kernel adds floating-point numbers in an order
that can change. Every run, by either sequence of kernels, therefore gives the same bits.

`encode`, `encode_weighted` and `assign` of a GpuArray wait for the device before they return. The caller may
release the inputs then. `encode` and `assign` check that every number was finite.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.backends.cuda_kernels import capability, launch
from medvlad.backends.cuda_launches import encode_resident, label, upload
from medvlad.backends.cuda_transfer import encode_from_host, label_from_host
from medvlad.backends.cuda_weighted import distances_resident, encode_weighted_resident
from medvlad.backends.normalise import Normalisation
from medvlad.backends.seeding import PlainSeeding
from medvlad.descriptors.checks import check_encoded, check_finite
from medvlad.descriptors.gpu_array import GpuArray, import_cupy

__all__ = [
    "aggregate",
    "assign",
    "candidate_distances",
    "center_distances",
    "column_sums",
    "describe",
    "encode",
    "encode_weighted",
    "place",
    "seeding",
    "squared_distances",
    "take",
]

P = ParamSpec("P")
R = TypeVar("R")

_ROW_THREADS = 256 // 8  # rows of a block of kmeans.cu
_RUN_ROWS = 1024  # rows whose distances kmeans.cu adds before it adds the runs


def _in_one_sentence(function: Callable[P, R]) -> Callable[P, R]:
    """Raise an InputError instead of CuPy's error if the GPU runs out of memory."""

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
    x: Any,
    centers: NDArray[np.float32],
    *,
    offsets: NDArray[np.int64] | None = None,
    n_threads: int = 1,
    method: str = "auto",
) -> NDArray[np.int32] | Any:
    """See :func:`medvlad.backends.reference.assign`. Labels of a GpuArray are a cupy.ndarray."""
    if isinstance(x, GpuArray):
        with x.stream():
            cupy = import_cupy()
            labels, unbounded = cupy.empty(len(x), np.int32), cupy.zeros(1, np.int32)
            label(x, upload(centers, method), labels, unbounded)
            if int(unbounded[0]):
                check_finite(x, offsets)
            return labels
    check_finite(x, offsets)
    labels = np.empty(len(x), np.int32)
    label_from_host(x, upload(centers, method), labels)
    return labels


@_in_one_sentence
def aggregate(
    x: Any,
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    *,
    n_threads: int = 1,
    method: str = "auto",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """See :func:`medvlad.backends.reference.aggregate`. The results are in host memory."""
    counts = np.empty((len(offsets) - 1, len(centers)), np.int64)
    residuals = np.empty((len(offsets) - 1, centers.size), np.float32)
    how = Normalisation(l2_norm=False)
    if isinstance(x, GpuArray):
        cupy = import_cupy()
        with x.stream():
            on_device = cupy.empty(counts.shape, np.int64)
            encoded = encode_resident(x, offsets, upload(centers, method), how, None, None, on_device)
            residuals, counts = cupy.asnumpy(encoded), cupy.asnumpy(on_device)
    else:
        check_finite(x, offsets)
        outputs = {"labels": None, "vectors": residuals, "counts": counts}
        encode_from_host(x, offsets, upload(centers, method), how, outputs)
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
    """See :func:`medvlad.backends.reference.encode`. Outputs for a GpuArray are cupy.ndarrays.

    Raises
    ------
    InputError
        If an image does not fit into the GPU's memory, or for the reasons of the reference.
    """
    how = Normalisation(power=power, intra_norm=intra_norm, l2_norm=l2_norm)
    if isinstance(x, GpuArray):
        with x.stream():
            out = encode_resident(x, offsets, upload(centers, method), how, out, labels_out, counts_out)
            if not how.has_norm:
                check_encoded(GpuArray(out))
            return out
    check_finite(x, offsets)
    if out is None:
        out = np.empty((len(offsets) - 1, centers.size), np.float32)
    outputs = {"labels": labels_out, "vectors": out, "counts": counts_out}
    encode_from_host(x, offsets, upload(centers, method), how, outputs)
    if not how.has_norm:
        check_encoded(out)
    return out


@_in_one_sentence
def encode_weighted(
    x: Any,
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    cells: Any,
    weights: Any,
    normalisation: Normalisation,
    *,
    n_threads: int = 1,
    scales: Any = None,
    masses_out: NDArray[np.float64] | None = None,
) -> Any:
    """See :func:`medvlad.backends.reference.encode_weighted`. The result of a GpuArray is a cupy.ndarray.

    `cells`, `weights` and `scales` may be in host memory or cupy.ndarrays. `masses_out` is in host memory.
    """
    placed = place(x)
    with placed.stream():
        encoded, masses = encode_weighted_resident(
            placed, offsets, centers, cells, weights, normalisation, scales
        )
        if masses_out is not None:
            masses_out[...] = import_cupy().asnumpy(masses)
        if not isinstance(x, GpuArray):
            return import_cupy().asnumpy(encoded)
        import_cupy().cuda.get_current_stream().synchronize()
        return encoded


@_in_one_sentence
def squared_distances(x: Any, centers: NDArray[np.float32], labels: Any, *, n_threads: int = 1) -> Any:
    """See :func:`medvlad.backends.reference.squared_distances`.

    If `labels` is a cupy.ndarray, the result is one too. Otherwise it is in host memory.
    """
    cupy, placed = import_cupy(), place(x)
    with placed.stream():
        distances = cupy.empty(labels.shape, np.float64)
        n, per_row = int(distances.size), 1 if labels.ndim == 1 else labels.shape[1]
        arguments = (
            *(placed.float32(), np.int64(n), np.int32(per_row), np.int32(placed.shape[1])),
            *(cupy.asarray(centers), cupy.asarray(labels), distances),
        )
        launch("kmeans", "squared_distances", -(-n // _ROW_THREADS), 256, arguments)
        return distances if isinstance(labels, cupy.ndarray) else cupy.asnumpy(distances)


@_in_one_sentence
def center_distances(x: Any, centers: NDArray[np.float32], *, n_threads: int = 1) -> Any:
    """See :func:`medvlad.backends.reference.center_distances`. The result of a GpuArray is a cupy.ndarray.

    A kernel sums the squared differences, each in float64 in the order of the features.
    """
    placed = place(x)
    with placed.stream():
        distances = distances_resident(placed, centers)
        return distances if isinstance(x, GpuArray) else import_cupy().asnumpy(distances)


@_in_one_sentence
def candidate_distances(
    x: Any,
    norms: NDArray[np.float64],
    candidates: NDArray[np.int64],
    closest: NDArray[np.float64],
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


def seeding(x: Any, rows: NDArray[np.int64] | None = None, *, n_threads: int = 1) -> PlainSeeding:
    """See :func:`medvlad.backends.reference.seeding`."""
    placed = place(x if rows is None else take(x, rows))
    n, d = placed.shape
    norms = squared_distances(placed, np.zeros((1, d), np.float32), np.zeros(n, np.int32))
    return PlainSeeding(placed, norms, candidate_distances)


def place(x: Any) -> GpuArray:
    """Copy descriptors to the GPU, to use them in many calls. Those on a GPU stay as they are.

    Raises
    ------
    InputError
        If they do not fit into the GPU's memory.
    """
    if isinstance(x, GpuArray):
        return x
    cupy = import_cupy()
    try:
        return GpuArray(cupy.asarray(x))
    except cupy.cuda.memory.OutOfMemoryError as error:
        raise InputError(
            f"{len(x)} descriptors of {x.shape[1]} numbers do not fit into the GPU's memory ({error}): "
            "use partial_fit on parts of them, or backend='native'"
        ) from error


@_in_one_sentence
def take(x: Any, rows: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return a copy, in host memory, of rows of placed descriptors."""
    placed = place(x)
    with placed.stream():
        return placed[import_cupy().asarray(rows)].to_host()


@_in_one_sentence
def column_sums(x: Any, *, n_threads: int = 1) -> NDArray[np.float64]:
    """Return the sum of placed descriptors, feature by feature, in float64."""
    placed = place(x)
    with placed.stream():
        return np.asarray(import_cupy().asnumpy(placed.float32().sum(axis=0, dtype=np.float64)))
