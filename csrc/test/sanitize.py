"""Build the core's test program with sanitizers, for each instruction set, and run it.

    python csrc/test/sanitize.py none address,undefined thread

Compiles with CXX (default c++). A level that this processor cannot run is compiled and said to be skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
CANNOT_RUN = 77


def build_and_run(level: str, flags: list[str], sanitizers: str) -> str:
    """Return what happened, or raise CalledProcessError with the sanitizer's report."""
    sources = [
        *sorted(SOURCE.glob("core/*.cpp")),
        SOURCE / f"simd/{level}.cpp",
        SOURCE / "test/core_test.cpp",
    ]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "core_test"
        command = [
            *os.environ.get("CXX", "c++").split(),
            *("-std=c++17", "-O1", "-g", "-fno-omit-frame-pointer", "-ffp-contract=off", "-pthread"),
            f'-DMEDVLAD_LEVEL="{level}"',
            *([] if sanitizers == "none" else [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]),
            *flags,
            f"-I{SOURCE}",
            *map(str, sources),
            *("-o", str(program)),
        ]
        subprocess.run(command, check=True)
        done = subprocess.run([program], capture_output=True, text=True, check=False)
    if done.returncode == CANNOT_RUN:
        return "skipped: this processor cannot run it"
    if done.returncode != 0:
        raise subprocess.CalledProcessError(done.returncode, "core_test", done.stdout, done.stderr)
    return done.stdout.strip()


def main() -> int:
    """Run all levels under each set of sanitizers named on the command line."""
    levels = json.loads((SOURCE / "levels.json").read_text())
    failed = 0
    runs = [(level, sanitizers) for sanitizers in sys.argv[1:] for level in levels]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = [pool.submit(build_and_run, level, levels[level], sanitizers) for level, sanitizers in runs]
        for (level, sanitizers), result in zip(runs, results, strict=True):
            try:
                print(f"{sanitizers:<18} {level:<11} {result.result()}")
            except subprocess.CalledProcessError as error:
                failed = 1
                print(f"{sanitizers:<18} {level:<11} FAILED\n{error.stderr or error}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
