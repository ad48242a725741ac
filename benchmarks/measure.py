"""Measurement and checks of encoding, shared by all tests of a case."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from interleave import Missing, interleaved
from problems import DIMENSION, IMAGES_CHECKED
from rivals import RIVALS

#: Number of rows in a thousand for which float32 may choose another centre than the nearest (near ties).
OTHER_LABELS = 1
#: Largest absolute difference of a number of an L2-normalised VLAD. The second is for VLFeat's float32 sums.
NATIVE_TOLERANCE, TOLERANCE = 2e-6, 1e-5


class Measured(NamedTuple):
    """Results of one implementation for one problem."""

    seconds: list[float]
    """Of one call, one number a round."""
    disturbed: int
    """Rounds during which other programs were busy."""
    encoded: Any
    """Of the first images; None from what does not encode."""
    labels: Any
    hello: dict[str, Any]


class MeasuredCase(NamedTuple):
    """One problem, its specified results, and the results of each implementation (Measured or Missing)."""

    n_rows: int
    n_images: int
    offsets: Any
    labels: Any
    encoded: Any
    by_name: dict[str, Measured | Missing]

    def get(self, name):
        found = self.by_name[name]
        if isinstance(found, Missing):
            raise found
        return found


def measure(processes, problem, names, n_threads, n_rounds, fresh=False):
    """Run and check all implementations on a problem (x, offsets, centers), `n_rounds` times in turn."""
    x, offsets, centers = problem
    by_name, running = {}, []
    with processes.problem(x, offsets, centers) as folder:
        for name in names:
            try:
                process = processes.get(name, n_threads)
                process.ask("load", folder=str(folder), fresh=fresh)
                running.append(process)
            except Missing as missing:
                by_name[name] = missing
        seconds, disturbed = interleaved(running, n_rounds)
        for process in running:
            encoded, labels = _result(process, folder)
            by_name[process.name] = Measured(
                seconds[process.name], disturbed[process.name], encoded, labels, process.hello
            )
            process.ask("unload")
        reference = processes.get("reference", n_threads)
        reference.ask("load", folder=str(folder), fresh=False)
        expected, _ = _result(reference, folder)
        exact = _labels(reference, folder)
        reference.ask("unload")
    return MeasuredCase(len(x), len(offsets) - 1, offsets, exact, expected, by_name)


def _result(process, folder):
    """Return the encoding of the first images and the labels of all rows. None: not available."""
    has = process.ask("result", folder=str(folder), images=IMAGES_CHECKED)
    encoded = np.load(folder / "encoded.npy") if has["encoded"] else None
    if has["labels"]:
        return encoded, np.load(folder / "labels.npy")
    return encoded, _labels(process, folder) if process.name == "native" else None


def _labels(process, folder):
    process.ask("assign", folder=str(folder))
    return np.load(folder / "labels.npy")


def check(case, name):
    """Compare the results of an implementation with the specification."""
    found = case.get(name)
    if not RIVALS[name].encodes:
        return
    same = np.ones(len(case.labels), bool)
    if found.labels is not None:
        same = found.labels == case.labels
    if name == "native":
        np.testing.assert_array_equal(found.labels, case.labels)
    assert 1000 * (~same).sum() <= OTHER_LABELS * len(same)
    images = [i for i in range(len(case.encoded)) if same[case.offsets[i] : case.offsets[i + 1]].all()]
    tolerance = NATIVE_TOLERANCE if name == "native" else TOLERANCE
    assert images, "no image whose labels agree with the specification's"
    np.testing.assert_allclose(found.encoded[images], case.encoded[images], rtol=0, atol=tolerance)


def information(case, name, measured, n, k, data, n_threads):
    """Return the fields of a measurement in the result file, except its seconds."""
    return {
        "implementation": name,
        "data": data,
        "n": n,
        "k": k,
        "images": case.n_images,
        "rows": case.n_rows,
        "flop": 2 * case.n_rows * k * DIMENSION,
        "threads": n_threads,
        "disturbed_rounds": measured.disturbed,
        "versions": measured.hello["versions"],
        "core_types": measured.hello["core_types"],
    }


_now = 0.0


def replayed_time():
    """Clock for pytest-benchmark that advances only by the seconds that `replay` adds."""
    return _now


def replay(benchmark, seconds, result=None):
    """Pass seconds that were measured in another process to pytest-benchmark, one round each."""
    left = iter(seconds)

    def step():
        global _now
        _now += next(left, 0.0)
        return result

    return benchmark.pedantic(step, rounds=max(len(seconds), 1))
