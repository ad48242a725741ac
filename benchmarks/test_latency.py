"""Encoding of a single image: the cost of a call in addition to its arithmetic."""

from __future__ import annotations

import numpy as np
import problems
import pytest
from interleave import Missing
from measure import check, information, measure, replay, replayed_time
from rivals import KERNEL, OWN

pytestmark = pytest.mark.benchmark(timer=replayed_time)

IMPLEMENTATIONS = (OWN, KERNEL, "numpy sorted", "torch")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda name: name.replace(" ", "_"))
@pytest.mark.parametrize("k", problems.N_CENTERS)
@pytest.mark.parametrize("n", problems.SIZES)
def test_latency(benchmark, processes, measured_cases, n_rounds, n, k, n_threads, implementation):
    key = "latency", n, k, n_threads
    if key not in measured_cases:
        x = problems.synthetic_descriptors(max(n, k))
        problem = x[:n].copy(), np.array([0, n], np.int64), x[-k:].copy()
        measured_cases[key] = measure(processes, problem, IMPLEMENTATIONS, n_threads, n_rounds)
    results = measured_cases[key]
    try:
        found = results.get(implementation)
    except Missing as missing:
        pytest.skip(f"{implementation}: {missing}")
    check(results, implementation)
    benchmark.group = f"one image of {n} descriptors, K = {k}, {n_threads} threads"
    benchmark.extra_info.update(
        kind="latency", **information(results, implementation, found, n, k, "synthetic", n_threads)
    )
    replay(benchmark, found.seconds)


test_latency.implementations = IMPLEMENTATIONS
