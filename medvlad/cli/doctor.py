"""What ``medvlad doctor`` tells: what is installed, what can run here, and what is missing."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from medvlad._util.validate import check_n_threads
from medvlad._util.versions import versions
from medvlad.backends import available_backends
from medvlad.extraction.weights import find_weights

__all__ = ["diagnose"]

_NOT_FOR_USERS = {"cuda12", "cuda13", "test", "fuzz", "docs", "bench", "dev"}


def diagnose() -> dict[str, Any]:
    """Describe this installation and machine.

    Returns
    -------
    dict
        versions, extras, platform, backends, instruction_set, threads, gpu, weights, environment: text, or
        dicts of text.
    """
    backends = available_backends()
    return {
        "versions": versions(),
        "extras": _extras(),
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


def _extras() -> dict[str, str]:
    """Which extras are installed, in whatever versions; CuPy's are what the backend cuda tells of."""
    missing: dict[str, list[str]] = {}
    for requirement in metadata.requires("medvlad") or []:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"""extra == ["']([\w-]+)["']""", requirement)
        if name is None or extra is None or extra[1] in _NOT_FOR_USERS:
            continue
        before = re.search(r"""python_version < ["'](\d+)\.(\d+)["']""", requirement)
        if before is not None and sys.version_info[:2] >= (int(before[1]), int(before[2])):
            continue
        lacking = missing.setdefault(extra[1], [])
        try:
            metadata.version(name[0])
        except metadata.PackageNotFoundError:
            if find_spec(name[0].replace("-", "_").replace(".", "_")) is None:  # tensorflow-cpu, for one
                lacking.append(name[0])
    return {
        extra: f"without {', '.join(lacking)}: pip install 'medvlad[{extra}]'" if lacking else "installed"
        for extra, lacking in missing.items()
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
