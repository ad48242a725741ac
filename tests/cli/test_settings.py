"""Options of the command line become settings of an experiment."""

import pytest

from medvlad.cli.evaluate import evaluate
from medvlad.cli.settings import encodings_of, settings_of
from medvlad.encoders.recipe import PRESETS


def settings(*words):
    """Return the settings and the encodings that `medvlad evaluate x ...` would use."""
    with evaluate.make_context("evaluate", ["x", *words]) as context:
        options = dict(context.params)
        encodings = encodings_of(options)
        return settings_of(options), encodings


@pytest.mark.parametrize("name", ["best", "fast"])
def test_a_preset_brings_its_network(name):
    found, encodings = settings("--preset", name)
    preset = PRESETS[name]
    assert [found[field] for field in ("model", "layer", "weights")] == [
        preset[field] for field in ("model", "layer", "weights")
    ]
    assert (found["scales"], encodings) == (preset["scales"], [preset["encode"]])
    assert (found["C"], found["class_weight"], found["calibration"]) == (None, "balanced", "platt")


def test_the_layer_of_a_preset_belongs_to_its_network():
    found, _ = settings("--preset", "best", "--model", "vgg16", "--C", "3")
    assert [found[field] for field in ("model", "layer", "weights", "C")] == ["vgg16", None, "imagenet", 3.0]
    assert found["class_weight"] == "balanced"


def test_naming_the_network_of_a_preset_changes_nothing():
    named, _ = settings("--preset", "best", "--model", PRESETS["best"]["model"])
    assert named == settings("--preset", "best")[0]


def test_options_override_the_network_of_a_preset():
    found, encodings = settings("--preset", "best", "--layer", "block20", "--encode", "avg,vlad8")
    assert (found["model"], found["layer"]) == (PRESETS["best"]["model"], "block20")
    assert encodings == ["avg", "vlad8"]
