"""Find, compile and launch the CUDA kernels. Each is compiled once per device and descriptor dtype."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from medvlad.descriptors.gpu_array import import_cupy

__all__ = ["capability", "launch", "module", "options", "source"]

#: The compiler must not fuse products and sums by itself, so that every machine computes the same bits.
_OPTIONS = ("--std=c++17", "--fmad=false")
_ELEMENTS = {"float32": "float", "float16": "Half", "bfloat16": "BFloat16"}
_KERNELS = Path(__file__).parent / "kernels"


def options(element: str) -> tuple[str, ...]:
    """Return the compiler options for descriptors of one dtype."""
    return (*_OPTIONS, f"-DMEDVLAD_ELEMENT={_ELEMENTS[element]}")


def source(name: str) -> str:
    """Return ``kernels/NAME.cu`` with its headers pasted in.

    CuPy's cache of compiled kernels does not notice a changed header, so it gets one text without includes.
    """
    seen: set[str] = set()

    def text(path: Path) -> str:
        def included(match: re.Match[str]) -> str:
            header = match.group(1)
            if header in seen:
                return ""
            seen.add(header)
            return text(_KERNELS / header)

        content = path.read_text().replace("#pragma once\n", "")
        return re.sub(r"#include <(\w+\.cuh)>", included, content)

    return text(_KERNELS / f"{name}.cu")


def capability(device: Any) -> tuple[int, int]:
    """Return the major and minor number of a device's compute capability."""
    digits = str(device.compute_capability)
    return int(digits[:-1]), int(digits[-1])


def launch(
    name: str,
    kernel: str,
    grid: int | tuple[int, int],
    threads: int,
    arguments: Any,
    element: str = "float32",
) -> None:
    """Run `kernel` of the file `name` on the current device, unless its grid is empty."""
    shape = grid if isinstance(grid, tuple) else (grid,)
    if min(shape) > 0:
        device = import_cupy().cuda.Device().id
        module(name, element, device).get_function(kernel)(shape, (threads,), arguments)


@cache
def module(name: str, element: str, device: int) -> Any:
    """Compile a file of kernels for one dtype and device."""
    return import_cupy().RawModule(code=source(name), options=options(element))
