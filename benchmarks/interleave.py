"""One process for each implementation, of which only one runs at a time, in rounds.

Idle threads of libraries may spin for a while, and a shared machine has slow minutes. So all processes
except the current one are stopped by a signal. Each round runs every implementation, so that a slow minute
affects all.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rivals import CLUSTERERS, CORE_TYPE, RIVALS

HERE = Path(__file__).parent
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_LEFT_OUT = ("OPENBLAS_CORETYPE", "PYTHONSAFEPATH")

#: Largest share of one processor that other programs may use, and the resolution of the clock in seconds.
OTHERS, TICKS = 0.1, 0.03
RETRIES, PAUSE = 5, 0.5


class Missing(Exception):
    """An implementation cannot run here. The message gives the reason."""


class Process:
    """A worker process. It is stopped except while it answers a request."""

    def __init__(self, name, rival, n_threads, script):
        # The workers import modules from their own folder, even if the tests forbid this to other programs.
        environment = {key: value for key, value in os.environ.items() if key not in _LEFT_OUT}
        environment |= dict.fromkeys(_THREADS, str(n_threads)) | rival.environment
        self.name, self.rounds = name, rival.rounds
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / script), rival.module or "-", str(n_threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.hello = self._answer()
        self._signal(signal.SIGSTOP)

    def ask(self, do, **arguments):
        """Send a request and let the process run until it has answered."""
        self._signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        self._signal(signal.SIGSTOP)
        return answer

    def close(self):
        self._process.kill()  # also ends a stopped process
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def _answer(self):
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"the process of {self.name} ended"}
        if "missing" in answer:
            self.close()
            raise Missing(answer["missing"])
        if "error" in answer:
            self.close()
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer

    def _signal(self, number):
        self._process.send_signal(number)


class Processes:
    """The processes of a session, started when first needed, and the folder they exchange arrays in.

    `rivals` says what each name stands for, `script` is what their processes run.
    """

    def __init__(self, rivals=RIVALS | CLUSTERERS, script="worker.py"):
        self._rivals, self._script = rivals, script
        self._started = {}
        self.folder = Path(tempfile.mkdtemp(prefix="medvlad-benchmarks-"))

    def get(self, name, n_threads):
        """Return the process of an implementation. Raises Missing if it cannot run."""
        key = name, n_threads
        if key not in self._started:
            try:
                self._started[key] = self._start(name, n_threads)
            except Missing as missing:
                self._started[key] = missing
        if isinstance(self._started[key], Missing):
            raise self._started[key]
        return self._started[key]

    def _start(self, name, n_threads):
        tuned = self._rivals[name].tuned
        if tuned is not None:
            if not has_avx512():
                raise Missing(f"core type {CORE_TYPE} needs AVX-512")
            default = self.get(tuned, n_threads).hello["core_types"]
            if set(default) == {CORE_TYPE}:
                raise Missing(f"{CORE_TYPE} is the default core type here")
        return Process(name, self._rivals[name], n_threads, self._script)

    def forget(self, name, n_threads):
        """End a process. It is started again when it is needed."""
        process = self._started.pop((name, n_threads), None)
        if isinstance(process, Process):
            process.close()

    def close(self):
        for process in self._started.values():
            if isinstance(process, Process):
                process.close()
        shutil.rmtree(self.folder)

    @contextmanager
    def problem(self, x, offsets, centers):
        """Yield a folder that holds a problem while it is measured."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        for name, array in (("x", x), ("offsets", offsets), ("centers", centers)):
            if array is not None:
                np.save(folder / f"{name}.npy", array)
        yield folder
        shutil.rmtree(folder)


def interleaved(processes, n_rounds, retries=RETRIES):
    """Return the seconds of a call, {name: [one number a round]}, for processes that have loaded a problem.

    Each round begins with another implementation, so that none always follows the same one. If other
    programs used a processor during a measurement, it is repeated a few times at most. Also returns the
    number of measurements that stayed disturbed.
    """
    seconds = {process.name: [] for process in processes}
    disturbed = dict.fromkeys(seconds, 0)
    for r in range(n_rounds):
        first = r % len(processes)
        for process in processes[first:] + processes[:first]:
            if r >= (process.rounds or n_rounds):
                continue
            answer, quiet = ask_in_quiet(process, "measure", retries)
            seconds[process.name].append(answer["seconds"])
            disturbed[process.name] += not quiet
    return seconds, disturbed


def ask_in_quiet(process, do, retries=RETRIES, **arguments):
    """Return the answer and whether the machine was quiet. Repeat while other programs are busy."""
    for attempt in range(1 + retries):
        if attempt:
            time.sleep(PAUSE)
        begin, busy = time.monotonic(), busy_seconds()
        answer = process.ask(do, **arguments)
        others = busy_seconds() - busy - answer["cpu"]
        quiet = others <= TICKS + OTHERS * (time.monotonic() - begin)
        if quiet:
            break
    return answer, quiet


def busy_seconds():
    """Return the processor seconds of all programs since the start of the machine, or 0 if unknown."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, *rest = map(int, fields)
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def has_avx512():
    """Return whether Linux reports an x86-64 processor with AVX-512."""
    try:
        return " avx512f " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
