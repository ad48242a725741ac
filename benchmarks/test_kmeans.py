"""k-means: time of seeding and of Lloyd's steps, and the inertia reached. One round for each seed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import problems
import pytest
from interleave import Missing, ask_in_quiet
from measure import replay, replayed_time

pytestmark = pytest.mark.benchmark(timer=replayed_time)

#: Name -> worker, whether it gets native's seeds, number of Lloyd's steps. Native also runs with more steps,
#: for a comparison at equal inertia. FAISS starts from random rows by default. With the k-means++ seeds of
#: native, its time is that of Lloyd's steps alone.
IMPLEMENTATIONS = {
    "native": ("native", False, 10),
    "native, 14 steps": ("native", False, 14),
    "scikit-learn": ("scikit-learn", False, 10),
    "faiss": ("faiss", False, 10),
    "faiss, native's seeds": ("faiss", True, 10),
    "faiss, SkylakeX": ("faiss, SkylakeX", False, 10),
    "faiss, SkylakeX, native's seeds": ("faiss, SkylakeX", True, 10),
}
#: Phases that can be timed separately. FAISS seeds and iterates in one call.
SHOWN = [
    (name, phase)
    for name, (worker, given, _) in IMPLEMENTATIONS.items()
    for phase in ("total", "seeding", "lloyd")
    if phase == "total" or not worker.startswith("faiss") or (given and phase == "lloyd")
]
SEEDS = (0, 1, 2)


class Fits(NamedTuple):
    """The fits of one implementation, one for each seed."""

    seconds: list[dict[str, float]]
    inertia: list[float]
    disturbed: int
    versions: dict[str, str]


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
                        found_here[name] = fit(found_here[name], worker, given, n_iter, k, seed, n_threads)
            return found_here

        def fit(so_far, worker, given, n_iter, k, seed, n_threads):
            start = folder / f"seeds-{k}-{seed}.npy"
            if given and not start.exists():
                return Missing("native's seeds are not to be had")
            try:
                process = processes.get(worker, n_threads)
            except Missing as missing:
                return missing
            request = {"k": k, "seed": seed, "n_iter": n_iter, "start": str(start) if given else None}
            # Too long to repeat: disturbances are counted, not avoided.
            answer, quiet = ask_in_quiet(process, "kmeans", retries=0, folder=str(folder), **request)
            if worker == "native" and answer["start"]:
                (folder / "start.npy").replace(start)
            inertia = processes.get("reference", n_threads).ask("inertia", folder=str(folder))["inertia"]
            return Fits(
                [*so_far.seconds, answer["seconds"]],
                [*so_far.inertia, inertia],
                so_far.disturbed + (not quiet),
                process.hello["versions"],
            )

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
    if not isinstance(by_name["native"], Missing):
        # Another start may end in another minimum. A far worse one would be a different computation.
        assert np.mean(found.inertia) <= 1.5 * np.mean(by_name["native"].inertia)
    benchmark.group = f"k-means {phase}, K = {k}, {n_rows} descriptors, {n_threads} threads"
    benchmark.extra_info.update(
        kind="kmeans",
        implementation=implementation,
        phase=phase,
        k=k,
        rows=n_rows,
        iterations=IMPLEMENTATIONS[implementation][2],
        threads=n_threads,
        inertia=found.inertia,
        disturbed_rounds=found.disturbed,
        versions=found.versions,
    )
    replay(benchmark, [seconds[phase] for seconds in found.seconds])


test_kmeans.implementations = tuple(IMPLEMENTATIONS)
