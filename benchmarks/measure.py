"""Measurement and checks of encoding, shared by all tests of a case."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from interleave import RETRIES, Missing, interleaved
from problems import DIMENSION, IMAGES_CHECKED
from rivals import FRESH, KERNEL, MOST_OVER_KERNEL, OURS, OWN, PARTS, RIVALS

#: Number of rows in a thousand for which float32 may choose another centre than the nearest (near ties).
OTHER_LABELS = 1
#: Largest absolute difference of a number of an L2-normalised VLAD. The second is for VLFeat's float32 sums.
OWN_TOLERANCE, TOLERANCE = 2e-6, 1e-5
#: What comes from the C++ core. Its labels must be those of the specification, without exception.
CORE = (OWN, KERNEL, FRESH)


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
    pairs: list[tuple[float, float]]
    """Seconds of the public call and of its kernel, in one process on the same arrays, one pair a round."""

    def get(self, name):
        found = self.by_name[name]
        if isinstance(found, Missing):
            raise found
        return found


def measure(processes, problem, names, n_threads, n_rounds, *, fresh=False, task="encode", retries=RETRIES):
    """Run all implementations on a problem (x, offsets, centers), `n_rounds` times in turn.

    `task` is "encode" or "assign".
    """
    x, offsets, centers = problem
    by_name, running = {}, []
    with processes.problem(x, offsets, centers) as folder:
        for name in names:
            try:
                process = processes.get(name, n_threads)
                process.ask("load", folder=str(folder), fresh=fresh, task=task)
                running.append(process)
            except Missing as missing:
                by_name[name] = missing
        seconds, disturbed = interleaved(running, n_rounds, retries)
        timed = {process.name: process for process in running if n_rounds}
        pairs = timed[OWN].ask("beside", module=RIVALS[KERNEL].module)["pairs"] if OWN in timed else []
        for process in running:
            encoded, found = _result(process, folder)
            by_name[process.name] = Measured(
                seconds[process.name], disturbed[process.name], encoded, found, process.hello
            )
            process.ask("unload")
        reference = processes.get("reference", n_threads)
        reference.ask("specified", folder=str(folder), images=IMAGES_CHECKED)
        expected, exact = (np.load(folder / f"{name}.npy") for name in ("encoded", "labels"))
    return MeasuredCase(len(x), len(offsets) - 1, offsets, exact, expected, by_name, pairs)


def _result(process, folder):
    """Return the encoding of the first images and the labels of all rows. None: not available."""
    has = process.ask("result", folder=str(folder), images=IMAGES_CHECKED)
    encoded = np.load(folder / "encoded.npy") if has["encoded"] else None
    if has["labels"]:
        return encoded, np.load(folder / "labels.npy")
    return encoded, _labels(process, folder) if encoded is not None and process.name in CORE else None


def _labels(process, folder):
    process.ask("assign", folder=str(folder))
    return np.load(folder / "labels.npy")


def check(case, name):
    """Compare the results of an implementation with the specification."""
    found = case.get(name)
    if name in PARTS:
        return
    same = np.ones(len(case.labels), bool)
    if found.labels is not None:
        same = found.labels == case.labels
    if name in CORE:
        np.testing.assert_array_equal(found.labels, case.labels)
    assert 1000 * (~same).sum() <= OTHER_LABELS * len(same)
    if found.encoded is None:  # assignment alone
        assert found.labels is not None
        return
    images = [i for i in range(len(case.encoded)) if same[case.offsets[i] : case.offsets[i + 1]].all()]
    tolerance = OWN_TOLERANCE if name in OURS else TOLERANCE
    assert images, "no image whose labels agree with the specification's"
    np.testing.assert_allclose(found.encoded[images], case.encoded[images], rtol=0, atol=tolerance)


def over_kernel(results):
    """Return the seconds of the public call over those of its kernel: the median of the rounds, or None.

    Both run in one process on the same arrays. Two processes differ by up to a tenth, because the pages of
    their arrays lie differently.
    """
    if not results.pairs:
        return None
    return float(np.median([own / kernel for own, kernel in results.pairs]))


def check_over_kernel(results):
    """Fail if the public call takes more than 1.1 times as long as its kernel. Nothing is checked untimed.

    The fastest rounds must say so too, or other programs may have caused the difference.
    """
    ratio = over_kernel(results)
    if ratio is not None and ratio > MOST_OVER_KERNEL:
        own, kernel = (min(seconds) for seconds in zip(*results.pairs, strict=True))
        assert own / kernel <= MOST_OVER_KERNEL, (
            f"the public call takes {ratio:.2f} times as long as its kernel (fastest rounds: "
            f"{own / kernel:.2f}), at most {MOST_OVER_KERNEL} is allowed"
        )


def moved_bytes(case, k, task="encode"):
    """Return the bytes that must be read and written: every descriptor once, every result once."""
    read = 4 * case.n_rows * DIMENSION
    return read, 4 * (case.n_images * k * DIMENSION if task == "encode" else case.n_rows)


def information(case, name, measured, n, k, data, n_threads, task="encode"):
    """Return the fields of a measurement in the result file, except its seconds."""
    read, written = moved_bytes(case, k, task)
    ratio = over_kernel(case) if name == OWN else None
    return ({} if ratio is None else {"over_kernel": ratio}) | {
        "implementation": name,
        "data": data,
        "n": n,
        "k": k,
        "images": case.n_images,
        "rows": case.n_rows,
        "flop": 2 * case.n_rows * k * DIMENSION,
        "read_bytes": read,
        "written_bytes": written,
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
