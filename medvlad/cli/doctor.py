"""The command doctor: what is installed, what can run here, and what is missing."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import click
import cloup

from medvlad.cli import options
from medvlad.cli.console import Command

__all__ = ["diagnose", "doctor"]

_NOT_FOR_USERS = {"cuda12", "cuda13", "test", "test-torch", "fuzz", "docs", "bench", "dev"}


@cloup.command(cls=Command)
@options.JSON
def doctor(as_json: bool) -> None:
    """Show what is installed, what can run here, and what is missing."""
    found = diagnose()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for title, value in found.items():
        if isinstance(value, dict):
            click.echo(f"{title}:")
            for name, text in value.items():
                click.echo(f"  {name:<14} {text}")
        else:
            click.echo(f"{title}: {value}")


def diagnose() -> dict[str, Any]:
    """Describe this installation and machine.

    A question that cannot be answered does not stop the others: its answer is the error.

    Returns
    -------
    dict
        Text, numbers, or dicts of text for versions, extras, platform, backends, instruction_set, threads,
        limit_of_threads, gpu, dtype_of_vgg16, weights and environment.
    """
    from medvlad._util.processors import usable_processors
    from medvlad._util.versions import versions
    from medvlad.backends import available_backends
    from medvlad.extraction.weights import find_weights

    questions: dict[str, Callable[[], Any]] = {
        "versions": versions,
        "extras": _extras,
        "platform": lambda: f"{platform.system()} {platform.machine()}",
        "backends": available_backends,
        "instruction_set": lambda: available_backends()["native"].removeprefix("ok: "),
        "threads": lambda: usable_processors().number,
        "limit_of_threads": lambda: usable_processors().limit,
        "gpu": _gpu,
        "dtype_of_vgg16": _dtype,
        "weights": find_weights,
        "environment": _environment,
    }
    return {name: _answer(question) for name, question in questions.items()}


def _answer(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except Exception as error:
        return f"unknown ({type(error).__name__}: {error})"


def _dtype() -> str:
    """Say what --dtype auto takes for VGG16. The first answer on a machine takes some seconds."""
    from medvlad.extraction.auto_dtype import try_vgg16

    return try_vgg16()


def _environment() -> dict[str, str]:
    """Return the environment variables that change what medvlad does."""
    names = sorted(name for name in os.environ if name.startswith("MEDVLAD_") or name == "KERAS_BACKEND")
    return {name: os.environ[name] for name in names}


def _extras() -> dict[str, str]:
    """Say which extras are installed, in any version. Those of CuPy are part of the backend cuda."""
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
        if not _is_installed(name[0]):
            lacking.append(name[0])
    return {
        extra: f"without {', '.join(lacking)}: pip install 'medvlad[{extra}]'" if lacking else "installed"
        for extra, lacking in missing.items()
    }


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        # Another distribution may bring the module: tensorflow-cpu, for example.
        return find_spec(distribution.replace("-", "_").replace(".", "_")) is not None
    return True


def _gpu() -> str:
    """Return the names of the CUDA devices. They come from the driver, so no Python package is needed."""
    library = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return "no CUDA driver found"
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0:
        return f"the CUDA driver reports error {status}"
    if count.value == 0:
        return "a CUDA driver, but no device"
    names = []
    for ordinal in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        driver.cuDeviceGet(ctypes.byref(device), ordinal)
        driver.cuDeviceGetName(name, len(name), device)
        names.append(name.value.decode(errors="replace"))
    return ", ".join(names)
