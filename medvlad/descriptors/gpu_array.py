"""Hold descriptors on a GPU, from any library.

DLPack moves arrays between libraries without a copy. NumPy and CuPy have no bfloat16, so its numbers are
stored as 16-bit integers with the same bits.

CuPy passes a stream to ``__dlpack__``, but TensorFlow's takes none. So TensorFlow's tensors are moved in a
DLPack capsule, after the device has finished its work.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, import_extra

__all__ = [
    "ELEMENTS",
    "GpuArray",
    "array_module",
    "empty",
    "first_not_finite",
    "host_array",
    "import_cupy",
    "on_gpu",
]

# DLPack's codes for CUDA memory and for CUDA managed memory.
_CUDA_DEVICES = (2, 13)

# Number of rows that are checked for NaN at a time.
_ROWS = 1 << 16

#: Data types that the kernels read.
ELEMENTS = ("float32", "float16", "bfloat16")


def on_gpu(x: Any) -> bool:
    """Return whether `x` is on a CUDA GPU: a GpuArray, or an array whose ``__dlpack_device__`` says so."""
    if isinstance(x, GpuArray):
        return True
    if type(x) is np.ndarray or not hasattr(x, "__dlpack_device__"):
        return False
    try:
        return int(x.__dlpack_device__()[0]) in _CUDA_DEVICES
    except (BufferError, RuntimeError, ValueError):  # no real device, such as torch's "meta"
        return False


def import_cupy() -> Any:
    """Import CuPy. MissingExtraError names the extras that install it."""
    return import_extra("cupy", "cuda12]' or 'medvlad[cuda13", "the cuda backend")


def array_module(x: Any) -> Any:
    """Return CuPy if `x` is a GpuArray, and NumPy otherwise: the module that computes where `x` is."""
    return import_cupy() if isinstance(x, GpuArray) else np


def host_array(array: Any) -> Any:
    """Copy a cupy.ndarray to host memory. Anything else is returned unchanged."""
    return import_cupy().asnumpy(array) if on_gpu(array) else array


class GpuArray:
    """A C-contiguous array on a GPU, and the library that it came from.

    Parameters
    ----------
    values : cupy.ndarray
        The numbers. bfloat16 is stored as uint16 with the same bits.
    element : {"float32", "float16", "bfloat16"}, default="float32"
        Data type of the numbers.
    origin : str, default="cupy"
        Module of the library that the array came from. Results are returned to it.
    """

    __slots__ = ("element", "origin", "values")

    def __init__(self, values: Any, element: str = "float32", origin: str = "cupy") -> None:
        self.values = values
        self.element = element
        self.origin = origin

    @classmethod
    def read(cls, x: Any, name: str) -> GpuArray:
        """Read an array on a GPU. Without a copy if it is C-contiguous and has a dtype of ELEMENTS.

        Other real numbers become float32.

        Parameters
        ----------
        x : array with ``__dlpack__``
            Array on a GPU.
        name : str
            What error messages call it.

        Raises
        ------
        InputError
            If `x` does not hold real numbers.
        """
        if isinstance(x, GpuArray):
            return x
        cupy = import_cupy()
        origin = _origin(x)
        is_bfloat16 = "bfloat16" in str(getattr(x, "dtype", ""))
        # Copies are made on the array's device and on its library's stream as well.
        with _context(origin, _device_of(x)):
            values = _import(cupy, x, origin, is_bfloat16)
            if is_bfloat16:
                return cls(cupy.ascontiguousarray(values).view(np.uint16), "bfloat16", origin)
            if values.dtype.kind not in "fiub":
                raise InputError(
                    f"{name} must hold real numbers, got dtype {values.dtype}: convert to float32"
                )
            element = str(values.dtype)
            if element not in ELEMENTS:
                element = "float32"
            return cls(cupy.ascontiguousarray(values, dtype=element), element, origin)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, as in NumPy."""
        return tuple(self.values.shape)

    @property
    def ndim(self) -> int:
        """Number of dimensions, as in NumPy."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> GpuArray:
        """Return rows. The result is a view if `rows` is a slice."""
        return GpuArray(self.values[rows], self.element, self.origin)

    def reshape(self, *shape: int) -> GpuArray:
        """Return a view of another shape, as in NumPy."""
        return GpuArray(self.values.reshape(shape), self.element, self.origin)

    def float32(self) -> Any:
        """Return the numbers as a cupy.ndarray of float32. Float32 numbers are not copied."""
        if self.element == "bfloat16":
            return (self.values.astype(np.uint32) << 16).view(np.float32)
        return self.values.astype(np.float32, copy=False)

    def to_host(self) -> NDArray[np.float32]:
        """Return a copy in host memory as float32."""
        with self.stream():
            return np.asarray(import_cupy().asnumpy(self.float32()), np.float32)

    def first_not_finite(self) -> tuple[int, float] | None:
        """Return row and value of the first NaN or infinity. None: all numbers are finite."""
        with self.stream():
            # A bfloat16 is not finite if all bits of its exponent are set.
            is_bits = self.element == "bfloat16"
            for start in range(0, len(self), _ROWS):  # blocks keep temporary arrays small
                block = self.values[start : start + _ROWS]
                bad = (block & 0x7F80) == 0x7F80 if is_bits else ~import_cupy().isfinite(block)
                rows = bad.any(axis=1)
                if bool(rows.any()):
                    row = start + int(rows.argmax())
                    values = self[row : row + 1].to_host()[0]
                    return row, float(values[~np.isfinite(values)][0])
        return None

    def give_back(self, result: Any) -> Any:
        """Convert `result`, a cupy.ndarray, to the library that this array came from."""
        if self.origin == "torch":
            return importlib.import_module("torch").from_dlpack(result)
        if self.origin == "jax":
            return importlib.import_module("jax.dlpack").from_dlpack(result)
        if self.origin == "tensorflow":
            import_cupy().cuda.get_current_stream().synchronize()
            tensorflow = importlib.import_module("tensorflow")
            return tensorflow.experimental.dlpack.from_dlpack(result.__dlpack__())
        return result

    def output(
        self, given: Any, name: str, shape: tuple[int, ...], dtype: type, used: Sequence[Any] = ()
    ) -> Any:
        """Return a cupy.ndarray on the memory of `given`, if results can be written there.

        Parameters
        ----------
        given : array on a GPU
            Output array that the caller gave.
        name : str
            What error messages call it.
        shape : tuple of int
            Required shape.
        dtype : type
            Required dtype.
        used : sequence of cupy.ndarray
            Other outputs that it must not overlap.

        Raises
        ------
        InputError
            If `given` is not a C-contiguous array of `shape` and `dtype` on the same GPU, cannot be written,
            or overlaps the descriptors or another output.
        """
        if not on_gpu(given):
            raise InputError(f"{name} must be on the GPU of the descriptors, got {type(given).__name__}")
        origin = _origin(given)
        if isinstance(given, GpuArray):
            raise InputError(
                f"{name} must be an array of CuPy or torch, got a GpuArray: use its attribute values"
            )
        if origin in ("jax", "tensorflow"):
            raise InputError(f"{name} is an array of {origin}, which is read-only: leave {name} out")
        if _device_of(given) != self.values.device.id:
            raise InputError(f"{name} is on another GPU than the descriptors: allocate it on their GPU")
        with _context(origin, _device_of(given)):
            values = _import(import_cupy(), given, origin, False)
        if values.dtype != dtype or tuple(values.shape) != shape or not values.flags.c_contiguous:
            raise InputError(
                f"{name} must be a C-contiguous array of {np.dtype(dtype)} {shape}, "
                f"got {values.dtype} {tuple(values.shape)}"
            )
        begin, end = _addresses(values)
        for first, last in map(_addresses, (self.values, *used)):
            if begin < last and first < end:
                raise InputError(f"{name} overlaps an input or another output: give it memory of its own")
        return values

    def stream(self) -> AbstractContextManager[Any]:
        """Return a context in which CuPy uses this array's device and its library's current stream."""
        return _context(self.origin, int(self.values.device.id))


def _device_of(x: Any) -> int:
    return int(x.__dlpack_device__()[1])


def _context(origin: str, device: int) -> AbstractContextManager[Any]:
    """Return a context in which CuPy uses a device and the current stream of a library."""
    cupy = import_cupy()
    stream: Any = nullcontext()
    if origin == "torch":
        stream = _foreign_stream(cupy, _torch_stream(device), device)
    return _DeviceAndStream(cupy.cuda.Device(device), stream)


class _DeviceAndStream:
    """Enter a device and then a stream, because a CuPy stream belongs to the device that is current."""

    def __init__(self, device: Any, stream: Any) -> None:
        self._device, self._stream = device, stream

    def __enter__(self) -> None:
        self._device.__enter__()
        self._stream.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._stream.__exit__(*error)
        self._device.__exit__(*error)


def _addresses(values: Any) -> tuple[int, int]:
    """Return the first address of an array, and the first address after it."""
    begin = int(values.__cuda_array_interface__["data"][0])
    return begin, begin + int(values.nbytes)


def _origin(x: Any) -> str:
    """Return the name of the library that made an array."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, getattr(torch, "Tensor", ())):
        return "torch"  # subclasses of Tensor can be defined in other modules
    return type(x).__module__.partition(".")[0].replace("jaxlib", "jax")


