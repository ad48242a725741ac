"""The native backend in processes that fork, are interrupted, end, or hold several interpreters.

Each scenario of in_processes.py runs in a Python of its own, so that one that hangs or crashes is a test
that fails.
"""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("medvlad.backends.native", reason="native was not built")

#: Seconds; a few are usual.
TIMEOUT = 240
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def lines(call, level=None):
    """What a scenario has printed, once it has ended as it should and written no error."""
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if level is not None:
        environment["MEDVLAD_SIMD"] = level
    # That a process with threads forks is what is tested.
    quiet = ["-W", "ignore:.*multi-threaded:DeprecationWarning"]
    code = f"import in_processes; in_processes.{call}"
    command = [sys.executable, *quiet, "-c", code]
    done = subprocess.run(
        command, env=environment, timeout=TIMEOUT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), (done.returncode, done.stdout, done.stderr[-3000:])
    return done.stdout.splitlines()


@forks
@pytest.mark.parametrize("level", [None, "portable"], ids=["best", "portable"])
def test_forks(level):
    """Also while threads are in the backend: whatever they hold at that moment, no child waits for it."""
    assert lines("fork(); in_processes.fork_among_threads()", level) == ["0 True", "25 0"]


@pytest.mark.slow
def test_multiprocessing():
    methods = multiprocessing.get_all_start_methods()
    assert lines(f"pools({methods})") == [f"{method} True" for method in methods]


@pytest.mark.slow
def test_joblib():
    assert lines("parallel()") == ["threading True", "loky True", "search True"]


@forks
def test_ctrl_c_ends_k_means_between_steps(record_property):
    """And the end of the program's text waits for a thread that is in a native call."""
    interrupted, waited = lines("interrupt(); in_processes.end_among_threads()")
    seconds, works = interrupted.split()
    record_property("seconds from Ctrl-C to KeyboardInterrupt", float(seconds))
    assert (works, waited) == ("True", "True")
    assert float(seconds) < 5  # hundredths; a step of a machine that does much else


def test_the_end_does_not_wait_for_daemons():
    assert lines("end_among_daemons(0.2)") == ["ends"]


def test_another_interpreter():
    """An ImportError where it is not for other interpreters; what it must not be is a crash or a wait."""
    package, *module, here = lines("interpreter()")
    assert here == "True"
    assert package == "works" or "ImportError" in package
    if sys.version_info < (3, 12):
        pytest.skip("pybind11, and so SciPy, waits for ever in other interpreters before Python 3.12")
    assert module == ["works"] or "does not support loading in subinterpreters" in module[0]
