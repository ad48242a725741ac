"""What ``medvlad doctor`` tells: what is installed, what can run here, and what is missing."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any

from medvlad._validate import check_n_threads
from medvlad.backends import available_backends
from medvlad.evaluation import versions
from medvlad.weights import find_weights

__all__ = ["diagnose"]


def diagnose() -> dict[str, Any]:
    """Describe this installation and machine.

    Returns
    -------
    dict
        versions, platform, backends, instruction_set, threads, gpu, weights, environment: text, or dicts of
        text.
    """
    backends = available_backends()
    return {
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "backends": backends,
        "instruction_set": backends["native"].removeprefix("ok: "),
        "threads": check_n_threads(None),
        "gpu": _gpu(),
        "weights": find_weights(),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith("MEDVLAD_") or name == "KERAS_BACKEND"
        },
    }


def _gpu() -> str:
    """Names of the CUDA devices, asked of the driver itself so that no Python package is needed."""
    library = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return "no CUDA driver found"
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0:
        return f"the CUDA driver answers with error {status}"
    if count.value == 0:
        return "a CUDA driver, but no device"
    names = []
    for ordinal in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        driver.cuDeviceGet(ctypes.byref(device), ordinal)
        driver.cuDeviceGetName(name, len(name), device)
        names.append(name.value.decode(errors="replace"))
    return ", ".join(names)
