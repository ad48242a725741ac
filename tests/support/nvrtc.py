"""NVRTC without CuPy: compile CUDA C++ on a machine without a GPU and report each kernel's resources.

``python -m support.nvrtc``, run in the folder tests, rewrites kernel_resources.json. This is the record that
tests/backends/test_kernels.py compares with.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from medvlad.backends import cuda_kernels
from medvlad.descriptors.gpu_array import ELEMENTS

#: Options that CuPy 14 always adds.
CUPYS_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")
COMPILED_WITH = ("--ptxas-options=-v", *CUPYS_OPTIONS)
RECORD = Path(__file__).with_name("kernel_resources.json")
FILES = sorted(path.stem for path in (Path(cuda_kernels.__file__).parent / "kernels").glob("*.cu"))
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")


class Resources(NamedTuple):
    """Resources of one kernel: registers per thread; bytes of spilled registers, stack and shared memory."""

    registers: int
    spilled: int
    stack: int
    shared: int


def find_library():
    """Return the path of NVRTC's library in NVIDIA's wheels, or None."""
    try:
        spec = find_spec("nvidia")
    except ImportError:
        spec = None
    folders = [] if spec is None else [Path(p) for p in spec.submodule_search_locations or []]
    found = [f for folder in folders for f in folder.glob("*/lib/libnvrtc.so.*") if "alt" not in f.name]
    return min(found, default=None)


class Nvrtc:
    """A loaded NVRTC."""

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"

    def compile(self, source, name, architecture, options):
        """Compile for a real architecture such as sm_90; return each kernel's Resources."""
        program = ctypes.c_void_p()
        create = (ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
        self._call("nvrtcCreateProgram", *create)
        try:
            flags = [f"-arch={architecture}", *options, *COMPILED_WITH]
            array = (ctypes.c_char_p * len(flags))(*(f.encode() for f in flags))
            failed = self._library.nvrtcCompileProgram(program, len(flags), array)
            size = ctypes.c_size_t()
            self._call("nvrtcGetProgramLogSize", program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            self._call("nvrtcGetProgramLog", program, log)
            text = log.value.decode()
            if failed or "warning" in text:
                raise RuntimeError(f"{name} for {architecture}: {text[:1000]}")
            self._call("nvrtcGetCUBINSize", program, ctypes.byref(size))
            assert size.value > 0
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))
        return dict(_read(text))

    def _call(self, function, *arguments):
        code = getattr(self._library, function)(*arguments)
        if code:
            raise RuntimeError(f"{function} returned {code}")


def _read(log):
    """Yield each kernel's name and Resources from the log of ptxas."""
    for part in log.split("Compiling entry function '")[1:]:

        def number(pattern, text=part):
            match = re.search(pattern, text)
            return int(match.group(1)) if match else 0

        yield (
            part.partition("'")[0],
            Resources(
                number(r"Used (\d+) registers"),
                number(r"(\d+) bytes spill stores"),
                number(r"(\d+) bytes stack frame"),
                number(r"(\d+) bytes smem"),
            ),
        )


def units():
    """Return each file with each dtype that it is compiled for."""
    return [(file, element) for file in FILES for element in (ELEMENTS if file != "kmeans" else ("float32",))]


def digest(version):
    """Return a hash of sources, options, architectures, and NVRTC's version, on which resources depend."""
    parts = [
        (file, element, cuda_kernels.source(file), cuda_kernels.options(element)) for file, element in units()
    ]
    return hashlib.sha256(repr((version, ARCHITECTURES, COMPILED_WITH, parts)).encode()).hexdigest()


def compile_all(nvrtc, architectures=ARCHITECTURES):
    """Compile every file for every dtype and architecture. Return architecture -> kernel -> Resources."""
    jobs = [(architecture, *unit) for architecture in architectures for unit in units()]

    def one(job):
        architecture, file, element = job
        name = f"{file}.cu"
        return nvrtc.compile(cuda_kernels.source(file), name, architecture, cuda_kernels.options(element))

    used = {architecture: {} for architecture in architectures}
    with ThreadPoolExecutor(2) as pool:
        for (architecture, _, element), kernels in zip(jobs, pool.map(one, jobs), strict=True):
            used[architecture].update({f"{k}, {element}": r for k, r in sorted(kernels.items())})
    return used


def main():
    nvrtc = Nvrtc(find_library())
    record = {
        "nvrtc": nvrtc.version,
        "digest": digest(nvrtc.version),
        "columns": Resources._fields,
        "kernels": compile_all(nvrtc),
    }
    text = json.dumps(record, indent=1)
    one_line = re.sub(r"\[\s+([^\[\]]+?)\s+\]", lambda match: f"[{' '.join(match[1].split())}]", text)
    RECORD.write_text(one_line + "\n")


if __name__ == "__main__":
    main()
