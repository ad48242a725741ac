"""A small run of quick.py: every part gives checked results, and the tables can be made from them."""

from __future__ import annotations

import json

import pytest
import quick
from rivals import OWN

#: What each part times at least, with the packages of the tests.
LEAST = {
    "encode": ("medvlad", "kernel alone", "medvlad, new array", "sgemm"),
    "assign": ("medvlad", "kernel alone", "sgemm"),
    "kmeans": ("medvlad", "scikit-learn"),
    "extract": ("sgemm",),
    "svm": ("medvlad", "medvlad, float64", "scikit-learn"),
}


@pytest.mark.parametrize("part", quick.PARTS)
def test_a_small_run_of_each_part(part, timing, tmp_path, monkeypatch):
    if timing:
        pytest.skip("quick.py times with `make bench-quick`")
    monkeypatch.setattr(quick.problems, "real_descriptors", _unavailable)
    output = tmp_path / "out.json"
    assert quick.main(["-o", str(output), "--small", "--rounds", "1", "--parts", part]) == 0
    found = json.loads(output.read_text())
    names = {result["implementation"] for result in found["results"]}
    assert names >= set(LEAST[part])
    assert {result["kind"] for result in found["results"]} == {part}
    assert found["machine"]["part_seconds"].keys() == {"limits", part}
    if part in ("encode", "assign"):
        assert all("over_kernel" in r for r in found["results"] if r["implementation"] == OWN)
        table = quick.quick_table(found)
        cases = quick.ENCODE[:6] if part == "encode" else quick.ASSIGN
        assert sum(line.startswith(f"| {part} |") for line in table.splitlines()) == len(cases)


def test_results_of_other_parts_are_kept(timing):
    if timing:
        pytest.skip("quick.py times with `make bench-quick`")
    kept = {"kind": "assign", "implementation": "x"}
    before = {"machine": {"left_out": {"a": "b"}, "part_seconds": {"assign": 2.0}}, "results": [kept]}
    found, slow = quick.measured(["svm"], 1, True, before)
    assert found["results"][0] == kept
    assert found["machine"]["left_out"]["a"] == "b"
    assert found["machine"]["part_seconds"]["assign"] == 2.0
    assert slow == []


def _unavailable(data, n, n_images):
    raise quick.problems.Unavailable("a test has no images")
