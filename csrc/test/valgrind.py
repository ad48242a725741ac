"""Run the portable core under valgrind's memcheck: its own test program, and tests/smoke.py from Python.

    python csrc/test/valgrind.py

Compiles the program with CXX (default c++); the module is the installed one. Memory that was never written
is what memcheck sees and the sanitizers do not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
FAILED = 99
MEMCHECK = ("valgrind", "-q", f"--error-exitcode={FAILED}", "--num-callers=30")
#: Where Debian and Fedora put CPython's own suppressions; elsewhere those of valgrind.supp are all.
PYTHONS_OWN = ("/usr/lib/valgrind/python3.supp", "/usr/libexec/valgrind/python3.supp")


def run(name: str, command: list[str], environment: dict[str, str] | None = None) -> bool:
    """Run under memcheck, say what came of it, and return whether there was no error."""
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    right = done.returncode == 0
    said = done.stdout.strip() if right else f"FAILED ({done.returncode})\n{done.stdout}{done.stderr}"
    print(f"{name} ({time.perf_counter() - began:.0f} s): {said}")
    return right


def core_test(folder: str) -> bool:
    """Run the core without Python; what it does not give back is an error as well."""
    program = str(Path(folder) / "core_test")
    sources = [
        *sorted(SOURCE.glob("core/*.cpp")),
        SOURCE / "simd/portable.cpp",
        SOURCE / "test/core_test.cpp",
    ]
    flags = ["-std=c++17", "-O1", "-g", "-ffp-contract=off", "-pthread", '-DMEDVLAD_LEVEL="portable"']
    compiler = os.environ.get("CXX", "c++").split()
    subprocess.run([*compiler, *flags, f"-I{SOURCE}", *map(str, sources), "-o", program], check=True)
    leaks = ["--leak-check=full", "--errors-for-leak-kinds=definite"]
    return run("core_test", [*MEMCHECK, *leaks, program])


def from_python() -> bool:
    """Run the bindings and SciPy's BLAS beneath them. What CPython does not give back is nobody's error."""
    if find_spec("medvlad.backends._native_portable") is None:
        raise SystemExit("medvlad is not installed: pip install . first")
    files = [str(Path(__file__).with_name("valgrind.supp")), *filter(os.path.exists, PYTHONS_OWN)]
    suppressions = [f"--suppressions={file}" for file in files]
    # One thread of OpenBLAS: valgrind runs one at a time, and those that wait turn without end.
    own = {"MEDVLAD_SIMD": "portable", "PYTHONMALLOC": "malloc", "OPENBLAS_NUM_THREADS": "1"}
    smoke = str(SOURCE.parent / "tests" / "smoke.py")
    command = [*MEMCHECK, *suppressions, sys.executable, smoke, "portable"]
    return run("smoke.py", command, {**os.environ, **own})


def main() -> int:
    """Run both."""
    with tempfile.TemporaryDirectory() as folder:
        return 0 if all([core_test(folder), from_python()]) else 1


if __name__ == "__main__":
    sys.exit(main())
