"""The commands with networks of ONNX files: layers, evaluate, train, extract, export."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.in_this_process import run_command
from support.striped_images import write_striped_images

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnx", reason="needs the extra onnx")

from support.onnx_networks import convolutions

from medvlad import CNNDescriptors, InputError
from medvlad.cli.model_network import check_weights_of
from medvlad.images.hashed_file import image_key
from medvlad.store.store import DescriptorStore


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


@pytest.mark.parametrize(
    "words",
    [
        "predict MODEL IMAGE --weights MOVED",
        "similar MODEL IMAGE --weights MOVED",
        "external MODEL IMAGES/test --weights MOVED",
        "export MODEL new.onnx --weights MOVED",
    ],
)
def test_the_file_of_a_network_may_move(images, network, monkeypatch, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    given = ["train", images, "--model", network, "--encode", "avg", "-o", "a.model"]
    assert run_command(*given)[0] == 0
    Path(network.removeprefix("onnx:")).rename("moved.onnx")
    image = images / "test" / "lying" / "0.png"
    for name, value in {"MODEL": "a.model", "MOVED": "moved.onnx", "IMAGES": images, "IMAGE": image}.items():
        words = words.replace(name, str(value))
    status, _, error = run_command(*words.split())
    assert status == 0, error
    status, _, error = run_command(*words.replace("moved.onnx", "gone.onnx").split())
    assert status == 2
    assert "there is no ONNX file gone.onnx" in error


def test_weights_of_timm_are_checked_by_the_rules_of_timm(monkeypatch, tmp_path):
    given = tmp_path / "w.safetensors"
    given.touch()
    monkeypatch.setattr(
        "medvlad.models.model_file.network_of_file",
        lambda _, weights: CNNDescriptors("timm:test_vit", weights=weights),
    )
    check_weights_of(tmp_path / "a.model", str(given))
    with pytest.raises(InputError, match="does not exist"):
        check_weights_of(tmp_path / "a.model", str(tmp_path / "gone.safetensors"))
    with pytest.raises(InputError, match="must be 'imagenet', 'random' or a file ending in"):
        check_weights_of(tmp_path / "a.model", "w.h5")


def test_a_store_of_timm_takes_its_weights_and_starts_no_keras(images, network, tmp_path):
    given = tmp_path / "w.safetensors"
    given.touch()
    image = images / "test" / "lying" / "0.png"
    with DescriptorStore(tmp_path / "store").section({"model": "timm:test_vit"}).writer() as writer:
        writer.add(image_key(image), np.ones((2, 2), np.float32))
    words = ["verify", tmp_path / "store", "--recompute", "1", "--images", image, "--weights", given]
    status, _, error = run_command("store", *words)
    assert status == 2
    assert "was not checked" in error  # its settings are incomplete here
    assert "must be" not in error


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
