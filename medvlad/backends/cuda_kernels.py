"""The CUDA kernels' source: found in files, compiled once a device and kind of number, launched."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from medvlad.descriptors.gpu_array import import_cupy

__all__ = ["capability", "launch", "module", "options", "source"]

#: Compiled without fusing of a product and a sum where the kernels do not ask for it: fixed bits everywhere.
_OPTIONS = ("--std=c++17", "--fmad=false")
_ELEMENTS = {"float32": "float", "float16": "Half", "bfloat16": "BFloat16"}
_KERNELS = Path(__file__).parent / "kernels"


def options(element: str) -> tuple[str, ...]:
    """Return the compiler's options for descriptors of one kind of number."""
    return (*_OPTIONS, f"-DMEDVLAD_ELEMENT={_ELEMENTS[element]}")


def source(name: str) -> str:
    """Text of ``kernels/NAME.cu`` with the headers it includes, which CuPy's own cache would not look at."""
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
    """Major and minor number of a device's compute capability."""
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
    """Run `kernel` of the file `name` on this device, unless its grid is empty."""
    shape = grid if isinstance(grid, tuple) else (grid,)
    if min(shape) > 0:
        device = import_cupy().cuda.Device().id
        module(name, element, device).get_function(kernel)(shape, (threads,), arguments)


@cache
def module(name: str, element: str, device: int) -> Any:
    """Compile a file of kernels for one kind of number, once a device."""
    return import_cupy().RawModule(code=source(name), options=options(element))
