"""Build the core's test programs with sanitizers, for each instruction set, and run them.

    python csrc/test/sanitize.py none address,undefined thread
    python csrc/test/sanitize.py thread --levels avx2

core_test.cpp checks results of unusual shapes, and bounds.cpp the error bounds of the scorers. fuzz.cpp gets
FUZZ_RUNS (default 1500) random inputs from the seed FUZZ_SEED (default 1); its results must be the same on
every level. The compiler is CXX (default c++).

A level that this processor cannot run is compiled and reported as skipped. A program that is compiled for no
level says which levels run: one that is compiled for AVX-512 can end at an illegal instruction before it
asks.

A source is compiled once for levels with the same flags.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
#: The environment variables, with their defaults, that are the arguments of each program.
PROGRAMS: dict[str, list[tuple[str, str]]] = {
    "core_test": [],
    "bounds": [],
    "fuzz": [("FUZZ_RUNS", "1500"), ("FUZZ_SEED", "1")],
}
PRINT_LEVELS = """
#include <cstdio>
#include "core/processor.hpp"
int main() { for (const std::string& level : medvlad::supported_levels()) std::puts(level.c_str()); }
"""


def levels() -> dict[str, list[str]]:
    """Return the flags of each instruction set."""
    found: dict[str, list[str]] = json.loads((SOURCE / "levels.json").read_text())
    return found


def flags_of(level: str, sanitizers: str) -> list[str]:
    """Return the compiler flags of a test program."""
    return [
        *("-std=c++17", "-O1", "-g", "-fno-omit-frame-pointer", "-ffp-contract=off", "-pthread"),
        *([] if sanitizers == "none" else [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]),
        *levels()[level],
        f"-I{SOURCE}",
    ]


def core_of(level: str) -> list[str]:
    """Return the sources of the core for an instruction set."""
    return [str(path) for path in (*sorted(SOURCE.glob("core/*.cpp")), SOURCE / f"simd/{level}.cpp")]


def runnable_levels(compiler: list[str]) -> list[str]:
    """Return the names of the levels that this processor can run, best first."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "levels"
        command = [*compiler, "-std=c++17", f"-I{SOURCE}", str(SOURCE / "core/processor.cpp")]
        subprocess.run([*command, "-x", "c++", "-", "-o", program], input=PRINT_LEVELS, text=True, check=True)
        return subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()


class Objects:
    """Object files in a folder. Each is compiled once, in the background."""

    def __init__(self, compiler: list[str], folder: Path, pool: ThreadPoolExecutor) -> None:
        self.compiler, self.folder, self._pool = compiler, folder, pool
        self._made: dict[tuple[str, ...], Future[str]] = {}

    def compiled(self, flags: list[str], source: str) -> Future[str]:
        """Return the path of the object file of a source, when it is there."""
        key = (*flags, source)
        if key not in self._made:
            made = str(self.folder / f"{len(self._made)}.o")
            self._made[key] = self._pool.submit(self._compile, flags, source, made)
        return self._made[key]

    def _compile(self, flags: list[str], source: str, made: str) -> str:
        subprocess.run([*self.compiler, *flags, "-c", source, "-o", made], check=True)
        return made


class Programs:
    """The test programs of a level with sanitizers."""

    def __init__(self, level: str, sanitizers: str, objects: Objects) -> None:
        self.flags, self.folder = flags_of(level, sanitizers), objects.folder / f"{sanitizers}-{level}"
        self.compiler = objects.compiler
        core = [objects.compiled(self.flags, source) for source in core_of(level)]
        driver = [*self.flags, "-DMEDVLAD_DRIVER"]
        self.objects = {
            name: [*core, objects.compiled(driver, str(SOURCE / f"test/{name}.cpp"))] for name in PROGRAMS
        }

    def run(self, runs: bool) -> list[str]:
        """Return the output of the programs, or raise CalledProcessError with the sanitizer's report."""
        self.folder.mkdir(exist_ok=True)
        said = []
        for name, objects in self.objects.items():
            program = self.folder / name
            made = [one.result() for one in objects]
            subprocess.run([*self.compiler, *self.flags, *made, "-o", str(program)], check=True)
            if not runs:
                continue
            command = [str(program), *(os.environ.get(*option) for option in PROGRAMS[name])]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise subprocess.CalledProcessError(done.returncode, name, done.stdout, done.stderr)
            said.append(done.stdout.strip())
        return said or ["skipped: this processor cannot run it"]


def main() -> int:
    """Run all levels under each set of sanitizers named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sanitizers", nargs="+", help="none, address,undefined or thread")
    parser.add_argument("--levels", default=",".join(levels()), help="instruction sets, separated by commas")
    options = parser.parse_args()
    failed = 0
    compiler = os.environ.get("CXX", "c++").split()
    runnable = runnable_levels(compiler)
    runs = [(level, sanitizers) for sanitizers in options.sanitizers for level in options.levels.split(",")]
    digests, n_skipped = set(), 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = Objects(compiler, Path(folder), pool)
        # All compilations are in the queue before the first program, which waits for its own.
        programs = [Programs(level, sanitizers, objects) for level, sanitizers in runs]
        results = [
            pool.submit(one.run, level in runnable) for one, (level, _) in zip(programs, runs, strict=True)
        ]
        for (level, sanitizers), result in zip(runs, results, strict=True):
            try:
                said = result.result()
                n_skipped += any(line.startswith("skipped") for line in said)
                digests.update(line for line in said[2:] if not line.startswith("skipped"))
                print(f"{sanitizers:<18} {level:<11} {'; '.join(said)}")
            except subprocess.CalledProcessError as error:
                failed = 1
                print(f"{sanitizers:<18} {level:<11} FAILED\n{error.stderr or error}")
    if n_skipped == len(runs):
        failed = 1
        print("FAILED: this processor cannot run any of the levels")
    if len(digests) > 1:
        failed = 1
        print("FAILED: the results differ between levels")
    return failed


if __name__ == "__main__":
    sys.exit(main())
