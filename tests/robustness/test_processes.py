"""The native backend in processes that fork, are interrupted, end, or have several interpreters.

Each scenario of in_processes.py runs in a new Python process. If it hangs or crashes, one test fails.
"""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("medvlad.backends.native", reason="native was not built")

#: Time limit in seconds. A scenario usually takes a few.
TIMEOUT = 240
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def lines(call, level=None):
    """Run a scenario. It must end normally and write no error. Return its output."""
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if level is not None:
        environment["MEDVLAD_SIMD"] = level
    # The scenarios fork processes with threads on purpose.
    quiet = ["-W", "ignore:.*multi-threaded:DeprecationWarning"]
    code = f"from support import in_processes; in_processes.{call}"
    command = [sys.executable, *quiet, "-c", code]
    done = subprocess.run(
        command, env=environment, timeout=TIMEOUT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), (done.returncode, done.stdout, done.stderr[-3000:])
    return done.stdout.splitlines()


@forks
@pytest.mark.parametrize("level", [None, "portable"], ids=["best", "portable"])
def test_a_forked_child_computes_the_same_bits_and_ends(level):
    """Also while threads are in the backend: no child waits for a lock that they hold."""
    assert lines("fork(); in_processes.fork_among_threads()", level) == ["0 True", "25 0"]


@pytest.mark.slow
def test_pools_of_multiprocessing_compute_the_same_bits():
    methods = multiprocessing.get_all_start_methods()
    assert lines(f"pools({methods})") == [f"{method} True" for method in methods]


@pytest.mark.slow
def test_processes_and_threads_of_joblib_compute_the_same_bits():
    assert lines("parallel()") == ["threading True", "loky True", "search True"]


@forks
def test_ctrl_c_ends_k_means_between_steps(record_property):
    """The end of the program waits for a thread in a native call."""
    interrupted, waited = lines("interrupt(); in_processes.end_among_threads()")
    seconds, works = interrupted.split()
    record_property("seconds from Ctrl-C to KeyboardInterrupt", float(seconds))
    assert (works, waited) == ("True", "True")
    assert float(seconds) < 5  # usually hundredths; a step takes longer on a busy machine


def test_the_interpreter_ends_while_daemons_are_in_native_calls():
    assert lines("end_among_daemons(0.2)") == ["ends"]


def test_a_subinterpreter_works_or_raises_import_error():
    """Modules without support for subinterpreters raise ImportError. Nothing crashes or hangs."""
    package, *module, here = lines("interpreter()")
    assert here == "True"
    assert package == "works" or "ImportError" in package
    if sys.version_info < (3, 12):
        pytest.skip("pybind11, and so SciPy, waits for ever in other interpreters before Python 3.12")
    assert module == ["works"] or "does not support loading in subinterpreters" in module[0]
