"""The folder of a network's file is in no anonymised result, no anonymised model file and no model card."""

import json

import numpy as np
import pytest
from support.in_this_process import run_command
from support.striped_images import write_striped_images

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnx", reason="needs the extra onnx")

from support.onnx_networks import convolutions

from medvlad import InputError, load_model
from medvlad.models.model_file import model_card

FOLDER = "Qzsmith"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Images, and a network in a folder that names a person."""
    place = tmp_path_factory.mktemp("networks")
    write_striped_images(place / "images", np.random.default_rng(2))
    (place / FOLDER).mkdir()
    return place


@pytest.fixture(scope="module")
def network(place):
    return convolutions(place / FOLDER / "network.onnx")


@pytest.fixture(scope="module")
def models(place, network):
    """A model file with the folder, and one without it."""
    words = ["train", place / "images", "--model", network, "--encode", "avg", "--no-similar"]
    for name, options in (("plain.model", []), ("anonymous.model", ["--anonymise"])):
        status, _, error = run_command(*words, "-o", place / name, *options)
        assert (status, error) == (0, "")
    return place / "plain.model", place / "anonymous.model"


@pytest.fixture(scope="module")
def results(place, network):
    """Folders of results: of evaluate, of evaluate --anonymise."""
    words = ["evaluate", place / "images", "--model", network, "--encode", "avg"]
    for name, options in (("out", []), ("anonymous", ["--anonymise"])):
        assert run_command(*words, "--out", place / name, *options)[0] == 0
    return place / "out", place / "anonymous"


def texts(folder):
    return {path.name: path.read_text("utf-8", "replace") for path in folder.rglob("*") if path.is_file()}


def test_anonymised_results_of_evaluate_do_not_name_the_folder(results):
    plain, anonymous = map(texts, results)
    assert FOLDER in plain["results.json"]
    assert [name for name, text in anonymous.items() if FOLDER in text] == []
    assert json.loads(anonymous["results.json"])["settings"]["model"] == "onnx:network.onnx"


def test_anonymised_results_of_external_do_not_name_the_folder(place, models, tmp_path):
    words = ["external", models[0], place / "images" / "test", "--out", tmp_path / "out", "--anonymise"]
    status, _, error = run_command(*words)
    assert status == 0, error
    assert [name for name, text in texts(tmp_path / "out").items() if FOLDER in text] == []


def test_an_anonymised_model_file_does_not_name_the_folder(models):
    plain, anonymous = models
    assert FOLDER.encode() in plain.read_bytes()
    assert FOLDER.encode() not in anonymous.read_bytes()
    assert model_card(anonymous)["features"]["model"] == "onnx:network.onnx"


def test_the_notes_of_a_model_do_not_name_the_folder_in_any_case(models):
    assert model_card(models[0])["card"]["parameters"]["model"] == "onnx:network.onnx"


def test_an_anonymised_model_is_loaded_with_its_file_or_in_its_folder(place, models, network, monkeypatch):
    image = [str(next((place / "images" / "test").rglob("*.png")))]
    expected = load_model(models[0]).decision_function(image)
    file = network.removeprefix("onnx:")
    np.testing.assert_array_equal(load_model(models[1], weights=file).decision_function(image), expected)
    with pytest.raises(InputError, match=r"needs the file network\.onnx of its network.*weights='FILE'"):
        load_model(models[1])
    monkeypatch.chdir(place / FOLDER)
    np.testing.assert_array_equal(load_model(models[1]).decision_function(image), expected)


@pytest.mark.parametrize(("model", "run"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_model_card_does_not_name_the_folder(models, results, tmp_path, model, run):
    words = ["show", models[model], "--card", tmp_path / "card", "--results", results[run]]
    status, _, error = run_command(*words)
    assert status == 0, error
    card = (tmp_path / "card" / "README.md").read_text("utf-8")
    assert FOLDER not in card
    assert "descriptors of onnx:network.onnx" in card
