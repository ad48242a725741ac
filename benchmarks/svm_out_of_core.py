"""Measure the linear SVM on a matrix in a file: seconds, passes, bytes read, and peak memory.

::

    python benchmarks/svm_out_of_core.py make big.npy --rows 200000 --features 4096
    python benchmarks/svm_out_of_core.py fit big.npy --classes 10 --solver passes --memory "2 GiB"
    python benchmarks/svm_out_of_core.py liblinear big.npy --classes 2

The rows are synthetic: 256 factors whose standard deviations fall as a power of their number, a mean per
class, noise in each feature, then signed square roots and unit length, as VLAD has them. `make` writes the
class of each row, of ten, beside the matrix. With two classes, the first five are one.

`fit` prints the peak of the resident memory (VmHWM) and of its anonymous part (RssAnon, sampled), because
pages of a memory map count as resident until the system needs them. `liblinear` solves the same problem in
memory with scikit-learn's LinearSVC as well, and prints the relative difference of the minimised function.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

from medvlad import WideLinearSVC
from medvlad.store.vector_file import new_vector_file

FACTORS = 256
BLOCK = 4096


def make(path, n, p, seed=0):
    rng = np.random.default_rng(seed)
    spread = np.arange(1, FACTORS + 1) ** -0.7
    spread = (spread / np.linalg.norm(spread)).astype(np.float32)
    mixing = rng.standard_normal((FACTORS, p), dtype=np.float32) / np.float32(np.sqrt(p))
    centres = rng.standard_normal((10, FACTORS), dtype=np.float32) * spread * np.float32(0.3)
    y = rng.integers(0, 10, n)
    block = max(64, min(BLOCK, (1 << 25) // p))
    with new_vector_file(path, n, p) as write:
        for start in range(0, n, block):
            own = y[start : start + block]
            factors = rng.standard_normal((len(own), FACTORS), dtype=np.float32) * spread + centres[own]
            rows = factors @ mixing
            rows += rng.standard_normal(rows.shape, dtype=np.float32) * np.float32(0.5 / np.sqrt(p))
            rows = np.sign(rows) * np.sqrt(np.abs(rows))
            rows += 0.3 * np.abs(rows).mean()
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            write(np.arange(start, start + len(own)), rows)
    np.save(labels_of(path), y)


def labels_of(path):
    return Path(path).with_suffix(".labels.npy")


def kib(name, file="/proc/self/status"):
    for line in Path(file).read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


class Peak(threading.Thread):
    """Samples the anonymous resident memory."""

    def __init__(self):
        super().__init__(daemon=True)
        self.highest, self.ended = 0, threading.Event()

    def run(self):
        while not self.ended.wait(0.05):
            self.highest = max(self.highest, kib("RssAnon:"))


def problem(path, classes, rows=None):
    x, y = np.load(path, mmap_mode="r"), np.load(labels_of(path))
    return x[:rows], (y if classes == 10 else (y >= 5).astype(int))[:rows]


def objective(model, x, y, big_c):
    """Return the sum over the classes of the minimised function."""
    scores = np.reshape(model.decision_function(x), (len(x), -1))
    targets = model.classes_[1:] if len(model.classes_) == 2 else model.classes_
    slack = np.maximum(0, 1 - np.where(y[:, np.newaxis] == targets, 1, -1) * scores)
    return 0.5 * ((model.coef_**2).sum() + (model.intercept_**2).sum()) + big_c * (slack**2).sum()


def fit(path, classes, solver, memory, tol, big_c, rows=None, checkpoint=None):
    x, y = problem(path, classes, rows)
    peak, before, base = Peak(), kib("rchar:", "/proc/self/io"), kib("VmHWM:")
    peak.start()
    model = WideLinearSVC(big_c, solver=solver, memory=memory, tol=tol, checkpoint=checkpoint)
    start, used = time.perf_counter(), time.process_time()
    model.fit(x, y)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    peak.ended.set()
    return model, {
        "rows": len(x), "features": x.shape[1], "classes": classes, "solver": solver, "C": big_c,
        "seconds": round(seconds, 1), "cpu_seconds": round(used, 1), "load": os.getloadavg()[0],
        "passes": model.n_passes_, "newton_steps": model.n_iter_,
        "gap": model.dual_gap_, "read_gb": round((kib("rchar:", "/proc/self/io") - before) / 1e9, 2),
        "peak_mib": kib("VmHWM:") // 1024, "peak_anonymous_mib": peak.highest // 1024,
        "before_mib": base // 1024,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("action", choices=["make", "fit", "liblinear"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--classes", type=int, choices=[2, 10], default=2)
    parser.add_argument("--solver", default="passes")
    parser.add_argument("--memory", default="2 GiB")
    parser.add_argument("--tol", type=float, default=1e-4)
    parser.add_argument("--penalty", type=float, default=1.0)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args()
    if given.verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if given.action == "make":
        make(given.path, given.rows or 200_000, given.features)
        return
    model, found = fit(
        given.path, given.classes, given.solver, given.memory, given.tol, given.penalty, given.rows,
        given.checkpoint,
    )  # fmt: skip
    if given.action == "liblinear":
        from sklearn.svm import LinearSVC

        x, y = problem(given.path, given.classes, given.rows)
        x = np.ascontiguousarray(x, np.float64)  # the type in which LIBLINEAR computes
        start = time.perf_counter()
        other = LinearSVC(C=given.penalty, dual="auto", tol=1e-6, max_iter=100_000).fit(x, y)
        found["liblinear_seconds"] = round(time.perf_counter() - start, 1)
        ours, theirs = objective(model, x, y, given.penalty), objective(other, x, y, given.penalty)
        found["objective"], found["relative_to_liblinear"] = ours, ours / theirs - 1
        found["other_predictions"] = int((model.predict(x) != other.predict(x)).sum())
        found["training_accuracy"] = float((model.predict(x) == y).mean())
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
