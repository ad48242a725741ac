"""X."""

import json
import shutil

import pytest
from PIL import Image
from support.striped_images import NETWORK, write_striped_images


@pytest.fixture
def images(tmp_path, rng):
    return write_striped_images(tmp_path / "images", rng)


@pytest.mark.slow
def test_train_with_a_preset(run, images, small_weights, tmp_path):
    model = tmp_path / "model"
    arguments = [
        "train",
        images,
        *NETWORK,
        "--weights",
        small_weights,
        "--preset",
        "best",
        "--encode",
        "vlad3",
    ]
    status, _, error = run(*arguments, "--pca", "4", "--vocabularies", "2", "--mirror", "-o", model)
    assert status == 0, error
    status, printed, _ = run(
        "predict", model, images / "test" / "upright" / "0.png", "--explain", tmp_path / "maps"
    )
    assert status == 0
    assert "to first order" in printed
    assert "Predictions and their evidence" in (tmp_path / "maps" / "explain.html").read_text()
    assert (tmp_path / "maps" / "0_0.png").is_file()


def test_tiles(run, images, small_weights, tmp_path):
    model = tmp_path / "model"
    arguments = ["train", images, *NETWORK, "--weights", small_weights, "--encode", "avg"]
    status, _, error = run(*arguments, "--tiles", "1x1,2x2", "--mirror", "-o", model)
    assert status == 0, error
    image = images / "test" / "upright" / "0.png"
    status, printed, error = run("predict", model, image, "--explain", tmp_path / "maps")
    assert status == 0, error
    assert "split over the image exactly" in printed
    for wrong in ("2y2", "0x1", "1x1,,2"):
        status, _, error = run(*arguments, "--tiles", wrong, "-o", model)
        assert status == 2
        assert f"--tiles takes levels such as 1x1,2x2, up to 99x99, got '{wrong}'" in error


def test_train_takes_one_encoding(run, images, small_weights, tmp_path):
    arguments = ["train", images, *NETWORK, "--weights", small_weights, "--encode", "avg, vlad3"]
    status, _, error = run(*arguments, "-o", tmp_path / "model")
    assert status == 2
    assert "--encode takes one encoding here, got 'avg, vlad3': '+' between joins their vectors" in error


@pytest.mark.parametrize(
    ("encode", "power", "how"), [("avg", "1", "exactly"), ("vlad3", "0.5", "to first order")]
)
@pytest.mark.slow
def test_train_and_predict(run, images, small_weights, tmp_path, encode, power, how):
    model = tmp_path / "model.medvlad"
    learning = ["--encode", encode, "--power", power]
    status, printed, _ = run("train", images, *NETWORK, "--weights", small_weights, *learning, "-o", model)
    assert status == 0
    assert "trained on 12 images" in printed
    files = sorted((images / "test").rglob("*.png"))
    status, printed, error = run("predict", model, *files, "--json")
    assert (status, error) == (0, "")
    predictions = json.loads(printed)["predictions"]
    assert [p["image"] for p in predictions] == [str(f) for f in files]
    for p in predictions:
        assert p["scores"].keys() == {"lying", "upright"}
        assert p["label"] == max(p["scores"], key=p["scores"].get)
    right = sum(p["label"] in p["image"] for p in predictions)
    assert right >= 6
    moved = tmp_path / "elsewhere.weights.h5"
    shutil.copy(small_weights, moved)
    status, table, _ = run("predict", model, files[0], "--weights", moved)
    assert status == 0
    assert f"{files[0]}  {predictions[0]['label']}" in table
    status, table, _ = run("predict", model, *files[:2], "--explain", tmp_path / "maps" / "new")
    assert status == 0
    assert f"split over the image {how}" in table
    pictures = sorted((tmp_path / "maps" / "new").glob("*.png"))
    assert [p.name for p in pictures] == [f"{i}_{files[i].stem}.png" for i in range(2)]
    with Image.open(pictures[0]) as picture:
        assert picture.size[0] > 2 * 400
    _, printed, _ = run("predict", model, *files[:2], "--explain", tmp_path / "maps", "--json")
    assert [p["evidence"] for p in json.loads(printed)["predictions"]] == [p.name for p in pictures]
    (tmp_path / "file").touch()
    status, _, error = run("predict", model, files[0], "--explain", tmp_path / "file")
    assert status == 2
    assert "file" in error
    assert "Traceback" not in error


def test_weights_of_another_training_are_refused(run, images, small_weights, tmp_path):
    keras = pytest.importorskip("keras")
    model = tmp_path / "model.medvlad"
    run("train", images, *NETWORK, "--weights", small_weights, "--encode", "avg", "-o", model)
    keras.utils.set_random_seed(1)
    other = tmp_path / "other.weights.h5"
    keras.applications.MobileNetV2(weights=None, include_top=False).save_weights(other)
    status, _, error = run("predict", model, next(images.rglob("*.png")), "--weights", other)
    assert status == 2
    assert "are not those that" in error


def test_export(run, images, small_weights, tmp_path):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    model, graph = tmp_path / "model", tmp_path / "model.onnx"
    assert (
        run("train", images, *NETWORK, "--weights", small_weights, "--encode", "vlad3", "-o", model)[0] == 0
    )
    status, _, error = run("export", model, graph)
    assert status == 2
    assert "--from-features" in error
    status, printed, _ = run("export", model, graph, "--from-features")
    assert status == 0
    assert "from descriptors (batch, n, " in printed
    assert graph.stat().st_size > 1000
    status, printed, _ = run("show", model)
    assert status == 0
    found = json.loads(printed)
    assert found["classes"] == ["lying", "upright"]
    assert found["card"] == {
        "images": "images",
        "n_images": 12,
        "n_skipped": 0,
        "seed": 0,
        "encode": "vlad3",
        "C": 1.0,
        "class_weight": None,
    }
    status, _, error = run("export", images, graph)
    assert (status, "is a folder" in error) == (2, True)
