"""Assignment alone (the nearest centre of each row) by all implementations in turn, with checks.

sgemm is the product of all rows with all centres, without looking for the largest.
"""

from __future__ import annotations

import problems
import pytest
from interleave import Missing
from measure import check, check_over_kernel, information, measure, over_kernel, replay, replayed_time
from rivals import ASSIGNERS

pytestmark = pytest.mark.benchmark(timer=replayed_time)


@pytest.fixture(scope="session")
def assigned(processes, timing, n_rounds, measured_cases):
    """Measure a case once in a session, with all implementations."""

    def get(case, n_threads):
        key = case, n_threads, "assign"
        if key not in measured_cases:
            if not timing and case.data not in problems.MADE:
                pytest.skip("real descriptors are timed, not tested")
            try:
                problem = problems.make(case, None if timing else 500)
                measured_cases[key] = measure(
                    processes, problem, ASSIGNERS, n_threads, n_rounds, task="assign"
                )
            except problems.Unavailable as reason:
                measured_cases[key] = reason
        if isinstance(measured_cases[key], problems.Unavailable):
            pytest.skip(str(measured_cases[key]))
        return measured_cases[key]

    return get


@pytest.mark.parametrize("implementation", ASSIGNERS, ids=lambda name: name.replace(" ", "_"))
@pytest.mark.parametrize("case", problems.ASSIGN_CASES, ids=str)
def test_assign(benchmark, assigned, case, n_threads, implementation):
    results = assigned(case, n_threads)
    try:
        found = results.get(implementation)
    except Missing as missing:
        pytest.skip(f"{implementation}: {missing}")
    check(results, implementation)
    benchmark.group = f"assign, {case.data}, K = {case.k}, {n_threads} threads"
    benchmark.extra_info.update(
        kind="assign",
        **information(results, implementation, found, case.n, case.k, case.data, n_threads, "assign"),
    )
    replay(benchmark, found.seconds)


test_assign.implementations = ASSIGNERS


@pytest.mark.parametrize("case", problems.ASSIGN_CASES, ids=str)
def test_assign_costs_little_more_than_its_kernel(assigned, timing, case, n_threads, record_property):
    if not timing:
        pytest.skip("ratios are timed, not tested")
    results = assigned(case, n_threads)
    record_property("seconds over those of the kernel", over_kernel(results))
    check_over_kernel(results)
