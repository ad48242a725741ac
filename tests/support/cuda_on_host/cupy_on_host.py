"""The part of CuPy that medvlad uses, in host memory. The host's C++ compiler compiles the kernels.

`Array` claims to be on a CUDA device. As in CuPy, mixing its arrays with NumPy's by accident is an error.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from medvlad.backends import cuda_kernels

HERE = Path(__file__).parent
KERNELS = Path(cuda_kernels.__file__).parent / "kernels"
FLAGS = ("-O2", "-std=c++20", "-fPIC", "-shared", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")
FLAGS = (*FLAGS, "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE")
COMPILER = shutil.which("g++") or shutil.which("c++")


class Array(np.ndarray):
    """A host array that claims to be on device 0."""

    device_type = 2

    def __dlpack_device__(self):
        return (self.device_type, 0)

    @property
    def __cuda_array_interface__(self):
        return {"data": (self.ctypes.data, False)}

    @property
    def device(self):
        return Device()

    def __array_function__(self, function, types, arguments, options):
        raise TypeError(f"Implicit conversion to a NumPy array is not allowed ({function.__name__})")

    def set(self, values, stream=None):
        assert not isinstance(values, Array)
        assert values.dtype == self.dtype
        np.copyto(self.view(np.ndarray), values)

    def get(self, stream=None, out=None, blocking=True):
        assert not isinstance(out, Array)
        np.copyto(out, self.view(np.ndarray))
        return out


ndarray = Array


class OutOfMemoryError(MemoryError):
    """As CuPy's."""


class CUDARuntimeError(RuntimeError):
    """As CuPy's."""


class Memory:
    """Limit of one allocation in bytes, so that tests can run out of memory."""

    limit = None

    @classmethod
    def check(cls, n_bytes):
        if cls.limit is not None and n_bytes > cls.limit:
            raise OutOfMemoryError(f"{n_bytes} bytes of {cls.limit}")


def empty(shape, dtype=np.float64):
    array = np.empty(shape, dtype)
    Memory.check(array.nbytes)
    if array.dtype.kind == "f":
        array[...] = np.nan  # memory that nobody writes shows up as NaN
    return array.view(Array)


def zeros(shape, dtype=np.float64):
    Memory.check(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return np.zeros(shape, dtype).view(Array)


def asarray(x, dtype=None):
    if isinstance(x, Array):
        return x
    Memory.check(np.asarray(x).nbytes)
    return np.array(x, dtype, order="C").view(Array)


def asnumpy(x):
    return np.array(x.view(np.ndarray))


def ascontiguousarray(x, dtype=None):
    return np.ascontiguousarray(x.view(np.ndarray), dtype).view(Array)


def concatenate(arrays):
    assert all(isinstance(a, Array) for a in arrays)
    return np.concatenate([a.view(np.ndarray) for a in arrays]).view(Array)


def _on_device(function):
    """Return a function of NumPy that takes and returns device arrays only."""

    def wrapped(*arrays, **options):
        assert all(isinstance(a, Array) or not isinstance(a, np.ndarray) for a in arrays), function.__name__
        plain = [a.view(np.ndarray) if isinstance(a, Array) else a for a in arrays]
        return np.asarray(function(*plain, **options)).view(Array)

    return wrapped


argsort, exp, sqrt, take_along_axis, tile, where = map(
    _on_device, (np.argsort, np.exp, np.sqrt, np.take_along_axis, np.tile, np.where)
)


def arange(stop, dtype=None):
    return np.arange(stop, dtype=dtype).view(Array)


def ones(shape, dtype=np.float64):
    return np.ones(shape, dtype).view(Array)


def isfinite(x):
    return np.isfinite(x.view(np.ndarray)).view(Array)


def from_dlpack(x):
    if hasattr(x, "__dlpack_device__"):
        return np.from_dlpack(x).view(Array)

    class Capsule:
        def __dlpack__(self, **options):
            return x

        def __dlpack_device__(self):
            return (1, 0)

    return np.from_dlpack(Capsule()).view(Array)


class Device:
    """Device 0."""

    id = 0
    compute_capability = "90"
    attributes = {"MultiProcessorCount": 2}  # noqa: RUF012

    def __init__(self, number=0):
        assert number == 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class Stream:
    """A stream without delay: every call has finished when it returns."""

    def __init__(self, *, non_blocking=False):
        pass

    @classmethod
    def from_external(cls, foreign):
        assert foreign.__cuda_stream__()[0] == 0
        return cls()

    def synchronize(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class Pinned(bytearray):
    """As CuPy's pinned memory."""

    @property
    def mem(self):
        return SimpleNamespace(size=len(self))


cuda = SimpleNamespace(
    Device=Device,
    Stream=Stream,
    get_current_stream=Stream,
    alloc_pinned_memory=Pinned,
    memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    runtime=SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda device: {"name": b"the host"},
    ),
)


def get_default_memory_pool():
    return SimpleNamespace(free_all_blocks=lambda: None)


class RawModule:
    """A file of kernels, compiled for the host."""

    def __init__(self, *, code, options):
        self._library = load(code, [option for option in options if option.startswith("-D")])

    def get_function(self, name):
        function = self._library[f"launch_{name}"]

        def launch(grid, block, arguments):
            grid_x, grid_y = (*grid, 1)[:2]
            assert 0 < grid_x < 2**31
            assert 0 < grid_y < 2**16
            values = [
                ctypes.c_void_p(a.ctypes.data) if isinstance(a, Array) else _scalar(a) for a in arguments
            ]
            pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
            function(ctypes.c_uint(grid_x), ctypes.c_uint(grid_y), ctypes.c_int(block[0]), pointers)

        return launch


def _scalar(value):
    """Return a NumPy scalar as ctypes passes it. A Python number has no width, so CuPy would guess one."""
    assert isinstance(value, np.generic), f"{value!r} has no width"
    return np.ctypeslib.as_ctypes_type(value.dtype)(value.item())


def translation(code):
    """Return kernels as a C++ file: `code` with the host's instructions and a launch function per kernel."""
    own = (KERNELS / "instructions.cuh").read_text().replace("#pragma once\n", "")
    assert code.count(own) == 1
    code = code.replace(own, "#include <instructions.cuh>\n")
    names = re.findall(r"^MEDVLAD_\w+\((\w+)", code, re.MULTILINE)
    names += re.findall(r'^extern "C" __global__ .*\n? +(\w+)\(const', code, re.MULTILINE)
    assert names
    return code + "".join(f"\nCUDA_ON_HOST_KERNEL({name})" for name in names) + "\n"


def load(code, flags):
    """Compile kernels for the host, once for each text of theirs, and load them."""
    text = translation(code)
    own = "".join((HERE / name).read_text() for name in ("cuda_on_host.hpp", "instructions.cuh"))
    key = hashlib.sha256(repr((text, own, FLAGS, flags)).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"medvlad-cuda-on-host-{key}"
    library = folder / "kernels.so"
    if not library.exists():
        folder.mkdir(exist_ok=True)
        unit, made = folder / f"{os.getpid()}.cpp", folder / f"{os.getpid()}.so"
        unit.write_text(text)
        command = [COMPILER, *FLAGS, *flags, f"-I{HERE}", str(unit), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr[:2000])
        made.rename(library)
    return ctypes.CDLL(str(library))
