"""Build the extension modules. Everything else is configured in pyproject.toml."""

import json
import os
import platform
import sys
from pathlib import Path

from Cython.Build import cythonize
from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import Extension, setup

MSVC = sys.platform == "win32"
X86 = platform.machine().lower() in ("x86_64", "amd64") and not MSVC
# Without contraction to fused multiply-adds, all processors give the same bits.
FLAGS = ["/O2", "/fp:precise"] if MSVC else ["-O3", "-ffp-contract=off"]
WARNINGS = [] if MSVC else ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion"]
if os.environ.get("MEDVLAD_WERROR") == "1":
    # GCC's own AVX-512 headers initialise values with themselves, which causes these two warnings.
    WARNINGS += ["/WX"] if MSVC else ["-Werror", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]

# One module for each instruction set. medvlad/backends/native.py loads the best one that can run.
LEVELS = json.loads(Path("csrc/levels.json").read_text())
# For tests only: the level amx without its instructions.
if os.environ.get("MEDVLAD_EMULATED") != "1":
    del LEVELS["amx_emulated"]
if not X86:
    LEVELS = {"portable": []}


def core(level, flags):
    """Return the extension module of the C++ core for one instruction set."""
    name = f"_native_{level}"
    return Pybind11Extension(
        f"medvlad.backends.{name}",
        ["csrc/bindings.cpp", *sorted(map(str, Path("csrc/core").glob("*.cpp"))), f"csrc/simd/{level}.cpp"],
        depends=sorted(map(str, Path("csrc").glob("*/*.hpp"))),
        include_dirs=["csrc"],
        define_macros=[("MEDVLAD_MODULE", name)],
        extra_compile_args=FLAGS + WARNINGS + flags,
        cxx_std=17,
        # If the compiler does not support a level, the level is left out.
        optional=level != "portable" and os.environ.get("MEDVLAD_WERROR") != "1",
    )


blas = Extension(
    "medvlad.backends._blas",
    ["medvlad/backends/_blas.pyx"],
    include_dirs=["csrc"],
    extra_compile_args=["/std:c++17"] if MSVC else ["-std=c++17", "-O2"],
)

jpeg = Pybind11Extension(
    "medvlad.images._jpeg",
    ["csrc/jpeg_bindings.cpp", "csrc/jpeg/damage.cpp"],
    depends=sorted(map(str, Path("csrc/jpeg").glob("*.hpp"))),
    include_dirs=["csrc"],
    extra_compile_args=FLAGS + WARNINGS,
    cxx_std=17,
)

# It asks the processor for AVX2 when it runs.
resize = [
    Pybind11Extension(
        "medvlad.images._resize",
        ["csrc/resize_bindings.cpp", "csrc/resize/bilinear.cpp"],
        depends=sorted(map(str, Path("csrc/resize").glob("*.hpp"))),
        include_dirs=["csrc"],
        extra_compile_args=FLAGS + WARNINGS,
        cxx_std=17,
    )
] * X86

with ParallelCompile("MEDVLAD_BUILD_JOBS", default=0):
    setup(
        ext_modules=[
            *(core(*level) for level in LEVELS.items()),
            jpeg,
            *resize,
            *cythonize([blas], language_level=3),
        ],
        cmdclass={"build_ext": build_ext},
    )
