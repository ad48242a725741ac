"""Extension modules only; everything else stands in pyproject.toml."""

import os
import sys

from Cython.Build import cythonize
from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import Extension, setup

MSVC = sys.platform == "win32"
# Without contraction a processor with fused multiply-add gives the same bits as one without.
FLAGS = ["/O2", "/fp:precise"] if MSVC else ["-O3", "-ffp-contract=off"]
WARNINGS = [] if MSVC else ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion"]
if os.environ.get("MEDVLAD_WERROR") == "1":
    WARNINGS += ["/WX"] if MSVC else ["-Werror"]

core = Pybind11Extension(
    "medvlad.backends._native_portable",
    ["csrc/bindings.cpp", "csrc/core/vlad.cpp", "csrc/core/decide.cpp"],
    depends=[f"csrc/core/{name}.hpp" for name in ("decide", "parallel", "sgemm", "vlad")],
    include_dirs=["csrc"],
    extra_compile_args=FLAGS + WARNINGS,
    cxx_std=17,
)
blas = Extension(
    "medvlad.backends._blas",
    ["medvlad/backends/_blas.pyx"],
    include_dirs=["csrc"],
    extra_compile_args=["/std:c++17"] if MSVC else ["-std=c++17", "-O2"],
)

with ParallelCompile("MEDVLAD_BUILD_JOBS", default=0):
    setup(ext_modules=[core, *cythonize([blas], language_level=3)], cmdclass={"build_ext": build_ext})
