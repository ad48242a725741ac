"""Passes over data: the runner in this process."""

from dataclasses import dataclass

import pytest

from medvlad._util.passes import run_here


@dataclass(frozen=True)
class Scaled:
    """Multiply a number, and write down that it was read."""

    number: int
    log: list

    def run(self, shared):
        self.log.append(self.number)
        return shared * self.number


def test_results_come_in_the_order_of_the_jobs():
    log = []
    assert list(run_here(10, [Scaled(number, log) for number in (3, 1, 2)])) == [30, 10, 20]
    assert log == [3, 1, 2]


def test_a_job_starts_when_its_result_is_asked_for():
    log = []
    results = run_here(10, [Scaled(number, log) for number in range(5)])
    assert next(results) == 0
    results.close()
    assert log == [0]


def test_an_error_of_a_job_is_raised():
    with pytest.raises(TypeError, match="unsupported"):
        list(run_here(None, [Scaled(1, [])]))
