"""The process of one implementation: ``python worker.py MODULE THREADS``. It reads one JSON request a line.

Each answer is one line of JSON. Arrays are exchanged as .npy files in a folder that the parent names. The
first line reports the imported module, or the reason why the import failed.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np

#: Minimum seconds of a timed round. Short calls are repeated.
ROUND_SECONDS = 0.05
#: Rounds in which two implementations are timed beside each other in one process.
PAIRS = 11


def die_with_parent():
    """Ask Linux to kill this process when its parent ends, even while it is stopped."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Worker:
    """Answers requests. Its state is one problem and the function that encodes or assigns it."""

    def __init__(self, module, n_threads):
        self.rival = importlib.import_module(f"rivals.{module}")
        self.n_threads = n_threads
        self.versions = self.rival.describe()
        self.encode = self.out = self.problem = self.task = None
        self.calls, self.warm = 1, False
        self.descriptors = (None, None)

    def hello(self):
        from threadpoolctl import threadpool_info

        blas = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        return {
            "versions": self.versions,
            "core_types": sorted({str(pool["architecture"]) for pool in blas if "architecture" in pool}),
        }

    def load(self, folder, fresh=False, task="encode"):
        """Read a problem, solve it to warm up, and choose the number of calls of a round.

        `task` is "encode" or "assign". `fresh`: encode into new arrays.
        """
        self.unload()  # frees the last problem first
        problem = [np.load(Path(folder) / f"{name}.npy") for name in ("x", "offsets", "centers")]
        self.problem, self.task = problem, task
        _, offsets, centers = problem
        self.encode = self._prepared(self.rival)
        if task != "assign" and not fresh:
            self.out = np.zeros((len(offsets) - 1, centers.size), np.float32)
            self.out.fill(1)  # written, so that its pages exist
        # The first calls compile and start threads. The fastest of several predicts the later ones.
        begin, seconds = time.perf_counter(), self._seconds(1)
        while time.perf_counter() - begin < 2 * ROUND_SECONDS:
            seconds = min(seconds, self._seconds(1))
        self.calls = max(1, round(ROUND_SECONDS / seconds))
        return {"seconds": seconds, "calls": self.calls}

    def _prepared(self, rival):
        """Return the function of `rival` that solves the problem."""
        x, offsets, centers = self.problem
        if self.task == "assign":
            assign = rival.prepare_assign(x, centers, self.n_threads)
            return lambda out: (None, assign())
        return rival.prepare(x, offsets, centers, self.n_threads)

    def beside(self, module):
        """Return pairs of seconds: of a call of this implementation, and of another one on the same arrays.

        The two take turns, and a pair adds up many turns.
        """
        both = self.encode, self._prepared(importlib.import_module(f"rivals.{module}"))
        for call in both:
            call(self.out)
        pairs = []
        for _ in range(PAIRS):
            seconds = [0.0, 0.0]
            for turn in range(2 * self.calls):
                begin = time.perf_counter()
                both[turn % 2](self.out)
                seconds[turn % 2] += time.perf_counter() - begin
            pairs.append([one / self.calls for one in seconds])
        return {"pairs": pairs}

    def _seconds(self, calls):
        encode, out = self.encode, self.out
        begin = time.perf_counter()
        for _ in range(calls):
            encode(out)
        return (time.perf_counter() - begin) / calls

    def measure(self):
        """Return the mean seconds of a call in one round. A short call first wakes the stopped process."""
        used = time.process_time()
        if self.calls > 1:
            self.encode(self.out)
        return {"seconds": self._seconds(self.calls), "cpu": time.process_time() - used}

    def unload(self):
        """Free the memory of the problem, for the other processes."""
        self.encode = self.out = self.problem = self.task = None
        return {}

    def result(self, folder, images):
        """Save the encoding of the first images, and all labels if the implementation has them."""
        encoded, labels = self.encode(self.out)
        if encoded is not None:
            np.save(Path(folder) / "encoded.npy", encoded[:images])
        if labels is not None:
            np.save(Path(folder) / "labels.npy", labels)
        return {"encoded": encoded is not None, "labels": labels is not None}

    def specified(self, folder, images):
        """Save the labels of all rows, and the encoding of the first images. Nothing is timed."""
        x, offsets, centers = (np.load(Path(folder) / f"{name}.npy") for name in ("x", "offsets", "centers"))
        offsets = offsets[: images + 1]
        encode = self.rival.prepare(x[: offsets[-1]], offsets, centers, self.n_threads)
        np.save(Path(folder) / "encoded.npy", encode(None)[0])
        np.save(Path(folder) / "labels.npy", self.rival.assign(x, centers, self.n_threads))
        return {}

    def assign(self, folder):
        """Save the labels of all rows."""
        x, _, centers = self.problem
        np.save(Path(folder) / "labels.npy", self.rival.assign(x, centers, self.n_threads))
        return {}

    def kmeans(self, folder, k, seed, n_iter, start):
        """Fit and save the centres and, if available, the starting centres."""
        begin = time.process_time()
        x = self._descriptors(folder)
        start = None if start is None else np.load(start)
        if not self.warm:  # the first call starts threads and chooses kernels
            self.rival.kmeans(x[: 40 * k], k, seed, 1, self.n_threads)
            self.warm = True
        seconds, centers, seeds = self.rival.kmeans(x, k, seed, n_iter, self.n_threads, start)
        np.save(Path(folder) / "found.npy", centers)
        if seeds is not None:
            np.save(Path(folder) / "start.npy", seeds)
        cpu = time.process_time() - begin
        return {"seconds": seconds, "start": seeds is not None, "cpu": cpu}

    def inertia(self, folder):
        x = self._descriptors(folder)
        return {"inertia": self.rival.inertia(x, np.load(Path(folder) / "found.npy"))}

    def _descriptors(self, folder):
        if self.descriptors[0] != folder:
            self.descriptors = folder, np.load(Path(folder) / "x.npy")
        return self.descriptors[1]


def main(make, module, n_threads):
    """Answer requests with the methods of ``make(module, n_threads)``."""
    die_with_parent()
    # Answers use a separate stream, because libraries may print to standard output.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content):
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        worker = make(module, int(n_threads))
        answer(worker.hello())
    except (ImportError, OSError) as error:
        answer({"missing": str(error) or type(error).__name__})
        return
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer(getattr(worker, request.pop("do"))(**request))
        except Exception:
            answer({"error": traceback.format_exc()})


if __name__ == "__main__":
    main(Worker, *sys.argv[1:])
