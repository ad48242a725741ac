"""k-means: time of seeding and of Lloyd's steps, and the inertia reached. One round for each seed."""

from __future__ import annotations

import numpy as np
import problems
import pytest
from clustering import Fits, fit, information
from interleave import Missing
from measure import replay, replayed_time
from rivals import CLUSTERERS, OWN

pytestmark = pytest.mark.benchmark(timer=replayed_time)

#: Name -> worker, whether it gets medvlad's seeds, number of Lloyd's steps. medvlad also runs with more
#: steps, for a comparison at equal inertia. FAISS and superkmeans start from random rows by default. With the
#: k-means++ seeds of medvlad, the time of FAISS is that of Lloyd's steps alone.
IMPLEMENTATIONS = {
    OWN: (OWN, False, 10),
    f"{OWN}, 14 steps": (OWN, False, 14),
    "scikit-learn": ("scikit-learn", False, 10),
    "faiss": ("faiss", False, 10),
    "faiss, medvlad's seeds": ("faiss", True, 10),
    "faiss, SkylakeX": ("faiss, SkylakeX", False, 10),
    "faiss, SkylakeX, medvlad's seeds": ("faiss, SkylakeX", True, 10),
} | {name: (name, False, 10) for name in CLUSTERERS}
#: Libraries that seed and iterate in one call.
_ONE_CALL = ("faiss", *CLUSTERERS)
#: Phases that can be timed separately.
SHOWN = [
    (name, phase)
    for name, (worker, given, _) in IMPLEMENTATIONS.items()
    for phase in ("total", "seeding", "lloyd")
    if phase == "total" or not worker.startswith(_ONE_CALL) or (given and phase == "lloyd")
]
SEEDS = (0, 1, 2)


@pytest.fixture(scope="session")
def fits(request, processes, timing, measured_cases):
    """Fit with all implementations in turn, seed by seed. All inertias are computed in the same way."""
    n_rows = request.config.getoption("--kmeans-rows") if timing else 5000
    x = problems.clustered_descriptors(n_rows, n_prototypes=max(n_rows // 200, 10))
    found = {}
    with processes.problem(x, None, None) as folder:
        del x

        def fit_all(k, n_threads):
            found_here = {name: Fits([], [], 0, {}) for name in IMPLEMENTATIONS}
            for seed in SEEDS if timing else SEEDS[:1]:
                (folder / "start.npy").unlink(missing_ok=True)
                for name, (worker, given, n_iter) in IMPLEMENTATIONS.items():
                    if not isinstance(found_here[name], Missing):
                        found_here[name] = fit(
                            processes, folder, found_here[name], worker, given, n_iter, k, seed, n_threads
                        )
            return found_here

        def get(k, n_threads):
            if (k, n_threads) not in found:
                found[k, n_threads] = fit_all(k, n_threads)
            return found[k, n_threads], n_rows

        yield get


@pytest.mark.parametrize("k", problems.N_CENTERS)
@pytest.mark.parametrize(("implementation", "phase"), SHOWN)
def test_kmeans(benchmark, fits, k, n_threads, implementation, phase):
    by_name, n_rows = fits(k, n_threads)
    found = by_name[implementation]
    if isinstance(found, Missing):
        pytest.skip(f"{implementation}: {found}")
    if not isinstance(by_name[OWN], Missing):
        # Another start may end in another minimum. A far worse one would be a different computation.
        assert np.mean(found.inertia) <= 1.5 * np.mean(by_name[OWN].inertia)
    benchmark.group = f"k-means {phase}, K = {k}, {n_rows} descriptors, {n_threads} threads"
    n_iter = IMPLEMENTATIONS[implementation][2]
    benchmark.extra_info.update(
        kind="kmeans", **information(implementation, found, phase, k, n_rows, n_iter, n_threads)
    )
    replay(benchmark, [seconds[phase] for seconds in found.seconds])


test_kmeans.implementations = tuple(IMPLEMENTATIONS)
