"""GpuArray: descriptors that are on a GPU, whichever library put them there.

Arrays go in and out by DLPack, without a copy. NumPy and CuPy have no bfloat16 of their own, so its numbers
are kept as their bits.

TensorFlow's ``__dlpack__`` takes no stream, and CuPy always names one: its tensors go by a capsule, after the
device has come to rest.
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

__all__ = ["ELEMENTS", "GpuArray", "empty", "first_not_finite", "import_cupy", "on_gpu"]

# DLPack's numbers for memory of a CUDA device, and for memory managed between host and device.
_CUDA_DEVICES = (2, 13)

# Rows that are looked at together for what is not finite.
_ROWS = 1 << 16

#: Kinds of numbers that the kernels read.
ELEMENTS = ("float32", "float16", "bfloat16")


def on_gpu(x: Any) -> bool:
    """Whether `x` is an array on a GPU: a GpuArray, or anything whose ``__dlpack_device__`` says so."""
    if isinstance(x, GpuArray):
        return True
    if type(x) is np.ndarray or not hasattr(x, "__dlpack_device__"):
        return False
    try:
        return int(x.__dlpack_device__()[0]) in _CUDA_DEVICES
    except (BufferError, RuntimeError, ValueError):  # of no device, as torch's "meta"
        return False


def import_cupy() -> Any:
    """Import CuPy, or say which extra brings it."""
    return import_extra("cupy", "cuda12]' or 'medvlad[cuda13", "the cuda backend")


class GpuArray:
    """Descriptors on a GPU: C-contiguous float32, float16 or bfloat16, and who made them.

    Parameters
    ----------
    values : cupy.ndarray
        bfloat16 as uint16, its bits.
    element : {"float32", "float16", "bfloat16"}
    origin : str
        Module of the library that the array came from, and that results go back to.
    """

    __slots__ = ("element", "origin", "values")

    def __init__(self, values: Any, element: str = "float32", origin: str = "cupy") -> None:
        self.values = values
        self.element = element
        self.origin = origin

    @classmethod
    def read(cls, x: Any, name: str) -> GpuArray:
        """Take an array on a GPU, without a copy where it is C-contiguous and the kernels read its dtype.

        Other real numbers become float32.

        Raises
        ------
        InputError
            If it does not hold real numbers.
        """
        if isinstance(x, GpuArray):
            return x
        cupy = import_cupy()
        origin = _origin(x)
        is_bfloat16 = "bfloat16" in str(getattr(x, "dtype", ""))
        # Copies, too, are made on the array's device and its library's stream.
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
        """As NumPy's."""
        return tuple(self.values.shape)

    @property
    def ndim(self) -> int:
        """As NumPy's."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> GpuArray:
        """Rows, as a view where `rows` is a slice."""
        return GpuArray(self.values[rows], self.element, self.origin)

    def reshape(self, *shape: int) -> GpuArray:
        """As NumPy's; never a copy, since the numbers are contiguous."""
        return GpuArray(self.values.reshape(shape), self.element, self.origin)

    def float32(self) -> Any:
        """Return a cupy.ndarray of the same numbers as float32: this one's memory where it holds them."""
        if self.element == "bfloat16":
            return (self.values.astype(np.uint32) << 16).view(np.float32)
        return self.values.astype(np.float32, copy=False)

    def to_host(self) -> NDArray[np.float32]:
        """Return a copy in host memory, as float32."""
        with self.stream():
            return np.asarray(import_cupy().asnumpy(self.float32()), np.float32)

    def first_not_finite(self) -> tuple[int, float] | None:
        """Row and value of the first number that is NaN or infinite."""
        with self.stream():
            # A bfloat16 is not finite where all bits of its exponent are set.
            is_bits = self.element == "bfloat16"
            for start in range(0, len(self), _ROWS):  # so that what is made on the way stays small
                block = self.values[start : start + _ROWS]
                bad = (block & 0x7F80) == 0x7F80 if is_bits else ~import_cupy().isfinite(block)
                rows = bad.any(axis=1)
                if bool(rows.any()):
                    row = start + int(rows.argmax())
                    values = self[row : row + 1].to_host()[0]
                    return row, float(values[~np.isfinite(values)][0])
        return None

    def give_back(self, result: Any) -> Any:
        """Return `result`, a cupy.ndarray, as an array of the library that this one came from."""
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
        """Return `given` as the cupy.ndarray on its memory, if results of that shape can be written there.

        Raises
        ------
        InputError
            If it is not a C-contiguous array of `shape` and `dtype` on the same GPU, cannot be written, or
            overlaps the descriptors or another output, `used`.
        """
        if not on_gpu(given):
            raise InputError(
                f"{name} must be on the GPU where the descriptors are, got {type(given).__name__}"
            )
        origin = _origin(given)
        if isinstance(given, GpuArray):
            raise InputError(f"{name} must be an array of CuPy or torch, got a GpuArray: give its values")
        if origin in ("jax", "tensorflow"):
            raise InputError(f"{name} is an array of {origin}, which cannot be written: leave it out")
        if _device_of(given) != self.values.device.id:
            raise InputError(f"{name} is on another GPU than the descriptors: make it on theirs")
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
        """Context in which CuPy works on this array's device, and on the stream its library uses there."""
        return _context(self.origin, int(self.values.device.id))


