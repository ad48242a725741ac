"""Run fuzz.cpp with libFuzzer, AddressSanitizer and UBSan: the portable core and this processor's best level.

    python csrc/test/fuzz.py SECONDS [FOLDER]

Each level gets half of the time. Inputs that reach new code, and inputs that fail, are written to FOLDER
(default build/fuzz). It needs clang++, or the compiler named by CLANGXX. Without clang, random bytes are used
as in `make sanitize`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sanitize import SOURCE, core_of, flags_of, levels, runnable_levels

RUNS_WITHOUT_CLANG = 2000  # between looks at the clock


def run_libfuzzer(program: Path, corpus: Path, seconds: int) -> int:
    """Run libFuzzer and return the number of inputs. Exit if one fails."""
    corpus.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", "-max_len=512", "-timeout=60", "-print_final_stats=1"]
    options.append(f"-artifact_prefix={corpus.parent}/failed-")
    done = subprocess.run([program, str(corpus), *options], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr[-20_000:])
    return int(re.findall(r"number_of_executed_units: *(\d+)", done.stderr)[-1])


def run_driver(program: Path, seconds: int) -> int:
    """Run a program that makes its own random bytes. Return the number of inputs. Exit if one fails."""
    end, seed = time.monotonic() + seconds, 0
    while seed == 0 or time.monotonic() < end:
        seed += 1
        done = subprocess.run([program, str(RUNS_WITHOUT_CLANG), str(seed)], check=False)
        if done.returncode != 0:
            sys.exit(f"fuzz.cpp failed with seed {seed}")
    return seed * RUNS_WITHOUT_CLANG


def main() -> None:
    """Build and run each level."""
    seconds = int(sys.argv[1])
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else "build/fuzz").resolve()
    clang = os.environ.get("CLANGXX", "clang++")
    compiler = [clang] if shutil.which(clang) else os.environ.get("CXX", "c++").split()
    has_libfuzzer = compiler == [clang]
    best = runnable_levels(compiler)[0]
    chosen = [level for level in levels() if level in ("portable", best)]
    for level in chosen:
        with tempfile.TemporaryDirectory() as built:
            program = Path(built) / "fuzz"
            flags = flags_of(level, "fuzzer,address,undefined" if has_libfuzzer else "address,undefined")
            own = [] if has_libfuzzer else ["-DMEDVLAD_DRIVER"]
            sources = [*core_of(level), str(SOURCE / "test/fuzz.cpp")]
            subprocess.run([*compiler, *flags, *own, *sources, "-o", str(program)], check=True)
            share = max(1, seconds // len(chosen))
            run = (
                run_libfuzzer(program, folder / level, share) if has_libfuzzer else run_driver(program, share)
            )
        print(
            f"{'libFuzzer' if has_libfuzzer else 'random bytes'} {level:<11} {run} inputs passed",
            flush=True,
        )


if __name__ == "__main__":
    main()