def _torch_stream(device: int) -> int:
    return int(importlib.import_module("torch").cuda.current_stream(device).cuda_stream)


def _foreign_stream(cupy: Any, pointer: int, device: int) -> Any:
    """Return a CuPy stream for the CUDA stream at an address."""
    if not hasattr(cupy.cuda.Stream, "from_external"):  # CuPy before 14
        return cupy.cuda.ExternalStream(pointer, device)

    class Foreign:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, pointer

    return cupy.cuda.Stream.from_external(Foreign())


def _import(cupy: Any, x: Any, origin: str, is_bfloat16: bool) -> Any:
    """Return a cupy.ndarray on the memory of `x`. bfloat16 becomes 16-bit integers."""
    if origin == "cupy":
        return x
    if origin == "torch":
        torch = importlib.import_module("torch")
        x = x.detach()
        return cupy.from_dlpack(x.contiguous().view(torch.int16) if is_bfloat16 else x)
    if origin == "jax":
        if is_bfloat16:
            jax = importlib.import_module("jax")
            x = jax.lax.bitcast_convert_type(x, np.uint16)
        return cupy.from_dlpack(x)
    if origin == "tensorflow":
        tensorflow = importlib.import_module("tensorflow")
        if is_bfloat16:
            x = tensorflow.bitcast(x, tensorflow.uint16)
        # TensorFlow does not name its stream, so wait until all its work is finished.
        tensorflow.test.experimental.sync_devices()
        return cupy.from_dlpack(tensorflow.experimental.dlpack.to_dlpack(x))
    return cupy.from_dlpack(x)


