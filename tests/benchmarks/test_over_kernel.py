"""A public call that takes more than 1.1 times as long as its kernel fails a timed run; noise does not."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def measure(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import measure

    return measure


def case(measure, own, kernel):
    hello = {"versions": {}, "core_types": []}
    by_name = {
        name: measure.Measured(list(seconds), 0, None, None, hello)
        for name, seconds in (("medvlad", own), ("kernel alone", kernel))
    }
    pairs = list(zip(own, kernel, strict=True))
    return measure.MeasuredCase(10, 2, np.array([0, 5, 10]), None, None, by_name, pairs)


SLOW_MINUTES = np.array([1.0, 3.0, 1.1, 2.0, 1.5])


def test_the_ratio_is_taken_within_rounds(measure):
    found = case(measure, 0.105 * SLOW_MINUTES, 0.1 * SLOW_MINUTES)
    assert measure.over_kernel(found) == pytest.approx(1.05)
    measure.check_over_kernel(found)
    fields = measure.information(found, "medvlad", found.get("medvlad"), 5, 64, "dense", 2)
    assert fields["over_kernel"] == pytest.approx(1.05)
    assert (fields["read_bytes"], fields["written_bytes"]) == (4 * 10 * 512, 4 * 2 * 64 * 512)
    fields = measure.information(
        found, "kernel alone", found.get("kernel alone"), 5, 64, "dense", 2, "assign"
    )
    assert "over_kernel" not in fields
    assert fields["written_bytes"] == 4 * 10


def test_a_pass_over_the_data_in_addition_fails(measure):
    with pytest.raises(AssertionError, match=r"takes 1\.30 times as long as its kernel"):
        measure.check_over_kernel(case(measure, 0.13 * SLOW_MINUTES, 0.1 * SLOW_MINUTES))


def test_disturbed_rounds_do_not_fail_if_the_fastest_rounds_agree(measure):
    own = 0.1 * np.array([1.0, 1.4, 1.3, 1.5, 1.2])
    measure.check_over_kernel(case(measure, own, np.full(5, 0.1)))


def test_nothing_is_checked_if_nothing_was_timed(measure):
    found = case(measure, [], [])
    assert measure.over_kernel(found) is None
    measure.check_over_kernel(found)
