"""The process of one version of the package: ``python compare_worker.py - THREADS``. See worker.py.

Cases use public names only, so that any two versions can be compared.
"""

from __future__ import annotations

import os
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from worker import ROUND_SECONDS, main


def _descriptors(rows, seed=0):
    """Return descriptors that are not negative and 26 % non-zero, as in all benchmarks."""
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.normal(-0.65, 1.0, (rows, 512)), 0).astype(np.float32)
    return x, rng


def _encode(n, k, n_threads):
    import medvlad as mv

    x, rng = _descriptors(n * (12_000 // n))
    centers = x[rng.permutation(len(x))[:k]]
    images = mv.Descriptors.from_array(x.reshape(-1, n, 512))
    out = np.zeros((len(images), k * 512), np.float32)
    return lambda: mv.vlad_encode(images, centers, n_threads=n_threads, out=out)[::7, ::997]


def _one_image(n_threads):
    import medvlad as mv

    x, _ = _descriptors(49)
    centers = _descriptors(64, 1)[0]
    images = mv.Descriptors.from_array(x[None])
    return lambda: mv.vlad_encode(images, centers, n_threads=n_threads)[:, ::97]


def _kmeans(n_threads):
    import medvlad as mv

    x, _ = _descriptors(8_000)
    return lambda: (
        mv.KMeansCodebook(64, max_iter=3, tol=0.0, n_threads=n_threads, random_state=0)
        .fit(x)
        .cluster_centers_[::7, ::97]
    )


def _svm(n_threads):
    import medvlad as mv

    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 8192)).astype(np.float32)
    labels = np.arange(400) % 3
    x[np.arange(400), labels] += 3
    return lambda: mv.WideLinearSVC().fit(x, labels).coef_[:, ::97]


def _network(n_threads):
    import keras

    import medvlad as mv

    keras.utils.set_random_seed(0)
    path = Path(tempfile.mkdtemp()) / "vgg16.weights.h5"  # it is read again; compare.py removes the folder
    keras.applications.VGG16(weights=None, include_top=False).save_weights(path)
    network = mv.CNNDescriptors("vgg16", weights=path, n_threads=n_threads, progress=False)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (224, 224, 3), dtype=np.uint8) for _ in range(4)]
    return lambda: network.transform(images).values[::7, ::97]


#: Name of a case -> function that returns the call to be timed.
CASES = {
    "encode 49, K = 64": lambda n_threads: _encode(49, 64, n_threads),
    "encode 49, K = 256": lambda n_threads: _encode(49, 256, n_threads),
    "encode 289, K = 64": lambda n_threads: _encode(289, 64, n_threads),
    "one image": _one_image,
    "k-means": _kmeans,
    "SVM": _svm,
    "network": _network,
}


class CompareWorker:
    """Answers requests. Its state is one case."""

    def __init__(self, module, n_threads):
        import medvlad

        self.version, self.n_threads = medvlad.__version__, n_threads
        self.call, self.calls = None, 1

    def hello(self):
        return {"versions": {"medvlad": self.version}, "core_types": []}

    def load(self, case):
        """Prepare a case, run it to warm up, and choose the number of calls of a round."""
        if case == "network" and find_spec("keras") is None:
            return {"absent": "Keras is not installed"}
        self.call = CASES[case](self.n_threads)
        begin, seconds = time.perf_counter(), self._seconds(1)
        while time.perf_counter() - begin < 2 * ROUND_SECONDS:
            seconds = min(seconds, self._seconds(1))
        self.calls = max(1, round(ROUND_SECONDS / seconds))
        return {"calls": self.calls}

    def _seconds(self, calls):
        begin = time.perf_counter()
        for _ in range(calls):
            self.call()
        return (time.perf_counter() - begin) / calls

    def measure(self):
        """Return the mean seconds of a call in one round."""
        used = time.process_time()
        if self.calls > 1:
            self.call()  # wakes threads that were stopped
        return {"seconds": self._seconds(self.calls), "cpu": time.process_time() - used}

    def result(self):
        """Return some of the computed numbers."""
        return {"numbers": np.asarray(self.call(), np.float64).ravel()[:500].tolist()}


if __name__ == "__main__":
    import sys

    main(CompareWorker, *sys.argv[1:])
