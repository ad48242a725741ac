"""Evaluate and train on several labels and on numbers, from images to files and a report."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from support.striped_images import NETWORK, small_experiment, write_striped_images

from medvlad import InputError, load_image_folder, load_model, save_model
from medvlad.cli import evaluation_run
from medvlad.cli.answer_writer import _in_words
from medvlad.cli.output import Output
from medvlad.decisions import check_answers
from medvlad.experiment import Experiment
from medvlad.experiment.checks import check_data_set
from medvlad.external import validate
from medvlad.extraction import keras_startup
from medvlad.predict import predict_images

pytest.importorskip("keras", reason="needs the extra tensorflow")
pytest.importorskip("matplotlib", reason="needs the extra report")


@pytest.fixture
def folder(tmp_path, rng):
    return write_striped_images(tmp_path / "stripes", rng, train=8, test=5)


def with_targets(folder, task):
    """Return the striped images with the label "upright", one at random, or with a number that tells both."""
    data = load_image_folder(folder)
    rng = np.random.default_rng(0)
    if task == "labels":
        targets = np.column_stack([data.labels, np.arange(len(data)) % 2]).astype(float)
        targets[3, 1] = np.nan
        return replace(
            data, task=task, targets=targets, class_names=["upright", "other"], labels=data.labels * 0
        )
    targets = 10.0 * data.labels[:, None] + rng.normal(size=(len(data), 1))
    return replace(data, task=task, targets=targets, class_names=["angle"], labels=data.labels * 0)


@pytest.fixture
def evaluate(folder, tiny_weights, monkeypatch, tmp_path):
    def run(task, **settings):
        monkeypatch.setattr(
            evaluation_run, "load_dataset", lambda *_, **__: with_targets(folder, task), raising=True
        )
        out = tmp_path / "out"
        out.mkdir()
        experiment = small_experiment(tiny_weights, folds=3, **settings)
        assert evaluation_run.run_evaluation(experiment, folder, ["avg", "max"], Output(out, out)) == 0
        return out, json.loads((out / "results.json").read_text())

    return run


@pytest.mark.parametrize("task", ["labels", "regression"])
def test_a_learning_curve_is_refused_before_the_extraction(folder, task, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("evaluated")

    monkeypatch.setattr(evaluation_run, "load_dataset", lambda *_, **__: with_targets(folder, task))
    monkeypatch.setattr(Experiment, "evaluate", refuse)
    monkeypatch.setattr(keras_startup, "start_keras", refuse)
    with pytest.raises(InputError, match=f"one class an image, and the data set has the task '{task}'"):
        evaluation_run.run_evaluation(Experiment(), folder, ["avg"], None, learning_curve=True)


def test_a_threshold_without_labels_is_refused_for_two_labels(folder):
    """Two labels with a test part are no two classes."""
    with pytest.raises(InputError, match="adapt_threshold=True needs a data set with two classes"):
        check_data_set(Experiment(adapt_threshold=True), with_targets(folder, "labels"))


def test_labels_are_evaluated_into_results_a_table_and_a_report(evaluate, capsys):
    out, results = evaluate("labels")
    assert results["task"] == "labels"
    first = results["results"][0]
    assert [one["label"] for one in first["labels"]] == ["upright", "other"]
    assert first["labels"][0]["auc"] == 1.0
    assert first["labels"][1]["n"] == 10
    assert first["parameters"]["classify"]["label_names"] == ["upright", "other"]
    rows = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    assert len(rows) == 20
    assert {row["truth upright"] for row in rows} == {"0", "1"}
    assert (out / "figures" / "avg-roc.png").is_file()
    assert "Micro: all pairs of image and label" in (out / "report.html").read_text()
    shown = capsys.readouterr().out
    assert "macro average" in shown
    assert "16 training and 10 test images" in shown
    assert "max minus avg: macro AUC" in shown


def test_numbers_are_evaluated_into_results_a_table_and_a_report(evaluate, capsys):
    out, results = evaluate("regression")
    assert results["task"] == "regression"
    assert results["results"][0]["targets"][0]["r2"] > 0.7
    assert len(list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))) == 20
    assert (out / "figures" / "avg-predicted0.png").is_file()
    assert "alpha of the ridge" in (out / "report.html").read_text()
    assert "max minus avg: MAE of angle" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["labels", "regression"])
def test_a_trained_model_is_saved_and_predicts_images(folder, tiny_weights, tmp_path, task):
    data = with_targets(folder, task)
    pipeline, skipped, n_images = small_experiment(tiny_weights, folds=3).train(data, "avg")
    assert (skipped, n_images) == ([], 16)
    save_model(pipeline, tmp_path / "model")
    back = load_model(tmp_path / "model")
    images = data.subset("test")
    np.testing.assert_array_equal(back.predict(images.paths), pipeline.predict(images.paths))
    found, truth = back.predict(images.paths)[:, 0], images.targets[:, 0]
    assert (found == truth).all() if task == "labels" else np.abs(found - truth).mean() < 4


@pytest.mark.parametrize("task", ["labels", "regression"])
def test_predict_answers_with_labels_or_values(folder, tiny_weights, task):
    data = with_targets(folder, task)
    pipeline, _, _ = small_experiment(tiny_weights, folds=3).train(data, "avg")
    images = [str(path) for path in data.subset("test").paths]
    predictions, _ = predict_images(pipeline, images)
    found = pipeline.predict(images)
    if task == "labels":
        assert [one["labels"] for one in predictions] == [
            [name for name, has in zip(data.class_names, row, strict=True) if has] for row in found
        ]
        assert (
            _in_words({"labels": ["a"], "scores": {"a": 1.0}, "probabilities": {"a": 0.9}})
            == "a 0.90  (a +1.000)"
        )
    else:
        np.testing.assert_allclose([one["value"] for one in predictions], found[:, 0])
        assert _in_words(predictions[0]) == f"angle {predictions[0]['value']:.4g}"
    with pytest.raises(InputError, match="labels or numbers"):
        predict_images(pipeline, images, explain=folder)


# --------------------------------------------------------------------------------- what is for classes only


@pytest.fixture(scope="module", params=["labels", "regression"])
def trained(request, tmp_path_factory, tiny_weights):
    """A folder of images, and a model file of labels with the names of its classes or of a number."""
    root = tmp_path_factory.mktemp("targets")
    images = write_striped_images(root / "images", np.random.default_rng(1))
    data = replace(with_targets(images, request.param), splits=None)
    if request.param == "labels":
        data = replace(data, class_names=["lying", "upright"])
    pipeline, _, _ = small_experiment(tiny_weights, folds=3).train(data, "avg")
    save_model(pipeline, root / "a.model")
    return images / "test", root / "a.model"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("external MODEL IMAGES", "needs a model that predicts one class an image, and this one predicts"),
        (
            "predict MODEL IMAGES --adapt-threshold",
            "--adapt-threshold are for one class an image: leave",
        ),
        ("predict MODEL IMAGES --coverage 0.9", "--coverage, --abstain and"),
        ("predict MODEL IMAGES --abstain", "are for one class an image"),
        ("predict MODEL IMAGES --explain maps", "--explain is for models of one class an image"),
        ("predict MODEL IMAGES --similar 2", "--similar is for models of one class an image"),
        ("similar MODEL IMAGES", "'medvlad similar' is for models of one class an image"),
    ],
)
def test_what_is_for_classes_is_refused_in_one_sentence(trained, run, monkeypatch, tmp_path, words, told):
    def extracted(*_, **__):
        raise AssertionError("an image was read")

    monkeypatch.setattr("medvlad.extraction.cnn_descriptors.CNNDescriptors.extract", extracted)
    monkeypatch.setattr("medvlad.predict.extract_stream", extracted)
    monkeypatch.chdir(tmp_path)
    images, model = trained
    words = [{"MODEL": model, "IMAGES": images}.get(word, word) for word in words.split()]
    status, printed, error = run(*words)
    assert (status, printed) == (2, "")
    assert told in error
    assert "Traceback" not in error
    assert not (tmp_path / "maps").exists()


def test_a_model_without_classes_is_not_validated_on_classes(trained):
    images, model = trained
    with pytest.raises(InputError, match="needs a model that predicts one class"):
        validate(load_model(model), load_image_folder(images))


@pytest.mark.parametrize("wanted", [{"threshold": 0.0}, {"coverage": 0.9}, {"abstain": True}])
def test_answers_for_one_class_are_refused_by_a_model_without_classes(trained, wanted):
    head = load_model(trained[1])[-1]
    assert check_answers(head) is None
    with pytest.raises(InputError, match="are for one class an image"):
        check_answers(head, **wanted)


@pytest.mark.parametrize("task", ["labels", "regression"])
def test_training_images_without_one_class_are_not_kept(trained, run, tmp_path, tiny_weights, task):
    images = trained[0]
    files = sorted(images.rglob("*.png"))
    rows = [f"{path},{i % 2},{(i // 2) % 2}" for i, path in enumerate(files)]
    (tmp_path / "t.csv").write_text("\n".join(["image,one,two", *rows]))
    columns = (
        ["--label-columns", "one,two"]
        if task == "labels"
        else ["--label-column", "one", "--task", "regression"]
    )
    given = [tmp_path / "t.csv", *columns, *NETWORK, "--weights", tiny_weights, "--encode", "avg"]
    status, _, error = run("train", *given, "--similar", "-o", tmp_path / "new.model")
    assert status == 2
    assert "--similar is for data sets with one class an image" in error
    assert not (tmp_path / "new.model").exists()
    assert run("train", *given, "--no-similar", "-o", tmp_path / "new.model")[0] == 0
