"""The stages of `make gpu`: tests, benchmarks, report and compute-sanitizer, each with a time limit.

A stage that fails, or runs out of time, does not stop the later ones. The first stages are the ones that
matter most, because the time for all of them is limited as well. The table at the end has the status of each
stage. The exit status is the worst one. If OUT is set in the environment, logs, results and the table are
copied to that folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
#: Result files of a stage beyond its log, relative to the root.
RESULTS, BENCHMARKS = "benchmarks/results", "benchmarks/out.json"
#: Seconds that a stage has to end after an interrupt, before it is killed.
GRACE = 10
#: Bytes of a log that are copied to OUT, from its end.
LOG_BYTES = 2 << 20
#: Log of each stage. With the results, OUT gets seven files.
LOGS = {"tests": "tests.log", "benchmarks": "benchmarks.log", "report": "benchmarks.log"}
LOGS |= {"memcheck": "sanitizer.log", "racecheck": "sanitizer.log"}
#: Exit status of pytest if no test ran, and of a stage that ran out of time.
NOTHING_RAN, OUT_OF_TIME = 5, 124

PYTEST = (sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider")
# Other versions of packages than those of CI may warn of changes to come, which is not what is tested here.
MILD = [f"-Wdefault::{kind}" for kind in ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")]
#: Folders of tests that run on every backend.
TESTS = ("tests/backends", "tests/encoders", "tests/descriptors")
KERNEL_TESTS = ("tests/backends/test_cuda.py", "tests/backends/test_cuda_weighted.py")
KERNELS = "kinds_of_numbers or both_ways or distances"


class Stage(NamedTuple):
    """Command and time limit in seconds of a stage."""

    command: tuple[str, ...]
    limit: float


class Outcome(NamedTuple):
    """What became of a stage. `status` is 0 if it passed or was left out."""

    status: int
    words: str
    seconds: float


def stages(bench: list[str]) -> dict[str, Stage]:
    """Return the stages in the order in which they run."""
    sanitizer = shutil.which("compute-sanitizer", path=f"{os.environ.get('PATH', '')}:/usr/local/cuda/bin")

    def sanitize(tool: str, selected: str) -> Stage:
        checker = (sanitizer or "", "--tool", tool, "--error-exitcode", "1")
        tests = (*PYTEST, *MILD, "-m", "gpu", *KERNEL_TESTS, "-k", selected)
        return Stage((*checker, *tests), 60)

    columns = "--benchmark-columns=min,median,max"
    measured = (*PYTEST, "benchmarks/test_gpu.py", columns, f"--benchmark-json={BENCHMARKS}", *bench)
    report = (sys.executable, "benchmarks/report.py", BENCHMARKS, "--gpu", RESULTS)
    return {
        # A file that cannot be imported there, for example without compiled modules, fails alone.
        "tests": Stage((*PYTEST, *MILD, "--continue-on-collection-errors", "-m", "gpu", *TESTS), 180),
        "benchmarks": Stage(measured, 150),
        "report": Stage(report, 20),
        "memcheck": sanitize("memcheck", KERNELS),
        "racecheck": sanitize("racecheck", f"({KERNELS}) and not float16"),
    }


def environment(seconds: float) -> dict[str, str]:
    """Return the environment of a stage. No library may reserve all memory of the GPU.

    The benchmarks skip what they cannot measure in `seconds`, less some for the start and the end.
    """
    own = {"MEDVLAD_REQUIRE": "native,cuda", "MEDVLAD_GPU_SECONDS": f"{max(0.0, seconds - 2 * GRACE):.0f}"}
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    return {**os.environ, **shared, "PYTHONUNBUFFERED": "1", **own}


def run(stage: Stage, log: Path, seconds: float) -> Outcome:
    """Run a stage for at most `seconds`. Its output goes to standard output and to `log`."""
    began = time.monotonic()
    if not stage.command[0]:
        return Outcome(0, "left out: not installed", 0.0)
    if seconds <= 0:
        return Outcome(OUT_OF_TIME, "left out: no time left", 0.0)
    with log.open("ab") as file:
        process = subprocess.Popen(
            stage.command,
            cwd=ROOT,
            env=environment(seconds),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        copier = threading.Thread(target=_copy, args=(process.stdout, file), daemon=True)
        copier.start()
        try:
            status = process.wait(seconds)
            words = "passed" if status == 0 else f"failed with status {status}"
        except subprocess.TimeoutExpired:
            # An interrupt, so that pytest still reports, and writes the benchmarks that are complete.
            _end(process)
            status, words = OUT_OF_TIME, f"out of time after {seconds:.0f} s"
        _signal(process, signal.SIGKILL)  # programs that it left running
        copier.join(GRACE)
        if process.stdout is not None and not copier.is_alive():
            process.stdout.close()
    if status == NOTHING_RAN:
        words = "failed: no test ran"
    return Outcome(abs(status), words, time.monotonic() - began)


def _copy(source, file) -> None:
    for line in source:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        file.write(line)
        file.flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        _signal(process, number)
        try:
            process.wait(GRACE)
            return
        except subprocess.TimeoutExpired:
            continue


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return


def copy_results(folder: Path, logs: Path, outcomes: dict[str, Outcome], since: float) -> None:
    """Copy the ends of the logs, the outcomes, and the results that are newer than `since`, to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    table = {name: outcome._asdict() for name, outcome in outcomes.items()}
    (folder / "stages.json").write_text(json.dumps(table, indent=1) + "\n")
    for log in sorted(logs.glob("*.log")):
        (folder / log.name).write_bytes(log.read_bytes()[-LOG_BYTES:])
    written = [ROOT / BENCHMARKS, *sorted((ROOT / RESULTS).glob("*"))]
    for path in written:
        if path.is_file() and path.stat().st_mtime >= since:
            shutil.copyfile(path, folder / ("benchmarks.json" if path.name == "out.json" else path.name))


def main(arguments: list[str] | None = None) -> int:
    """Run the stages. Return the worst exit status."""
    known = stages([])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=420, help="limit of all stages together")
    parser.add_argument("--stages", default=" ".join(known), help="stages to run (default: all)")
    parser.add_argument("bench", nargs="*", help="further options of the benchmarks")
    parsed = parser.parse_args(arguments)
    chosen = parsed.stages.split()
    for name in chosen:
        if name not in known:
            parser.error(f"no stage {name!r}: choose from {', '.join(known)}")
    # A shell that starts jobs in the background ignores the interrupt, and the stages would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    since = time.time() - 1
    deadline = time.monotonic() + parsed.seconds
    (ROOT / BENCHMARKS).unlink(missing_ok=True)
    outcomes = {}
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        for name, stage in stages(parsed.bench).items():
            if name not in chosen:
                continue
            print(f"== {name}", flush=True)
            left = deadline - time.monotonic() - GRACE
            outcomes[name] = run(stage, logs / LOGS[name], min(stage.limit, left))
            if os.environ.get("OUT"):  # after each stage, because this program may be stopped as well
                copy_results(Path(os.environ["OUT"]), logs, outcomes, since)
    print("== stages")
    for name, outcome in outcomes.items():
        print(f"{name:<12}{outcome.seconds:6.0f} s  {outcome.words}")
    return max((outcome.status for outcome in outcomes.values()), default=0)


if __name__ == "__main__":
    sys.exit(main())
