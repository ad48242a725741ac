"""Threads that share an estimator: each gets its own report, and the attributes are those of one call."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.faults import light_network

from medvlad import CNNDescriptors

CALLERS = 4
ROUNDS = 3


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """A network that takes no time, and threads that take turns as often as they can."""
    light_network(monkeypatch.setattr)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def lists(tmp_path, rng):
    """Return the images of each caller: caller i has i + 1 good ones, then i files that are no images."""
    bad = [tmp_path / f"bad-{i}.png" for i in range(CALLERS)]
    for file in bad:
        file.write_bytes(b"no image" + file.name.encode())
    good = [[rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(i + 1)] for i in range(CALLERS)]
    return [[*good[i], *bad[:i]] for i in range(CALLERS)]


def expected_of(caller):
    """Return indices of the skipped images, and the number of the others."""
    return list(range(caller + 1, 2 * caller + 1)), caller + 1


def summary(report):
    return [index for index, _ in report.skipped], report.n_extracted


def at_once(call):
    """Run ``call(caller)`` in all threads at the same time, several times; return the results by caller."""
    together = threading.Barrier(CALLERS, timeout=60)

    def run(caller):
        results = []
        for _ in range(ROUNDS):
            together.wait()
            results.append(call(caller))
        return results

    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(run, range(CALLERS)))


def test_each_thread_gets_its_own_report(lists):
    features = CNNDescriptors("vgg16", on_error="skip", n_threads=1)

    def call(caller):
        descriptors, report = features.transform_with_report(lists[caller])
        lengths = np.diff(descriptors.offsets).tolist()
        assert lengths == [49] * (caller + 1) + [0] * caller
        return summary(report)

    assert at_once(call) == [[expected_of(caller)] * ROUNDS for caller in range(CALLERS)]


def test_each_thread_gets_its_own_report_of_a_store(lists, tmp_path):
    features = CNNDescriptors("vgg16", on_error="skip", n_threads=1, store=tmp_path / "store")
    reports = at_once(lambda caller: summary(features.extract_with_report(lists[caller])))
    for caller, of_caller in enumerate(reports):
        skipped, n_images = expected_of(caller)
        assert of_caller == [(skipped, n_images)] + [(skipped, 0)] * (ROUNDS - 1)


def test_the_attributes_are_those_of_one_call(lists):
    features = CNNDescriptors("vgg16", on_error="skip", n_threads=1)
    features.transform(lists[0])

    def call(caller):
        features.transform(lists[caller])
        return summary(features.report_)

    possible = [expected_of(caller) for caller in range(CALLERS)]
    assert all(seen in possible for of_caller in at_once(call) for seen in of_caller)


def test_the_attributes_are_those_of_the_last_call(lists):
    features = CNNDescriptors("vgg16", on_error="skip", n_threads=1)
    for caller in (2, 1, 3):
        features.transform(lists[caller])
        assert ([i for i, _ in features.skipped_], features.n_extracted_) == expected_of(caller)


def test_a_call_that_fails_leaves_the_report_of_the_one_before(lists):
    features = CNNDescriptors("vgg16", on_error="skip", n_threads=1)
    _, report = features.transform_with_report(lists[1])
    with pytest.raises(ValueError, match=r"bad-0\.png"):
        features.set_params(on_error="raise").transform(lists[3])
    assert features.report_ is report