def empty(shape: tuple[int, int], output: str) -> Any:
    """Allocate an array of float32.

    Parameters
    ----------
    shape : tuple of int
        Number of descriptors and their width.
    output : {"host", "gpu"}
        Where the array lies.

    Raises
    ------
    InputError
        If CuPy cannot use a GPU, or its memory is too small.
    """
    if output == "host":
        return np.empty(shape, np.float32)
    cupy = import_cupy()
    try:
        return cupy.empty(shape, np.float32)
    except cupy.cuda.memory.OutOfMemoryError as error:
        raise InputError(
            f"{shape[0]} descriptors of {shape[1]} do not fit into the GPU's memory ({error}): "
            "use fewer images at a time or output='host', or stop TensorFlow or JAX from reserving all the "
            "memory (TF_FORCE_GPU_ALLOW_GROWTH=true, XLA_PYTHON_CLIENT_PREALLOCATE=false)"
        ) from error
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise InputError(
            f"output='gpu' needs a GPU that CuPy can use ({error}): use output='host' instead"
        ) from error


def first_not_finite(values: Any) -> int | None:
    """Return the row of the first NaN or infinity. None: all numbers are finite."""
    if not isinstance(values, np.ndarray) or on_gpu(values):
        found = GpuArray(values).first_not_finite()
        return None if found is None else found[0]
    finite = np.isfinite(values).all(axis=1)
    return None if finite.all() else int(np.argmin(finite))
