"""Run the portable core under valgrind's memcheck: its test program, and the smoke test from Python.

    python csrc/test/valgrind.py [core_test] [smoke]

The program is compiled with CXX (default c++). The Python test uses the installed module. Memcheck reports
the use of uninitialised memory, which the sanitizers do not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
FAILED = 99
MEMCHECK = ("valgrind", "-q", "--num-callers=40")
#: Uninitialised descriptors: a deliberate error, which memcheck must report. The mask clears the highest bit
#: of each exponent, so that no number is NaN or inf, which the module refuses. The other bits stay
#: uninitialised.
UNWRITTEN = """
import numpy as np
from medvlad.backends import native
x = np.empty((300, 7), np.uint32)
x &= 0x3FFFFFFF
native.assign(x.view(np.float32), np.eye(5, 7, dtype=np.float32))
"""


def core_test(folder: str) -> bool:
    """Check the core without Python. Leaked memory is an error as well."""
    program = str(Path(folder) / "core_test")
    others = ("simd/portable.cpp", "test/core_test.cpp")
    sources = [*sorted(SOURCE.glob("core/*.cpp")), *(SOURCE / other for other in others)]
    flags = ["-std=c++17", "-O1", "-g", "-ffp-contract=off", "-pthread"]
    compiler = os.environ.get("CXX", "c++").split()
    subprocess.run([*compiler, *flags, f"-I{SOURCE}", *map(str, sources), "-o", program], check=True)
    options = [f"--error-exitcode={FAILED}", "--leak-check=full", "--errors-for-leak-kinds=definite"]
    options += ["--show-leak-kinds=definite"]
    # The program's own operators new and delete count allocations. Valgrind must not replace them.
    options += ["--soname-synonyms=somalloc=nouserintercepts"]
    began = time.perf_counter()
    done = subprocess.run([*MEMCHECK, *options, program], capture_output=True, text=True, check=False)
    right = done.returncode == 0
    said = "no error" if right else f"FAILED ({done.returncode})\n{done.stdout}{done.stderr}"
    print(f"core_test: {said} ({time.perf_counter() - began:.0f} s)")
    return right


def errors_of(folder: str, arguments: list[str]) -> list[str]:
    """Run Python on the portable module and return the errors in the module or in its callees.

    An error belongs to the module if its stack reaches the module before it reaches the interpreter. The
    interpreter has many errors of its own, which are ignored.
    """
    report = Path(folder) / "errors.xml"
    # One thread of OpenBLAS, because valgrind runs one thread at a time and OpenBLAS' waiting threads spin.
    own = {"MEDVLAD_SIMD": "portable", "PYTHONMALLOC": "malloc", "OPENBLAS_NUM_THREADS": "1"}
    xml = ["--xml=yes", f"--xml-file={report}", "--child-silent-after-fork=yes"]
    # -P: the installed package, not the sources in the current folder.
    command = [*MEMCHECK, "--error-limit=no", *xml, sys.executable, "-P", *arguments]
    subprocess.run(command, env={**os.environ, **own}, stdout=subprocess.DEVNULL, check=True)
    found = []
    for error in ET.parse(report).getroot().iter("error"):
        stack = error.find("stack")
        frames = [] if stack is None else list(stack.iter("frame"))
        for frame in frames:
            file = Path(frame.findtext("obj", ""))
            if file.parent.name == "backends" and file.name.startswith(("_native_", "_blas")):
                names = [one.findtext("fn", "?") for one in frames]
                found.append(f"{error.findtext('kind')}: {' < '.join(names[:6])}")
                break
            if "python" in file.name.partition(".")[0]:
                break
    return found


def from_python(folder: str) -> bool:
    """Check the bindings and the BLAS that they call."""
    if find_spec("medvlad.backends._native_portable") is None:
        raise SystemExit("medvlad is not installed. Run pip install . first.")
    if not errors_of(folder, ["-c", UNWRITTEN]):
        raise SystemExit("memcheck did not report the deliberately uninitialised descriptors")
    began = time.perf_counter()
    found = errors_of(folder, [str(SOURCE.parent / "tests" / "support" / "smoke.py"), "portable"])
    said = "no error" if not found else "\n  ".join(["FAILED", *found])
    print(f"smoke.py: {said} ({time.perf_counter() - began:.0f} s)")
    return not found


def main() -> int:
    """Run the parts named on the command line, or both."""
    parts = {"core_test": core_test, "smoke": from_python}
    with tempfile.TemporaryDirectory() as folder:
        failed = [name for name in sys.argv[1:] or parts if not parts[name](folder)]
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
