"""The short form of `make soak`: memory of mixed work stays flat, and a leak is found."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return pytest.importorskip("soak", reason="needs what the benchmarks need")


def test_growth_is_measured_in_the_second_half(soak, rng):
    at = np.sort(rng.uniform(0, 3600, 5000))
    flat = 500 + 300 * (1 - np.exp(-at / 200)) + rng.normal(0, 5, 5000)
    an_hour, share = soak.growth(at, flat)
    assert abs(an_hour) < 2
    assert abs(share) < 0.002
    an_hour, share = soak.growth(at, flat + at / 36)  # 100 MiB an hour
    assert an_hour == pytest.approx(100, abs=3)
    assert share > 0.05


@pytest.mark.slow
def test_memory_of_mixed_work_is_flat_and_that_of_a_leak_is_not(soak):
    done, at, memory = soak.soak(0, partial(soak.Work, network=False), 60)
    assert len(done) == 5
    kept = []

    class Leaking(soak.Work):
        def encode(self):
            super().encode()
            kept.append(np.ones(1 << 22))  # 32 MiB

    _, leak_at, leak = soak.soak(0, partial(Leaking, network=False), 60)
    grown, flat = (soak.growth(*one)[1] * one[1].mean() for one in ((leak_at, leak), (at, memory)))
    assert grown > 100 > flat  # MiB; some 190 leaked in that half
