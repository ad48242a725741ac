"""benchmarks/presets.py: the rule by which presets are chosen, and the presets of the package."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture
def presets(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import presets

    return presets


def candidates(presets, n):
    first = presets.Candidate("vgg16", "block5_pool", "average pooling", (0,))
    return [replace(first, layer=f"layer{i}") for i in range(n)]


def write(presets, monkeypatch, tmp_path, folds_of):
    """Write a result file with the folds of each candidate and set."""
    rows = [
        {"set": name, "network": one.network, "layer": one.layer, "encoding": one.encoding}
        | {"scales": list(one.scales), "folds": [[float(value) for value in values]]}
        for one, by_set in folds_of.items()
        for name, values in by_set.items()
    ]
    path = tmp_path / "networks.json"
    path.write_text(json.dumps({"inside": rows}))
    monkeypatch.setattr(presets, "RESULTS", path)


def test_the_package_has_the_presets_that_the_rule_chooses(presets):
    _, chosen = presets.choose()
    presets.check(chosen)


def test_another_preset_of_the_package_is_told(presets, monkeypatch):
    _, chosen = presets.choose()
    monkeypatch.setitem(presets.PRESETS, "best", presets.PRESETS["best"] | {"encode": "bow8"})
    with pytest.raises(SystemExit, match=r"'best' of the package is not the chosen one: \{'encode'"):
        presets.check(chosen)


def test_an_early_candidate_is_as_good_unless_a_later_one_is_better_fold_by_fold(
    presets, monkeypatch, tmp_path
):
    first, noisy, better = candidates(presets, 3)
    base = np.array([0.8, 0.9, 0.7, 0.8])
    folds = {
        first: dict.fromkeys(presets.SETS, base),
        noisy: dict.fromkeys(presets.SETS, base + np.array([0.1, -0.1, 0.05, -0.04])),
    }
    write(presets, monkeypatch, tmp_path, folds)
    assert presets.as_good([first, noisy])[0] == first
    write(presets, monkeypatch, tmp_path, folds | {better: dict.fromkeys(presets.SETS, base + 0.02)})
    found = presets.as_good([first, noisy, better])
    assert first not in found
    assert better in found


def test_a_candidate_that_a_set_lacks_is_named(presets, monkeypatch, tmp_path):
    (one,) = candidates(presets, 1)
    write(presets, monkeypatch, tmp_path, {one: {"rooms": np.ones(3)}})
    with pytest.raises(SystemExit, match=r"layer0.*was not measured inside all of"):
        presets.inside_scores(one)


def test_training_images_are_drawn_patient_by_patient(presets):
    groups = np.repeat(np.arange(700), 4)
    train = np.arange(4, len(groups))
    drawn = presets.drawn(train, SimpleNamespace(groups=groups))
    assert presets.MOST_INSIDE - 4 <= len(drawn) <= presets.MOST_INSIDE
    assert set(np.unique(groups[drawn], return_counts=True)[1]) == {4}
    assert 0 not in groups[drawn]
    np.testing.assert_array_equal(presets.drawn(train[:100], None), train[:100])
