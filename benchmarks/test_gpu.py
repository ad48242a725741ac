"""Encoding on a GPU by all implementations in turn, with checked results. `make gpu` runs it.

Inputs are synthetic, several and used in turn, each larger than any cache. Without a GPU, and with
--benchmark-disable, only the results of what runs are checked, on small problems.
"""

from __future__ import annotations

import os
import time
from functools import cache

import numpy as np
import problems
import pytest
from gpu_rivals import GPU_RIVALS, SOFT_RIVALS, SOFTNESS, Unavailable, ceilings
from measure import replay, replayed_time

from medvlad.backends import available_backends, reference
from medvlad.backends.normalise import Normalisation

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # otherwise JAX takes most of the memory

pytestmark = [
    pytest.mark.benchmark(timer=replayed_time),
    pytest.mark.filterwarnings("ignore"),  # warnings of the rivals
]

#: Bytes of each of the two inputs, and number of calls timed together. A smaller input is for a trial run.
INPUT_BYTES = int(os.environ.get("MEDVLAD_GPU_INPUT_MIB", "768")) << 20
N_INPUTS, CALLS = 2, 4
#: Number of rows in a thousand for which others may choose another centre, because they multiply in tf32.
OTHER_LABELS = 5
IMAGES_CHECKED, SOFT_IMAGES_CHECKED = 32, 4

CASES = [case for case in problems.CASES if case.data == "synthetic"]


@pytest.fixture(scope="session")
def gpu_limits(timing):
    """Limits of this GPU, measured in the same run."""
    if not timing:
        return None
    try:
        return ceilings()
    except Unavailable as reason:
        pytest.skip(f"no GPU: {reason}")


@pytest.fixture(scope="session")
def gpu_measured(gpu_limits, timing, n_rounds):
    """Measure a case once in a session."""
    cases, begun = {}, {}
    start, most = time.monotonic(), float(os.environ.get("MEDVLAD_GPU_SECONDS", "inf"))

    def get(case, soft=False):
        key = case, soft
        if key not in cases:
            assert key not in begun, f"{case} would be measured twice: the tests are not in order of cases"
            now = time.monotonic()
            if now - start + max(begun.values(), default=0.0) > most:
                pytest.skip(f"{case} does not fit into the {most:.0f} s of MEDVLAD_GPU_SECONDS")
            cases.clear()  # keeps the arrays of one case only
            cases[key] = _measure(case, timing, n_rounds, soft)
            begun[key] = time.monotonic() - now
        return cases[key]

    return get


@cache
def _inputs(n_rows, n_inputs):
    """Return descriptors, made once, because that takes longer than all measurements of a case."""
    base = problems.synthetic_descriptors(n_rows)
    return [base, base[::-1].copy()][:n_inputs]


def _expected(x, offsets, centers, soft):
    """Return the specified vectors."""
    if not soft:
        return reference.encode(x, offsets, centers)
    squared = reference.center_distances(x, centers)
    weights = np.exp(-SOFTNESS * (squared - squared.min(axis=1, keepdims=True)))
    weights /= weights.sum(axis=1, keepdims=True)
    cells = np.tile(np.arange(len(centers), dtype=np.int32), (len(x), 1))
    return reference.encode_weighted(x, offsets, centers, cells, weights, Normalisation())


def _measure(case, timing, n_rounds, soft):
    most = INPUT_BYTES // (4 * problems.DIMENSION) if timing else 6 * case.n
    n_images = most // case.n
    inputs = [x[: n_images * case.n] for x in _inputs(most, N_INPUTS if timing else 1)]
    base = inputs[0]
    centers = base[np.random.default_rng(1).choice(len(base), case.k, replace=False)].copy()
    offsets = np.arange(n_images + 1, dtype=np.int64) * case.n
    made, missing = {}, {}
    for name, implementation in (SOFT_RIVALS if soft else GPU_RIVALS).items():
        try:
            one = implementation(inputs, offsets, centers)
            one.run(0)  # compiles, so it can fail for other reasons than a missing package
            made[name] = one
        except Unavailable as reason:
            missing[name] = str(reason)
        except Exception as error:  # of a rival; the other implementations are still measured
            if name == "medvlad":
                raise
            missing[name] = f"{type(error).__name__}: {error}"
    seconds = {name: [] for name in made}
    checked = min(n_images, SOFT_IMAGES_CHECKED if soft else IMAGES_CHECKED)
    expected = _expected(inputs[0][: checked * case.n], offsets[: checked + 1], centers, soft)
    results = {}
    for name, one in made.items():
        results[name] = one.result()[:checked]
    if timing:
        runs = [i % len(inputs) for i in range(CALLS)]
        for one in made.values():  # warms up: compiles, and raises the clock rate
            one.seconds(runs)
        for _ in range(n_rounds):
            for name, one in made.items():
                seconds[name].append(one.seconds(runs))
    return seconds, results, expected, missing, n_images, {n: one.versions for n, one in made.items()}


@pytest.mark.gpu
# The last of these varies slowest, so that all implementations of a case follow each other.
@pytest.mark.parametrize("gpu_implementation", GPU_RIVALS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_encode_on_gpu(benchmark, gpu_measured, gpu_limits, case, gpu_implementation):
    seconds, results, expected, missing, n_images, versions = gpu_measured(case)
    if gpu_implementation in missing:
        pytest.skip(f"{gpu_implementation}: {missing[gpu_implementation]}")
    found = results[gpu_implementation]
    cells = np.abs(found - expected).reshape(-1, problems.DIMENSION).max(axis=1) < 5e-4  # 1e-4 by the norm
    if gpu_implementation == "medvlad":
        np.testing.assert_allclose(found, expected, rtol=0, atol=6.0e-8)
    # Another label changes two cells. All other cells must agree.
    assert (~cells).sum() * 1000 <= 2 * OTHER_LABELS * case.n * len(found)
    benchmark.group = f"encode on a GPU, {case.n} descriptors an image, K = {case.k}"
    _record(benchmark, "gpu", gpu_implementation, case, n_images, gpu_limits, versions)
    replay(benchmark, seconds[gpu_implementation])


@pytest.mark.gpu
@pytest.mark.parametrize("implementation_of_soft", SOFT_RIVALS)
@pytest.mark.parametrize("case", [problems.Case("synthetic", 289, 64)], ids=str)
def test_soft_assignment_on_gpu(benchmark, gpu_measured, gpu_limits, case, implementation_of_soft):
    seconds, results, expected, missing, n_images, versions = gpu_measured(case, soft=True)
    if implementation_of_soft in missing:
        pytest.skip(f"{implementation_of_soft}: {missing[implementation_of_soft]}")
    atol = 1e-6 if implementation_of_soft == "medvlad" else 2e-3  # others multiply in tf32
    np.testing.assert_allclose(results[implementation_of_soft], expected, rtol=0, atol=atol)
    benchmark.group = f"soft assignment on a GPU, {case.n} descriptors an image, K = {case.k}"
    _record(benchmark, "soft on a gpu", implementation_of_soft, case, n_images, gpu_limits, versions)
    replay(benchmark, seconds[implementation_of_soft])


def _record(benchmark, kind, name, case, n_images, limits, versions):
    """Write into the results what was measured."""
    benchmark.extra_info.update(
        kind=kind,
        implementation=name,
        data=case.data,
        n=case.n,
        k=case.k,
        images=n_images,
        rows=n_images * case.n,
        flop=2 * n_images * case.n * case.k * problems.DIMENSION,
        bytes=4 * problems.DIMENSION * n_images * (case.n + case.k),
        limits=limits,
        backend=available_backends()["cuda"],
        versions=versions[name],
    )
