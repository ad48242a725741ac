"""The linear SVM: WideLinearSVC.fit on float32 rows, beside float64 rows and scikit-learn's LinearSVC.

Every solution is proven by its duality gap. The large case (3.4 GB) runs if the machine has enough memory.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import svm_cases
from measure import replay, replayed_time

from medvlad._util.validate import check_n_threads

pytestmark = pytest.mark.benchmark(timer=replayed_time)

ROUNDS = 3
#: scikit-learn and float64 rows would take too much memory and time in the large case.
CASES = [(svm_cases.SMALL, name) for name in svm_cases.IMPLEMENTATIONS] + [(svm_cases.LARGE, "medvlad")]


def free_memory():
    """Return the free bytes that Linux reports, or 0."""
    try:
        with Path("/proc/meminfo").open() as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 0


@pytest.mark.parametrize(("case", "implementation"), CASES, ids=str)
def test_svm(benchmark, timing, case, implementation):
    if case == svm_cases.LARGE:
        if not timing:
            pytest.skip("the large case is timed, not tested")
        if free_memory() < svm_cases.LARGE_BYTES:
            pytest.skip(f"the large case needs {svm_cases.LARGE_BYTES >> 30} GiB of free memory")
    x, y = svm_cases.make(case if timing else svm_cases.SvmCase(60, 500))
    svm_cases.warm_up()
    once = not timing or case == svm_cases.LARGE or implementation == "scikit-learn"
    fits = [svm_cases.fit(implementation, x, y) for _ in range(1 if once else ROUNDS)]
    assert max(found.gap for found in fits) <= (svm_cases.GAP if implementation in svm_cases.EXACT else 1e-2)
    benchmark.group = f"SVM, {case}"
    benchmark.extra_info.update(
        kind="svm",
        implementation=implementation,
        n=case.n,
        d=case.d,
        classes=case.classes,
        threads=check_n_threads(None),
        gap=max(found.gap for found in fits),
        told_gap=fits[-1].told_gap,
    )
    replay(benchmark, [found.seconds for found in fits])


test_svm.implementations = tuple(svm_cases.IMPLEMENTATIONS)


def test_the_gap_is_zero_at_the_solution_only():
    """The proof is not empty: a solution that is off by a little has a gap."""
    x, y = svm_cases.make(svm_cases.SvmCase(60, 500))
    model = svm_cases.IMPLEMENTATIONS["medvlad"]().fit(x, y)
    exact = svm_cases.relative_gap(x, y, model.coef_, model.intercept_)
    assert abs(exact) <= svm_cases.GAP
    assert svm_cases.relative_gap(x, y, 1.01 * model.coef_, model.intercept_) > 10 * svm_cases.GAP
