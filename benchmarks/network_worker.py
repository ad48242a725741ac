"""The process of one network: ``python network_worker.py MODULE THREADS``. See worker.py."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

import numpy as np
from worker import Worker, main


class NetworkWorker(Worker):
    """Answers requests. Its state is one network, prepared for images of one size."""

    def __init__(self, module, n_threads):
        self.rival = importlib.import_module(f"networks.{module}")
        self.n_threads = n_threads
        self.versions = self.rival.describe()
        self.run = self.pixels = None

    def load(self, folder, side, images, settings):
        """Make the network and run it once, so that graphs are compiled."""
        self.unload()
        folder = Path(folder)
        with np.load(folder / "layers.npz") as arrays:
            kernels = [arrays[f"arr_{i}"] for i in range(len(arrays))]
        layers = []
        for kernel, bias in zip(kernels[::2], kernels[1::2], strict=True):
            layers.append(("conv", kernel, bias) if kernel.size else ("pool",))
        try:
            self.run = self.rival.prepare(layers, side, self.n_threads, **settings)
        except ImportError as reason:
            return {"absent": str(reason)}
        self.pixels = np.resize(np.load(folder / f"pixels{side}.npy"), (images, side, side, 3))
        self.run(self.pixels)
        return {}

    def measure(self):
        """Return the seconds for all images."""
        used, begin = time.process_time(), time.perf_counter()
        self.run(self.pixels)
        return {"seconds": time.perf_counter() - begin, "cpu": time.process_time() - used}

    def result(self, folder):
        """Save the output. For extraction from files, return its distance from the Keras model's output."""
        if hasattr(self.run, "difference"):
            return {"difference": self.run.difference()}
        np.save(Path(folder) / "maps.npy", self.run(self.pixels[:2]))
        return {}

    def unload(self):
        self.run = self.pixels = None
        return {}


if __name__ == "__main__":
    main(NetworkWorker, *sys.argv[1:])
