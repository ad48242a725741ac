"""benchmarks/compare.py reports slower code and different results, and nothing else."""

from pathlib import Path

import numpy as np
import pytest

import medvlad


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import compare

    return compare


def times(rng, scale, noise, n=21):
    """Return seconds of rounds. Slow minutes affect all versions."""
    return scale * np.exp(rng.normal(0, noise, n))


@pytest.mark.parametrize("noise", [0.003, 0.03, 0.2])
def test_the_same_speed_passes_with_any_noise(compare, noise):
    told = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        slow_minutes = np.exp(rng.normal(0, 0.3, 21))
        base, head, twin = (slow_minutes * times(rng, 0.1, noise) for _ in range(3))
        told += compare.verdict(base, head, twin).slower
    assert told <= 3


@pytest.mark.parametrize(("noise", "slower"), [(0.003, 1.05), (0.03, 1.15), (0.1, 1.5)])
def test_slower_code_is_reported_if_it_exceeds_the_noise(compare, noise, slower):
    told = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        base, twin, head = times(rng, 0.1, noise), times(rng, 0.1, noise), times(rng, 0.1 * slower, noise)
        told += compare.verdict(base, head, twin).slower
    assert told >= 95


OFTEN = """
import medvlad.encoders

once = medvlad.encoders.vlad_encode


def often(*args, **how):
    for _ in range(4):
        once(*args, **how)
    return once(*args, **how)


medvlad.encoders.vlad_encode = often
"""
WRONG = """
import medvlad.encoders

right = medvlad.encoders.vlad_encode
medvlad.encoders.vlad_encode = lambda *args, **how: right(*args, **how) + 1
"""


@pytest.mark.slow
def test_five_times_the_work_is_measured(compare, tmp_path):
    """Whether it exceeds the noise depends on other programs, so only the ratio is checked."""
    site = Path(medvlad.__file__).parents[1]
    (tmp_path / "sitecustomize.py").write_text(OFTEN)
    case = "encode 49, K = 64"
    assert compare.compare((site, tmp_path), 7, case)[case].ratio > 1.5


def test_different_results_end_the_comparison(compare, tmp_path):
    site = Path(medvlad.__file__).parents[1]
    (tmp_path / "sitecustomize.py").write_text(WRONG)
    with pytest.raises(AssertionError, match="one image"):
        compare.main([str(site), "--sites", str(tmp_path), "--rounds", "3", "--only", "one image"])
