"""Probabilities, prediction sets, abstention, thresholds and shifts on the command line."""

import json

import numpy as np
import pytest
from support.striped_images import NETWORK, write_striped_images

from medvlad import load_model
from medvlad.cli.answer_writer import _UNUSUAL_BELOW
from medvlad.decisions import CalibratedSVC
from medvlad.decisions.novelty import FLAGGED_BELOW


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("answers") / "images"
    return write_striped_images(root, np.random.default_rng(0), train=20, test=20)


@pytest.fixture
def train(run, images, tiny_weights, tmp_path):
    """Train a model with further options, and return its path and what was printed."""

    def trained(*further):
        model = tmp_path / "model"
        store = images.parent / "store"  # the images go through the network once
        arguments = [*NETWORK, "--weights", tiny_weights, "--encode", "avg", "--store", store, *further]
        status, printed, error = run("train", images, *arguments, "-o", model)
        assert status == 0, error
        return model, printed

    return trained


def predicted(run, *arguments):
    status, printed, error = run("predict", *arguments, "--json")
    assert status == 0, error
    return json.loads(printed)["predictions"], error


def test_a_trained_model_gives_probabilities_by_default(run, train, images):
    model, _ = train()
    assert isinstance(load_model(model)[-1], CalibratedSVC)
    predictions, _ = predicted(run, model, images / "test" / "upright" / "0.png")
    (one,) = predictions
    assert sum(one["probabilities"].values()) == pytest.approx(1)
    assert one["probabilities"]["upright"] > 0.5
    assert 0 < one["novelty_p"] <= 1
    assert "prediction_set" not in one


def test_sets_and_abstention_are_printed(run, train, images):
    model, _ = train()
    predictions, _ = predicted(run, model, images / "test", "--coverage", "0.8", "--abstain")
    for one in predictions:
        assert one["abstained"] == (one["label"] is None) == (len(one["prediction_set"]) != 1)
    status, printed, _ = run("predict", model, images / "test", "--coverage", "0.8", "--abstain")
    assert status == 0
    assert printed.count("no label") == sum(one["abstained"] for one in predictions)
    assert "{upright}" in printed


def test_an_image_unlike_the_training_images_is_said_to_be(run, train, tmp_path, rng):
    from PIL import Image

    model, _ = train()
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "noise.png")
    predictions, _ = predicted(run, model, tmp_path / "noise.png")
    assert predictions[0]["novelty_p"] < 0.05
    _, printed, _ = run("predict", model, tmp_path / "noise.png")
    assert "unlike the training images" in printed
    assert _UNUSUAL_BELOW == FLAGGED_BELOW


def test_scores_that_have_shifted_are_told_once(run, train, images, caplog):
    """One image sixty times has one score, so at least half of the training images lie on one side of it."""
    model, _ = train()
    files = [images / "test" / "upright" / "0.png"] * 60
    assert run("predict", model, *files)[0] == 0
    (told,) = [one for one in caplog.messages if "have shifted" in one]
    assert "the scores of these 60 images have shifted" in told
    assert "adapt_threshold=True" in told  # which the command line spells as an option


def test_a_threshold_is_found_in_the_images(run, train, images):
    model, _ = train()
    predictions, error = predicted(run, model, images / "test", "--adapt-threshold")
    at = predictions[0]["threshold"]
    assert "medvlad: the threshold of upright is" in error
    lines = run("predict", model, images / "test", "--adapt-threshold", "--log-json")[2].splitlines()
    assert any("the threshold of upright is" in json.loads(line)["message"] for line in lines)
    assert all(
        one["label"] == ("upright" if one["scores"]["upright"] > at else "lying") for one in predictions
    )


def test_an_operating_point_is_stored_and_told(run, train, images):
    model, printed = train("--threshold", "specificity=0.9", "--positive", "lying")
    at = load_model(model)[-1].threshold_
    assert f"upright is decided above {at:+.3f}" in printed
    svm = load_model(model)[-1]
    values, lying = svm.held_out_decision_[:, 1], svm.held_out_labels_ == 0
    rates = [f"{(values[lying] <= t).mean():.3f} and {(values[~lying] > t).mean():.3f}" for t in (at, 0)]
    assert (values[~lying] > at).mean() >= 0.9
    assert "Sensitivity for lying and specificity" in printed
    assert f"{rates[0]}; without this option {rates[1]}" in printed
    predictions, _ = predicted(run, model, images / "test")
    assert all(
        one["label"] == ("upright" if one["scores"]["upright"] > at else "lying") for one in predictions
    )


def test_a_model_without_calibration_has_neither_probabilities_nor_sets(run, train, images):
    model, _ = train("--calibration", "none")
    image = images / "test" / "upright" / "0.png"
    predictions, _ = predicted(run, model, image)
    assert set(predictions[0]) == {"image", "label", "scores"}
    status, _, error = run("predict", model, image, "--coverage", "0.9")
    assert status == 2
    assert "--coverage 0.9 needs a model with calibration" in error


def test_evaluate_measures_at_the_operating_point(run, images, tiny_weights, tmp_path):
    arguments = [*NETWORK, "--weights", tiny_weights, "--encode", "avg", "--store", images.parent / "store"]
    status, printed, error = run(
        *(
            "evaluate",
            images,
            *arguments,
            "--threshold",
            "sensitivity=0.9",
            "--C",
            "cv",
            "--calibration",
            "platt",
        ),
        *("--out", tmp_path / "out"),
    )
    assert status == 0, error
    assert "avg at sensitivity=0.9 of the training images" in printed
    assert "chosen inside the training images; Brier score" in printed
    (result,) = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert result["operating_point"]["target"] == "sensitivity=0.9"
    assert "sensitivity=0.9" in (tmp_path / "out" / "report.html").read_text()
