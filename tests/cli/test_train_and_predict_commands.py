"""The commands train, predict, export and show."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.in_this_process import run_command
from support.striped_images import NETWORK, write_striped_images

from medvlad import InputError, load_model
from medvlad.encoders.recipe import PRESETS


@pytest.fixture
def images(tmp_path, rng):
    return write_striped_images(tmp_path / "images", rng)


@pytest.mark.slow
def test_a_model_with_a_power_explains_to_first_order(run, images, tiny_weights, tmp_path):
    model = tmp_path / "model"
    arguments = [
        "train",
        images,
        *NETWORK,
        "--weights",
        tiny_weights,
        "--preset",
        "best",
        "--encode",
        "vlad3",
        "--l2-descriptors",
        "--power",
        "0.5",
        "--scale",
        "0,1",
    ]
    status, _, error = run(*arguments, "--pca", "4", "--vocabularies", "2", "--mirror", "-o", model)
    assert status == 0, error
    status, printed, _ = run(
        "predict", model, images / "test" / "upright" / "0.png", "--explain", tmp_path / "maps"
    )
    assert status == 0
    assert "to first order" in printed
    page = (tmp_path / "maps" / "explain.html").read_text()
    assert "Predictions and their evidence" in page
    assert "A map is a 17 x 17 grid" in page  # the finer of scales 0 and 1
    assert (tmp_path / "maps" / "0_0.png").is_file()


@pytest.mark.slow
def test_a_model_with_tiles_explains_exactly(run, images, tiny_weights, tmp_path):
    model = tmp_path / "model"
    arguments = ["train", images, *NETWORK, "--weights", tiny_weights, "--encode", "avg"]
    status, _, error = run(*arguments, "--tiles", "1x1,2x2", "--mirror", "-o", model)
    assert status == 0, error
    image = images / "test" / "upright" / "0.png"
    status, printed, error = run("predict", model, image, "--explain", tmp_path / "maps")
    assert status == 0, error
    assert "split over the image exactly" in printed


@pytest.mark.parametrize("wrong", ["2y2", "0x1", "1x1,,2"])
def test_wrong_tiles_are_told(run, images, tmp_path, wrong):
    status, _, error = run("train", images, *NETWORK, "--tiles", wrong, "-o", tmp_path / "model")
    assert status == 2
    assert f"--tiles must be grids of at most 99x99, got '{wrong}'" in error


def test_the_dtype_that_was_chosen_is_told_and_written(run, images, tiny_weights, tmp_path):
    words = [*NETWORK, "--weights", tiny_weights, "--encode", "avg", "--dtype", "auto"]
    status, printed, _ = run("evaluate", images, *words, "--out", tmp_path / "out")
    assert status == 0
    assert "\ndtype float32 (auto) on " in printed
    assert json.loads((tmp_path / "out" / "results.json").read_text())["settings"]["dtype"] == "float32"
    status, printed, _ = run("train", images, *words, "-o", tmp_path / "model")
    assert status == 0
    assert "\ndtype float32 (auto) on " in printed
    network = load_model(tmp_path / "model")[0]
    assert network.dtype == "float32"


def test_train_chooses_an_encoding_and_says_why(run, images, tiny_weights, tmp_path):
    model = tmp_path / "model"
    words = ["--encode", "avg,vlad3"]
    status, printed, error = run("train", images, *NETWORK, "--weights", tiny_weights, *words, "-o", model)
    assert (status, error) == (0, "")
    why, done = printed.splitlines()
    assert re.fullmatch(
        r"encoding (avg|vlad3), the first within one standard error of the best: balanced accuracy "
        r"avg [01][.][0-9]{3}, vlad3 [01][.][0-9]{3} \(5-fold cross-validation inside the training images\)",
        why,
    )
    assert done == f"trained on 12 images; wrote {model}, and {model.name}.cases for 'medvlad similar'"
    card = json.loads(run("show", model)[1])["card"]
    assert card["encode"] in ("avg", "vlad3")
    assert list(card["inner_balanced_accuracy"]) == ["avg", "vlad3"]


@pytest.mark.parametrize(
    ("words", "compared"),
    [
        ([], ["avg", "vlad64"]),
        (["--preset", "best"], [PRESETS["best"]["encode"]]),
        (["--encode", "max"], ["max"]),
    ],
)
def test_train_compares_average_pooling_and_vlad_unless_told_otherwise(
    run, images, tmp_path, monkeypatch, words, compared
):
    def training(self, dataset, encodings, **_):
        raise InputError(f"compared: {encodings}")

    monkeypatch.setattr("medvlad.experiment.Experiment.train_best", training)
    status, _, error = run("train", images, *NETWORK, *words, "-o", tmp_path / "model")
    assert (status, error) == (2, f"medvlad: compared: {compared}\n")


@pytest.fixture(
    scope="module", params=[("avg", "1", "exactly"), ("vlad3", "0.5", "to first order")], ids=["avg", "vlad3"]
)
def trained(request, tmp_path_factory, tiny_weights):
    """A model, its test images, and the kind of its explanations."""
    encode, power, how = request.param
    folder = tmp_path_factory.mktemp("trained")
    images = write_striped_images(folder / "images", np.random.default_rng(6))
    model = folder / "model.medvlad"
    learning = ["--encode", encode, "--power", power]
    done = run_command("train", images, *NETWORK, "--weights", tiny_weights, *learning, "-o", model)
    return SimpleNamespace(
        model=model, files=sorted((images / "test").rglob("*.png")), how=how, status=done[0], printed=done[1]
    )


@pytest.fixture(scope="module")
def predictions(trained):
    """Predictions of all test images."""
    status, printed, error = run_command("predict", trained.model, *trained.files, "--json")
    assert (status, error) == (0, "")
    return json.loads(printed)["predictions"]


@pytest.mark.slow
def test_train_says_how_many_images_it_used(trained):
    assert trained.status == 0
    assert "trained on 12 images" in trained.printed


@pytest.mark.slow
def test_predictions_are_in_the_order_of_the_images(trained, predictions):
    assert [one["image"] for one in predictions] == [str(file) for file in trained.files]


@pytest.mark.slow
def test_the_label_has_the_largest_decision_value(predictions):
    for one in predictions:
        assert one["scores"].keys() == {"lying", "upright"}
        assert one["label"] == max(one["scores"], key=one["scores"].get)


@pytest.mark.slow
def test_most_predictions_are_right(predictions):
    assert sum(one["label"] in one["image"] for one in predictions) >= 6


@pytest.mark.slow
def test_weights_may_have_moved(run, trained, predictions, tiny_weights, tmp_path):
    moved = tmp_path / "elsewhere.weights.h5"
    shutil.copy(tiny_weights, moved)
    status, table, _ = run("predict", trained.model, trained.files[0], "--weights", moved)
    assert status == 0
    assert f"{trained.files[0]}  {predictions[0]['label']}" in table


@pytest.mark.slow
def test_explain_writes_a_picture_of_each_image(run, trained, tmp_path):
    maps, files = tmp_path / "maps" / "new", trained.files[:2]
    status, table, _ = run("predict", trained.model, *files, "--explain", maps)
    assert status == 0
    assert f"split over the image {trained.how}" in table
    pictures = sorted(maps.glob("*.png"))
    assert [one.name for one in pictures] == [f"{i}_{files[i].stem}.png" for i in range(2)]
    with Image.open(pictures[0]) as picture:
        assert picture.size[0] > 2 * 400


@pytest.mark.slow
def test_json_names_the_pictures(run, trained, tmp_path):
    _, printed, _ = run("predict", trained.model, *trained.files[:2], "--explain", tmp_path, "--json")
    named = [one["evidence"] for one in json.loads(printed)["predictions"]]
    assert named == sorted(path.name for path in tmp_path.glob("*.png"))


@pytest.mark.slow
def test_explain_must_not_be_a_file(run, trained, tmp_path):
    (tmp_path / "file").touch()
    status, _, error = run("predict", trained.model, trained.files[0], "--explain", tmp_path / "file")
    assert status == 2
    assert "file" in error
    assert "Traceback" not in error


def test_weights_of_another_training_are_refused(run, images, tiny_weights, tmp_path):
    keras = pytest.importorskip("keras")
    model = tmp_path / "model.medvlad"
    run("train", images, *NETWORK, "--weights", tiny_weights, "--encode", "avg", "-o", model)
    keras.utils.set_random_seed(1)
    other = tmp_path / "other.weights.h5"
    keras.applications.MobileNetV2(weights=None, include_top=False).save_weights(other)
    status, _, error = run("predict", model, next(images.rglob("*.png")), "--weights", other)
    assert status == 2
    assert "are not those that" in error


@pytest.fixture(scope="module")
def vlad_model(tmp_path_factory, tiny_weights):
    """A model of VLAD, trained on 12 images."""
    folder = tmp_path_factory.mktemp("vlad")
    images = write_striped_images(folder / "images", np.random.default_rng(7))
    arguments = [images, *NETWORK, "--weights", tiny_weights, "--encode", "vlad3"]
    assert run_command("train", *arguments, "-o", folder / "model")[0] == 0
    return folder / "model"


def test_a_network_other_than_vgg_is_exported_from_features_only(run, vlad_model, tmp_path):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    status, _, error = run("export", vlad_model, tmp_path / "model.onnx")
    assert status == 2
    assert "--from-features" in error


def test_export_writes_a_graph(run, vlad_model, tmp_path):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    status, printed, _ = run("export", vlad_model, tmp_path / "model.onnx", "--from-features")
    assert status == 0
    assert "from descriptors (batch, n, " in printed
    assert (tmp_path / "model.onnx").stat().st_size > 1000


def test_show_prints_the_card_of_a_model(run, vlad_model):
    status, printed, _ = run("show", vlad_model)
    assert status == 0
    found = json.loads(printed)
    assert found["classes"] == ["lying", "upright"]
    parameters = found["card"].pop("parameters")
    assert (parameters["model"], parameters["encode"]) == ("mobilenetv2", found["card"]["encode"])
    assert found["card"] == {
        "images": "images",
        "n_images": 12,
        "n_skipped": 0,
        "n_damaged": 0,
        "seed": 0,
        "encode": "vlad3",
        "C": 1.0,
        "class_weight": None,
        "calibration": "platt",
        "threshold": None,
    }


@pytest.mark.parametrize("command", ["train", "export"])
def test_a_file_of_another_kind_is_not_replaced(run, images, vlad_model, tmp_path, command):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    picture = tmp_path / "a.png"
    picture.write_bytes(next(images.rglob("*.png")).read_bytes())
    before = picture.read_bytes()
    words = ["train", images, "--output", picture] if command == "train" else ["export", vlad_model, picture]
    status, _, error = run(*words)
    assert (status, "is not replaced" in error) == (2, True)
    assert picture.read_bytes() == before


def test_an_export_does_not_replace_its_model(run, vlad_model):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    before = vlad_model.read_bytes()
    status, _, error = run("export", vlad_model, vlad_model)
    assert (status, "is no ONNX model" in error) == (2, True)
    assert vlad_model.read_bytes() == before


def test_a_model_among_the_images_is_refused(run, images):
    status, _, error = run("train", images, "--output", images / "train" / "m.medvlad")
    assert (status, "choose a folder outside" in error) == (2, True)


def test_a_folder_is_no_model(run, tmp_path):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    status, _, error = run("export", tmp_path, tmp_path / "model.onnx")
    assert (status, "is a folder" in error) == (2, True)
