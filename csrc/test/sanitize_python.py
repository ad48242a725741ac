"""Build the extension modules with sanitizers, outside the checkout, and run their Python tests.

    python csrc/test/sanitize_python.py address,undefined thread
    python csrc/test/sanitize_python.py address,undefined --levels portable -k test_bindings

The compiler is CXX (default c++, which must be GCC). The headers of pybind11 are needed. The interpreter and
its packages stay unchanged; the sanitizer's library is preloaded. Before the tests, deliberate defects show
that the sanitizer works.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pybind11

SOURCE = Path(__file__).resolve().parents[1]
ROOT = SOURCE.parent
TESTS = (
    "backends/test_backends.py",
    "backends/test_bindings.py",
    "backends/test_levels.py",
    "encoders/test_memberships.py",
    "extraction/test_winograd.py",
    "images/test_jpeg_damage.py",
    "images/test_resize.py",
)
#: Excluded: CUDA kernels on the host (they have their own test), Keras (it imports TensorFlow), and tests
#: without memory (a sanitizer ends the process if an allocation fails).
SELECTION = "not cuda and not Keras and not no_memory"
COMPILER = os.environ.get("CXX", "c++").split()
#: The first sanitizer of a set -> its library, the variable and value of its options, the defects to report.
RUNTIMES = {
    "address": (
        "libasan.so",
        "ASAN_OPTIONS",
        # Without detect_stack_use_after_return, because GCC 12 then does not align the stack for AVX-512.
        "detect_leaks=1:alloc_dealloc_mismatch=1",
        {
            "read_beyond": "heap-buffer-overflow",
            "leak": "LeakSanitizer",
            "overflow": "signed integer overflow",
        },
    ),
    "thread": ("libtsan.so", "TSAN_OPTIONS", "halt_on_error=1", {"race": "data race"}),
}
FAILED = 99

DEFECTS = """
#include <thread>
#include <vector>
extern "C" {
volatile int sink;
void read_beyond(int n) { std::vector<int> four(4); sink = four[static_cast<std::size_t>(n)]; }
void leak(int n) {
  int* volatile lost = new int[static_cast<std::size_t>(n)];
  lost = nullptr;
  sink = lost == nullptr;
}
void overflow(int n) { sink = 2147483647 + n; }
void race(int n) {
  int shared = 0;
  auto add = [&] { for (int i = 0; i < 1000 * n; ++i) ++shared; };
  std::thread other(add);
  add();
  other.join();
  sink = shared;
}
}
"""


def compile_shared(sanitizers: str, arguments: list[str]) -> None:
    """Compile a shared library with the flags that csrc/test/sanitize.py uses for its programs."""
    flags = ["-std=c++17", "-O1", "-g", "-fno-omit-frame-pointer", "-ffp-contract=off", "-pthread"]
    flags += ["-fPIC", "-shared", "-fvisibility=hidden"]
    flags += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    subprocess.run([*COMPILER, *flags, *arguments], check=True)


def build_package(folder: Path, sanitizers: str, levels: dict[str, list[str]]) -> None:
    """Copy medvlad to `folder` and build its modules for these levels with the sanitizers."""
    installed = find_spec("medvlad.backends._blas")
    if installed is None or installed.origin is None:
        raise SystemExit("medvlad is not installed. Run pip install . first.")
    backends = folder / "medvlad" / "backends"
    shutil.copytree(
        ROOT / "medvlad", folder / "medvlad", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    shutil.copy(installed.origin, backends)  # without sanitizers: it only calls SciPy
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    includes = [f"-I{SOURCE}", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
    units = [SOURCE / "bindings.cpp", *sorted(SOURCE.glob("core/*.cpp"))]

    def build(unit: Path, level: str) -> str:
        made = folder / f"{level}-{unit.stem}.o"
        define = [f"-DMEDVLAD_MODULE=_native_{level}", *levels[level], *includes]
        if unit.stem == "bindings":
            define.append("-O0")  # halves the time of the build and does not slow the tests
        compile_shared(sanitizers, [*define, "-c", str(unit), "-o", str(made)])
        return str(made)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = {
            level: [pool.submit(build, unit, level) for unit in (*units, SOURCE / f"simd/{level}.cpp")]
            for level in levels
        }
        for level, objects in made.items():
            module = backends / f"_native_{level}{suffix}"
            compile_shared(sanitizers, [*(one.result() for one in objects), "-o", str(module)])
    for name in ("jpeg", "resize"):
        sources = [SOURCE / f"{name}_bindings.cpp", *sorted(SOURCE.glob(f"{name}/*.cpp"))]
        module = folder / "medvlad" / "images" / f"_{name}{suffix}"
        compile_shared(sanitizers, [*includes, *map(str, sources), "-o", str(module)])


def environment_of(folder: Path, sanitizers: str) -> dict[str, str]:
    """Return the environment in which the interpreter runs with the sanitizer."""
    library, variable, options, _ = RUNTIMES[sanitizers.split(",")[0]]
    # Also preload libstdc++: a sanitizer looks up __cxa_throw once, before Python has loaded any C++ library.
    loaded = [
        subprocess.check_output([*COMPILER, f"-print-file-name={name}"], text=True).strip()
        for name in (library, "libstdc++.so.6")
    ]
    here = Path(__file__).parent
    own = {
        "LD_PRELOAD": " ".join(loaded),
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])),
        "PYTHONDONTWRITEBYTECODE": "1",
        variable: f"{options}:exitcode={FAILED}",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "LSAN_OPTIONS": f"suppressions={here / 'leaks.supp'}:print_suppressions=0",
    }
    if variable == "TSAN_OPTIONS":
        own[variable] += f":suppressions={here / 'races.supp'}"
    return {**os.environ, **own}


def check_defects(folder: Path, sanitizers: str) -> dict[str, str]:
    """Exit unless the sanitizer reports each of the deliberate defects. Return the environment of the tests.

    An interpreter without symbols, such as Debian's, has leaks of its own that leaks.supp cannot name. Then
    leaks are not searched for.
    """
    environment = environment_of(folder, sanitizers)
    library = folder / "defects.so"
    (folder / "defects.cpp").write_text(DEFECTS)
    compile_shared(sanitizers, ["-fvisibility=default", str(folder / "defects.cpp"), "-o", str(library)])
    for defect, report in RUNTIMES[sanitizers.split(",")[0]][3].items():
        code = f"import ctypes, numpy; ctypes.CDLL({str(library)!r}).{defect}(5)"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode == 0 or report not in done.stderr:
            raise SystemExit(
                f"{sanitizers}: {defect}() was not reported (exit status {done.returncode})\n{done.stderr}"
            )
    options = environment.get("ASAN_OPTIONS", "").replace("detect_leaks=1", "detect_leaks=0")
    without_leaks = environment | {"ASAN_OPTIONS": options}
    for one in (environment, without_leaks):
        done = subprocess.run(
            [sys.executable, "-c", "import numpy"], env=one, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return one
        if "LeakSanitizer" in done.stderr:
            print(f"{sanitizers}: this Python leaks without medvlad, so leaks are not searched for")
    raise SystemExit(f"{sanitizers}: python -c 'import numpy' fails on its own\n{done.stderr}")


def run(sanitizers: str, levels: dict[str, list[str]], selection: str) -> int:
    """Return the exit status of the tests with these sanitizers."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_package(folder, sanitizers, levels)
        environment = check_defects(folder, sanitizers)
        built = time.perf_counter()
        where = "from medvlad.backends import native; print(native.__file__, *native.available_levels())"
        found = subprocess.check_output(
            [sys.executable, "-P", "-c", where], env=environment, text=True, cwd=folder
        )
        if not found.startswith(str(folder)):
            raise SystemExit(f"the tests would import another medvlad: {found}")
        # capture=sys: with fd, a report that ends the process would be lost in pytest's own file.
        command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--capture=sys"]
        command += ["-k", selection, *(str(ROOT / "tests" / test) for test in TESTS)]
        done = subprocess.run(command, env=environment, cwd=folder, check=False)
        ended = time.perf_counter()
    state = "passed" if done.returncode == 0 else f"FAILED ({done.returncode})"
    seconds = f"built in {built - began:.0f} s, ran {ended - built:.0f} s"
    print(f"{sanitizers}: {state} at {' '.join(found.split()[1:])}; {seconds}")
    return done.returncode


def main() -> int:
    """Run the tests under each set of sanitizers named on the command line."""
    every = json.loads((SOURCE / "levels.json").read_text())
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sanitizers", nargs="+", help="address,undefined or thread")
    parser.add_argument(
        "--levels",
        default=",".join(every),
        help="instruction sets, separated by commas; portable is always included",
    )
    parser.add_argument(
        "-k", default=SELECTION, dest="selection", help="pytest's -k option (default: %(default)s)"
    )
    options = parser.parse_args()
    levels = {level: every[level] for level in dict.fromkeys(["portable", *options.levels.split(",")])}
    states = [run(sanitizers, levels, options.selection) for sanitizers in options.sanitizers]
    return int(any(states))


if __name__ == "__main__":
    sys.exit(main())
