"""Encoding (assignment, residuals, L2 normalisation) by all implementations in turn, with checks."""

from __future__ import annotations

import problems
import pytest
from interleave import Missing
from measure import check, check_over_kernel, information, measure, over_kernel, replay, replayed_time
from rivals import KERNEL, OURS, OWN, RIVALS

pytestmark = pytest.mark.benchmark(timer=replayed_time)

#: Ranks in the group "new arrays": this package, and the two fastest others.
FRESH = (OWN, "fastest rival", "second rival")


@pytest.fixture(scope="session")
def measured(request, processes, timing, n_rounds, measured_cases):
    """Measure a case once in a session, with the implementations selected for this session."""

    def names_of(case, n_threads):
        wanted = set()
        for item in request.session.items:
            params = getattr(item, "callspec", None) and item.callspec.params
            if params and params.get("case") == case and params.get("n_threads") == n_threads:
                needed = set(RIVALS) if "rank" in params else {params.get("implementation", OWN)}
                wanted |= needed | ({KERNEL} if OWN in needed else set())
        return [name for name in RIVALS if name in wanted]

    def get(case, n_threads):
        key = case, n_threads
        if key not in measured_cases:
            if not timing and case.data not in problems.MADE:
                pytest.skip("real descriptors are timed, not tested")
            try:
                problem = problems.make(case, None if timing else problems.IMAGES_CHECKED)
                found = measure(processes, problem, names_of(*key), n_threads, n_rounds), problem
            except problems.Unavailable as reason:
                found = reason
            measured_cases[key] = found
        if isinstance(measured_cases[key], problems.Unavailable):
            pytest.skip(str(measured_cases[key]))
        return measured_cases[key]

    return get


def group(kind, case, n_threads):
    return f"{kind}, {case.data}, {case.n} descriptors an image, K = {case.k}, {n_threads} threads"


@pytest.mark.parametrize("case", problems.CASES, ids=str)
def test_encode(benchmark, measured, case, n_threads, implementation):
    results, _ = measured(case, n_threads)
    try:
        found = results.get(implementation)
    except Missing as missing:
        pytest.skip(f"{implementation}: {missing}")
    check(results, implementation)
    benchmark.group = group("encode", case, n_threads)
    benchmark.extra_info.update(
        kind="encode", **information(results, implementation, found, case.n, case.k, case.data, n_threads)
    )
    replay(benchmark, found.seconds)


@pytest.mark.parametrize("case", problems.CASES, ids=str)
def test_the_public_call_costs_little_more_than_its_kernel(
    measured, timing, case, n_threads, record_property
):
    """vlad_encode checks its input and writes into `out` in at most 1.1 times the seconds of the C++ core."""
    if not timing:
        pytest.skip("ratios are timed, not tested")
    results, _ = measured(case, n_threads)
    record_property("seconds over those of the kernel", over_kernel(results))
    check_over_kernel(results)


@pytest.mark.parametrize("rank", range(len(FRESH)), ids=[name.replace(" ", "_") for name in FRESH])
@pytest.mark.parametrize("case", problems.CASES, ids=str)
def test_encode_into_new_arrays(
    benchmark, measured, measured_cases, processes, timing, n_rounds, case, n_threads, rank
):
    """Encode into new arrays, as most people do, with VLAD.transform and the two fastest rivals."""
    results, problem = measured(case, n_threads)
    names = [OWN, *fastest(results)[:2]] if timing else [OWN, "numpy sorted", "scipy csr"]
    if rank >= len(names):
        pytest.skip("not so many rivals are installed")
    key = case, n_threads, "fresh"
    if key not in measured_cases:
        measured_cases[key] = measure(processes, problem, names, n_threads, n_rounds, fresh=True)
    results = measured_cases[key]
    check(results, names[rank])
    found = results.get(names[rank])
    benchmark.group = group("encode into new arrays", case, n_threads)
    benchmark.extra_info.update(
        kind="fresh", **information(results, names[rank], found, case.n, case.k, case.data, n_threads)
    )
    replay(benchmark, found.seconds)


def fastest(results):
    """Return rivals by their fastest round, best first, each library with its better core type."""
    best = {}
    for name, found in results.by_name.items():
        if name in OURS or isinstance(found, Missing) or not RIVALS[name].encodes:
            continue
        library = RIVALS[name].tuned or name
        best[library] = min(best.get(library, (float("inf"), name)), (min(found.seconds), name))
    return [name for _, name in sorted(best.values())]
