"""Description of the machine and measurement of its limits: peak arithmetic and memory bandwidth."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from problems import DIMENSION, LARGE_ROWS

LIMITS = pytest.StashKey[dict]()
_PACKAGES = (
    "medvlad",
    "numpy",
    "scipy",
    "scikit-learn",
    "torch",
    "faiss-cpu",
    "numba",
    "tensorflow",
    "keras",
    "openvino",
    "superkmeans",
    "scikit-learn-intelex",
)


class NoCompiler(Exception):
    """The limits cannot be measured. The message gives the reason."""


def describe():
    """Return processor, versions, date and load, without the name or folders of the machine."""
    return {
        "processor": processor(),
        "level": level(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": installed(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def processor():
    """Return the name of the processor, with family, model and stepping if Linux reports them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or "unknown"
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name", platform.processor() or "unknown")
    numbers = [f"{key} {fields[key]}" for key in ("cpu family", "model", "stepping") if key in fields]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def level():
    """Return the instruction-set level that the C++ core uses here, or "not built"."""
    try:
        from medvlad.backends import native
    except ImportError:
        return "not built"
    return native.level()


def why_no_amx(limits):
    """Return why the measured limits have no matrix tiles, or None if they were measured."""
    rates = next(iter((limits or {}).values()), {})
    return None if "amx_bfloat16_gflops" in rates else rates.get("amx", "the limits were not measured")


def installed():
    """Return the versions of the packages that are measured."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def limits(threads, quick=False, problem_bytes=4 * LARGE_ROWS * DIMENSION):
    """Compile and run limits.cpp and return {threads: {name: number}}. `quick` only checks that it runs.

    Bandwidth is also measured in an array of `problem_bytes` bytes, by default the rows of a large problem.
    """
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise NoCompiler("no C++ compiler found; tried CXX, c++, g++ and clang++")
    source = Path(__file__).with_name("limits.cpp")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "limits"
        command = [*compiler.split(), "-O3", "-std=c++17", "-pthread", str(source), "-o", str(program)]
        built = subprocess.run(command, capture_output=True, text=True)
        if built.returncode:
            raise RuntimeError(f"limits.cpp does not compile:\n{built.stderr}")
        size = str(1 << 20 if quick else problem_bytes)
        run = [str(program), "quick" if quick else "full", size, *map(str, threads)]
        return json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
