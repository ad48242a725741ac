"""The commands with networks of ONNX files: layers, evaluate, train, extract, export."""

import json

import numpy as np
import pytest
from support.in_this_process import run_command
from support.striped_images import write_striped_images

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnx", reason="needs the extra onnx")

from support.onnx_networks import convolutions


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_striped_images(tmp_path_factory.mktemp("data") / "images", np.random.default_rng(2))


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A network, and a Keras that must not be started."""

    def started():
        raise AssertionError("Keras was started")

    monkeypatch.setattr("medvlad.extraction.keras_startup._start", started)
    return convolutions(tmp_path / "network.onnx")


def test_layers_lists_the_last_maps_first(network):
    status, printed, error = run_command("layers", network)
    assert (status, error) == (0, "")
    assert printed.splitlines()[0].split() == ["maps", "6", "x", "14", "x", "14"]
    assert printed.splitlines()[-1].split()[0] == "pooled"
    status, printed, _ = run_command("layers", network.removeprefix("onnx:"), "-n", "2", "--json")
    found = json.loads(printed)["layers"]
    assert [one["layer"] for one in found] == ["maps", "second"]
    assert found[0] == {"layer": "maps", "shape": [1, 6, 14, 14], "spatial": True}


def test_results_name_the_layer_and_the_preprocessing_that_were_used(images, network, tmp_path):
    out = tmp_path / "out"
    words = ["evaluate", images, "--model", network, "--preprocess", "minus1_1", "--encode", "avg,vlad2"]
    status, _, error = run_command(*words, "--side", "96", "--out", out)
    assert (status, error) == (0, "")
    settings = json.loads((out / "results.json").read_text())["settings"]
    assert settings["layer"] == "maps"
    assert settings["preprocess"]["name"] == "minus1_1"
    assert (settings["engine"], settings["input_sides"], settings["prefix_tokens"]) == (
        "onnxruntime",
        [96],
        0,
    )
    assert settings["weights"] == network.removeprefix("onnx:")


def test_train_and_export_write_one_graph(images, network, tmp_path):
    model, graph = tmp_path / "a.model", tmp_path / "a.onnx"
    words = ["train", images, "--model", network, "--layer", "relu", "--encode", "avg", "-o", model]
    assert run_command(*words)[0] == 0
    status, printed, _ = run_command("export", model, graph)
    assert status == 0
    assert "image_224 (batch, 224, 224, 3) to scores and label" in printed
    assert graph.is_file()


def test_a_second_extract_finds_everything_in_the_store(images, network, tmp_path):
    words = ["extract", images, "--store", tmp_path / "store", "--model", network]
    assert " 0 of them" not in run_command(*words)[1]
    assert " 0 of them" in run_command(*words)[1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("layers absent.onnx", "there is no ONNX file absent.onnx"),
        ("evaluate IMAGES --model onnx:absent.onnx", "there is no ONNX file absent.onnx"),
        ("evaluate IMAGES --model NETWORK --layer mapps", "has no layer 'mapps': did you mean 'maps'"),
        ("evaluate IMAGES --model NETWORK --dtype int8", "--dtype int8 does not work here"),
        (
            "evaluate IMAGES --model NETWORK --scale 0,1 --side 96",
            "--side 96, which does not fit --scale 0,1: use --scale 0",
        ),
        ("evaluate IMAGES --model NETWORK --prefix-tokens -1", "--prefix-tokens must be an integer"),
    ],
)
def test_a_mistake_is_one_sentence(images, network, monkeypatch, tmp_path, words, told):
    monkeypatch.chdir(tmp_path)
    words = [one.replace("IMAGES", str(images)).replace("NETWORK", network) for one in words.split()]
    status, _, error = run_command(*words)
    assert status == 2
    assert told in error
    assert "Traceback" not in error
