"""Run clang-tidy on the core with the flags of each instruction set, and print its findings.

    python csrc/test/tidy.py [FILE ...]

FILE is a C++ source (.cpp). Without FILE, or if a FILE has another suffix, all sources are checked. The
checks are listed in .clang-tidy. The processor need not support the instruction sets, because nothing is
run. On machines other than x86-64, only the portable level is checked.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11

SOURCE = Path(__file__).resolve().parents[1]
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion")


def sources_of(level: str) -> list[Path]:
    """Return the sources to check with a level's flags: all for portable, else those that depend on it."""
    core = sorted(SOURCE.glob("core/*.cpp"))
    own = SOURCE / f"simd/{level}.cpp"
    if level == "portable":
        images = [*SOURCE.glob("*_bindings.cpp"), *SOURCE.glob("jpeg/*.cpp"), *SOURCE.glob("resize/*.cpp")]
        return [SOURCE / "bindings.cpp", *core, *sorted(images), own, *sorted(SOURCE.glob("test/*.cpp"))]
    return [own, *(path for path in core if '#include "lanes' in path.read_text())]


def findings(path: Path, level: str, flags: list[str]) -> str:
    """Return the findings of clang-tidy in one source, or an empty string."""
    command = [
        str(Path(sys.executable).with_name("clang-tidy")),
        *("--quiet", str(path), "--", "-std=c++17", "-ffp-contract=off", "-pthread", *WARNINGS),
        *(f"-DMEDVLAD_MODULE=_native_{level}", "-DMEDVLAD_DRIVER"),
        *flags,
        f"-I{SOURCE}",
        *("-isystem", pybind11.get_include(), "-isystem", sysconfig.get_path("include")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def main() -> int:
    """Check the sources named on the command line, or all of them."""
    levels = json.loads((SOURCE / "levels.json").read_text())
    if platform.machine().lower() not in ("x86_64", "amd64"):
        print("skipped, because this is not an x86-64:", *(level for level in levels if level != "portable"))
        levels = {"portable": levels["portable"]}
    named = {Path(name).resolve() for name in sys.argv[1:]}
    if any(path.suffix != ".cpp" for path in named):
        named = set()
    runs = [(path, level) for level in levels for path in sources_of(level) if not named or path in named]
    failed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = [pool.submit(findings, path, level, levels[level]) for path, level in runs]
        for (path, level), result in zip(runs, results, strict=True):
            if result.result():
                failed += 1
                print(f"{path.relative_to(SOURCE)}, {level}:\n{result.result()}")
    print(f"clang-tidy found nothing in {len(runs) - failed} of {len(runs)} sources")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
