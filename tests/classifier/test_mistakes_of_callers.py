"""Mistakes of callers of ImageClassifier: a single path, numbers as classes, maps of feature files."""

from pathlib import Path

import numpy as np
import pytest
from support.faults import light_network
from support.feature_files import write_features
from support.striped_images import write_striped_images

import medvlad as mv
from medvlad.explain import evidence
from medvlad.predict import predict_images


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = write_striped_images(
        tmp_path_factory.mktemp("mistakes") / "images", np.random.default_rng(0), train=6, test=1
    )
    return mv.load_image_folder(root, split="train")


@pytest.fixture
def of_images(images, monkeypatch):
    light_network(monkeypatch.setattr)
    return mv.ImageClassifier("vgg16", encode="avg", calibration="none").fit(images.paths, images.y)


@pytest.fixture
def files(tmp_path, rng):
    """Six feature files with coordinates."""
    corners = np.stack([np.arange(8) % 4, np.arange(8) // 4], axis=1) * 256
    return [
        write_features(tmp_path / f"{i}.npz", rng.random((8, 6)).astype(np.float32), coords=corners)
        for i in range(6)
    ]


@pytest.fixture
def of_files(files):
    return mv.ImageClassifier(encode="avg", calibration="none").fit(files, ["a", "b"] * 3)


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("model", ["of_images", "of_files"])
@pytest.mark.parametrize(
    "name", ["fit", "predict", "decision_function", "predict_proba", "answers", "explain"]
)
def test_a_single_path_is_refused_with_the_list_to_give(request, images, files, kind, model, name):
    fitted = request.getfixturevalue(model)
    if name == "predict_proba":
        fitted.set_params(calibration="platt")
        paths, y = (images.paths, images.y) if model == "of_images" else (files * 4, ["a", "b"] * 12)
        fitted.fit(paths, y)
    path = kind(images.paths[0] if model == "of_images" else files[0])
    with pytest.raises(mv.InputError, match=r"must be a list, got the single path .*give a list: \[path\]"):
        getattr(fitted, name)(path, *(["a"] if name == "fit" else []))


@pytest.mark.parametrize("of_features", [False, True])
@pytest.mark.parametrize(
    ("y", "parts"),
    [
        (None, ["y must hold the class of each image", "got None"]),
        (
            [0.5, 1.25, 3, 4, 5, 6],
            ["y must hold the class", "0.5", "medvlad.svm.WideRidge", "--task regression"],
        ),
        ([1, 2, np.nan, 1, 2, 1], ["y must hold the class", "nan"]),
    ],
)
def test_numbers_and_none_are_no_classes(images, files, of_features, y, parts):
    given = files if of_features else images.paths[:6]
    with pytest.raises(mv.InputError) as raised:
        mv.ImageClassifier("vgg16", encode="avg").fit(given, y)
    assert all(part in str(raised.value) for part in parts)


def test_whole_numbers_are_classes(files):
    assert mv.ImageClassifier(encode="avg", calibration="none").fit(
        files, [0.0, 1.0] * 3
    ).classes_.tolist() == [
        0,
        1,
    ]


def test_the_named_calls_give_the_evidence_of_feature_files(of_files, files, tmp_path):
    with pytest.raises(mv.InputError) as raised:
        of_files.explain(files)
    message = str(raised.value)
    assert "medvlad.predict.predict_images(classifier.pipeline_, files, explain=Path(FOLDER))" in message
    assert "medvlad.explain.evidence(descriptors, *classifier.pipeline_)" in message
    (tmp_path / "maps").mkdir()
    predictions, _ = predict_images(of_files.pipeline_, files, explain=tmp_path / "maps")
    assert [one["label"] for one in predictions] == of_files.predict(files).tolist()
    assert all((tmp_path / "maps" / one["evidence"]).is_file() for one in predictions)
    descriptors = mv.Descriptors.from_list([np.load(file)["features"] for file in files])
    split = evidence(descriptors, *of_files.pipeline_)
    np.testing.assert_allclose(np.ravel(split.decision()), of_files.decision_function(descriptors), atol=1e-6)
