"""The command external, and the model card of the command show."""

import json

import numpy as np
import pytest
from support.in_this_process import run_command
from support.striped_images import NETWORK, write_striped_images

from medvlad.report.model_card import model_card_text


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_weights):
    """A folder with images, a model and results of it."""
    root = tmp_path_factory.mktemp("external command")
    images = write_striped_images(root / "images", np.random.default_rng(0))
    given = [images, *NETWORK, "--weights", tiny_weights, "--encode", "avg"]
    status, _, error = run_command("train", *given, "-o", root / "striped.model")
    assert status == 0, error
    return root


@pytest.fixture(scope="module")
def validated(place):
    """Folder of the results of external, and what it printed."""
    pytest.importorskip("matplotlib", reason="needs the extra report")
    out = place / "out"
    status, printed, error = run_command(
        "external", place / "striped.model", place / "images" / "test", "--out", out
    )
    assert status == 0, error
    return out, printed


def test_metrics_are_printed_with_intervals(validated):
    _, printed = validated
    assert "8 images, nothing is fitted on them" in printed
    assert "balanced accuracy 1.000 (" in printed
    assert "Sensitivity is that of upright." in printed


def test_results_and_the_report_are_written(validated):
    out, _ = validated
    results = json.loads((out / "results.json").read_text())
    assert results["external"]["model"] == "striped.model"
    assert results["results"][0]["encode"] == "avg"
    assert len((out / "predictions.csv").read_text().splitlines()) == 9
    page = (out / "report.html").read_text()
    assert "Nothing is fitted on them." in page
    assert "This is internal validation" not in page


def test_json_is_the_content_of_results_json(place):
    status, printed, _ = run_command("external", place / "striped.model", place / "images" / "test", "--json")
    assert status == 0
    assert json.loads(printed)["results"][0]["n_test"] == 8


def test_numbers_as_labels_need_classes_at_once(place, tmp_path):
    images = sorted((place / "images" / "test").rglob("*.png"))
    rows = [f"{image},{i}.5" for i, image in enumerate(images)]
    table = tmp_path / "num.csv"
    table.write_text("\n".join(["image,label", *rows]))
    status, _, error = run_command("external", place / "striped.model", table)
    assert status == 2
    assert "external validation needs one class an image, and the column 'label'" in error
    assert "--label-column" in error
    assert "regression" not in error
    status, _, error = run_command("external", place / "striped.model", table, "--task", "regression")
    assert status == 2
    assert "needs one class an image, and --task regression" in error


def test_an_unknown_class_ends_in_one_sentence_before_the_network_starts(place, tmp_path):
    for name in ("lying", "other"):
        (tmp_path / name).mkdir()
        source = place / "images" / "test" / "lying" / "0.png"
        (tmp_path / name / "0.png").write_bytes(source.read_bytes())
    status, _, error = run_command("external", place / "striped.model", tmp_path)
    assert status == 2
    assert error.strip().count("\n") == 0
    assert "does not know the class other" in error


def test_keras_starts_only_if_the_network_needs_it(place, monkeypatch):
    started = []
    monkeypatch.setattr("medvlad.extraction.keras_startup.start_keras", lambda *_: started.append(1))
    given = ["external", place / "striped.model", place / "images" / "test"]
    assert run_command(*given)[0] == 0
    assert started == [1]
    monkeypatch.setattr("medvlad.extraction.plain_network.needs_keras", lambda _: False)
    assert run_command(*given)[0] == 0
    assert started == [1]


def test_pseudonyms_replace_every_name(place, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra report")
    out = tmp_path / "out"
    status, _, error = run_command(
        "external", place / "striped.model", place / "images" / "test", "--out", out, "--anonymise"
    )
    assert status == 0, error
    for path in (path for path in out.rglob("*") if path.is_file()):
        assert b"images/test" not in path.read_bytes(), path
        assert b"0.png" not in path.read_bytes(), path


# -------------------------------------------------------------------------------------------- card


def test_a_card_holds_metadata_metrics_and_the_model(place, validated, tmp_path):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    status, printed, error = run_command(
        "show", place / "striped.model", "--card", tmp_path / "hub", "--results", validated[0]
    )
    assert status == 0, error
    assert "Answer the questions in brackets" in printed
    text = (tmp_path / "hub" / "README.md").read_text()
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["library_name"] == "medvlad"
    measured = metadata["model-index"][0]["results"][0]["metrics"]
    value = json.loads((validated[0] / "results.json").read_text())["results"][0]["balanced_accuracy"]
    assert {"type": "balanced_accuracy", "value": value, "name": "balanced accuracy"} in measured
    assert "| balanced accuracy | 1.000 |" in text
    assert (tmp_path / "hub" / "striped.model").read_bytes() == (place / "striped.model").read_bytes()


def test_a_card_without_results_says_so(place, tmp_path):
    assert run_command("show", place / "striped.model", "--card", tmp_path)[0] == 0
    assert "[No results were given." in (tmp_path / "README.md").read_text()


def test_a_card_does_not_replace_a_readme(place, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    status, _, error = run_command("show", place / "striped.model", "--card", tmp_path)
    assert status == 2
    assert "--overwrite" in error
    assert (tmp_path / "README.md").read_text() == "mine"


def test_results_of_other_classes_are_refused(place, validated, tmp_path):
    results = json.loads((validated[0] / "results.json").read_text())
    results["dataset"]["class_names"] = ["x", "y"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    status, _, error = run_command(
        "show", place / "striped.model", "--card", tmp_path / "hub", "--results", tmp_path
    )
    assert status == 2
    assert "classes x, y" in error


@pytest.mark.parametrize("content", [None, "no json", "{}", "[]"])
def test_a_folder_without_results_is_refused(place, tmp_path, content):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    status, _, error = run_command(
        "show", place / "striped.model", "--card", tmp_path / "hub", "--results", tmp_path
    )
    assert status == 2
    assert "results.json" in error


def test_results_without_a_card_are_a_mistake(place, tmp_path):
    status, _, error = run_command("show", place / "striped.model", "--results", tmp_path)
    assert status == 2
    assert "--card" in error


def test_a_path_of_weights_is_not_in_the_card(place):
    from medvlad.models.model_file import model_card

    header = model_card(place / "striped.model")
    assert "/" in header["features"]["weights"]
    assert header["features"]["weights"] not in model_card_text(header, "m")