def _device_of(x: Any) -> int:
    return int(x.__dlpack_device__()[1])


def _context(origin: str, device: int) -> AbstractContextManager[Any]:
    """Context in which CuPy works on a device, and on the stream that a library uses there."""
    cupy = import_cupy()
    stream: Any = nullcontext()
    if origin == "torch":
        stream = _foreign_stream(cupy, _torch_stream(device), device)
    return _DeviceAndStream(cupy.cuda.Device(device), stream)


class _DeviceAndStream:
    """Two contexts as one; a CuPy stream belongs to the device that is current when it is used."""

    def __init__(self, device: Any, stream: Any) -> None:
        self._device, self._stream = device, stream

    def __enter__(self) -> None:
        self._device.__enter__()
        self._stream.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._stream.__exit__(*error)
        self._device.__exit__(*error)


def _addresses(values: Any) -> tuple[int, int]:
    begin = int(values.__cuda_array_interface__["data"][0])
    return begin, begin + int(values.nbytes)


def _origin(x: Any) -> str:
    """Name of the library that made an array."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, getattr(torch, "Tensor", ())):
        return "torch"  # classes derived from its own live elsewhere
    return type(x).__module__.partition(".")[0].replace("jaxlib", "jax")


def _torch_stream(device: int) -> int:
    return int(importlib.import_module("torch").cuda.current_stream(device).cuda_stream)


def _foreign_stream(cupy: Any, pointer: int, device: int) -> Any:
    if not hasattr(cupy.cuda.Stream, "from_external"):  # CuPy before 14
        return cupy.cuda.ExternalStream(pointer, device)

    class Foreign:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, pointer

    return cupy.cuda.Stream.from_external(Foreign())


def _import(cupy: Any, x: Any, origin: str, is_bfloat16: bool) -> Any:
    """Return `x` as a cupy.ndarray on the same memory; bfloat16 as 16-bit integers."""
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
        # TensorFlow names no stream: what it has begun must be done.
        tensorflow.test.experimental.sync_devices()
        return cupy.from_dlpack(tensorflow.experimental.dlpack.to_dlpack(x))
    return cupy.from_dlpack(x)


def empty(shape: tuple[int, int], output: str) -> Any:
    """Room for float32 numbers on the "host" or the "gpu"; InputError where that has none."""
    if output == "host":
        return np.empty(shape, np.float32)
    cupy = import_cupy()
    try:
        return cupy.empty(shape, np.float32)
    except cupy.cuda.memory.OutOfMemoryError as error:
        raise InputError(
            f"{shape[0]} descriptors of {shape[1]} do not fit into the GPU's memory ({error}): "
            "take fewer images at a time, keep TensorFlow or JAX from taking it all "
            "(TF_FORCE_GPU_ALLOW_GROWTH=true, XLA_PYTHON_CLIENT_PREALLOCATE=false), or use output='host'"
        ) from error
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise InputError(
            f"output='gpu' needs a GPU that CuPy can use ({error}): use output='host'"
        ) from error


def first_not_finite(values: Any) -> int | None:
    """Row of the first number that is NaN or infinite."""
    if not isinstance(values, np.ndarray) or on_gpu(values):
        found = GpuArray(values).first_not_finite()
        return None if found is None else found[0]
    finite = np.isfinite(values).all(axis=1)
    return None if finite.all() else int(np.argmin(finite))
