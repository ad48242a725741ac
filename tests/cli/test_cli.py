"""The command line from outside: what it prints, writes, and returns."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from medvlad import InputError, __version__
from medvlad.cli.doctor import diagnose
from medvlad.extraction.network import import_keras

NETWORK = ["--model", "mobilenetv2", "--layer", "out_relu"]


@pytest.fixture
def weights(small_weights):
    return small_weights


def stripes(rng, upright):
    """An image of noisy stripes; their direction is the class."""
    wave = 100 + 80 * np.sin(np.arange(64) / 2 + rng.uniform(0, 6))
    pixels = np.broadcast_to(wave if upright else wave[:, None], (64, 64)) + rng.normal(0, 8, (64, 64))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.fixture
def images(tmp_path, rng):
    """A folder of train and test images of two classes."""
    for part, n in (("train", 6), ("test", 4)):
        for name, upright in (("lying", False), ("upright", True)):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                stripes(rng, upright).save(folder / f"{i}.png")
    return tmp_path / "images"


def test_evaluate_writes_everything(run, images, weights, tmp_path):
    out = tmp_path / "out"
    arguments = ["evaluate", images, *NETWORK, "--weights", weights, "--encode", "avg,vlad4", "--out", out]
    status, printed, error = run(*arguments, "--scale", "0", "--seed", "3", "--positive", "upright")
    assert (status, error) == (0, "")
    report = json.loads((out / "results.json").read_text())
    assert [r["encode"] for r in report["results"]] == ["avg", "vlad4"]
    for r in report["results"]:
        assert r["scales"] == [0]
        assert r["parameters"]["classify"]["C"] == 1.0
        assert ("tol" in r["parameters"]["encode"]) == (r["encode"] == "vlad4")
        low, high = r["accuracy_ci95"]
        assert 0 <= low <= r["accuracy"] <= high <= 1
        for name in ("balanced_accuracy", "auc", "sensitivity", "specificity"):
            assert 0 <= r[name] <= 1
        assert r["per_class"].keys() == {"lying", "upright"}
        assert r["seconds"]["extract"] > 0
        assert f"{r['accuracy']:.3f}" in printed
        assert (r["n_train"], r["n_test"]) == (12, 8)
        assert r["bootstrap_of"] == "images"
        for name, (low, high) in r["bootstrap_ci95"].items():
            assert low <= r[name] <= high
    (pair,) = report["comparisons"]
    assert (pair["first"], pair["second"]) == ("avg", "vlad4")
    assert f"McNemar's p {pair['mcnemar_p']:.2g}" in printed
    assert "No patients are known" in printed
    settings = report["settings"]
    assert settings["seed"] == 3
    assert settings["model"] == "mobilenetv2"
    assert settings["resize"] == "bilinear"
    assert settings["preset"] == "paper"
    assert report["warnings"] == []
    assert "Sensitivity is that of upright" in printed
    assert len(settings["weights_fingerprint"]) == 64
    assert report["versions"]["medvlad"]
    status, printed, _ = run(*arguments, "--adapt-threshold")
    assert status == 0
    assert "avg: no threshold in the unlabelled test images" in printed
    status, _, error = run(
        *arguments[:1], images / "train", *arguments[2:], "--adapt-threshold", "--folds", "3"
    )
    assert status == 2
    assert "needs a data set with two classes and a test part" in error
    run(*arguments[:-1], tmp_path / "again", "--seed", "3", "--positive", "upright")
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    for one, two in zip(report["results"], again["results"], strict=True):
        one.pop("seconds"), two.pop("seconds")
    assert report == again


@pytest.mark.slow
def test_preset_best(run, images, weights, tmp_path):
    """Its settings, and what the user gave before them; a report that can be looked at."""
    out = tmp_path / "out"
    arguments = [
        "evaluate",
        images,
        *NETWORK,
        "--weights",
        weights,
        "--preset",
        "best",
        "--encode",
        "vlad3,avg",
    ]
    status, printed, error = run(*arguments, "--class-weight", "none", "--out", out)
    assert status == 0, error
    report = json.loads((out / "results.json").read_text())
    vlad = report["results"][0]
    assert [vlad["parameters"]["encode"][name] for name in ("power", "intra_norm")] == [0.5, False]
    assert vlad["scales"] == report["settings"]["scales"] == [0, 1]
    assert vlad["parameters"]["descriptors"]["l2_norm"] is True
    assert vlad["parameters"]["classify"]["class_weight"] is None
    assert len(vlad["C"]) == len(vlad["inner_balanced_accuracy"]) == 1
    assert vlad["parameters"]["classify"]["C"] == report["settings"]["C"] == "cv"
    assert report["settings"]["preset"] == "best"
    for figure in ("sensitivity", "specificity"):
        low, high = vlad[f"{figure}_ci95"]
        assert low <= vlad[figure] <= high
    assert 0 <= vlad["calibration"]["brier"] <= 2
    assert vlad["adapted"].keys() >= {"threshold"}
    rows = (out / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 8
    assert rows[0].startswith("encode,image,patient,truth,decided,decision lying")
    if find_spec("matplotlib") is None:
        assert "No report.html was written" in printed
        return
    page = (out / "report.html").read_text()
    for part in ("Confusion matrix", "ROC", "Calibration", "What the clusters look like", "Versions"):
        assert part in page
    assert {path.name for path in (out / "figures").iterdir()} >= {
        "vlad3-roc.png",
        "vlad3-clusters.png",
        "avg-roc.png",
    }
    assert run(*arguments[:-1], "max", "--out", out)[0] == 0
    assert all(path.name.startswith("max-") for path in (out / "figures").iterdir())


def test_nothing_is_written_among_the_images(run, images, weights, tmp_path):
    """There it would be a class the next time."""
    network = [*NETWORK, "--weights", weights]
    before = sorted(images.rglob("*"))
    for command in (
        ["evaluate", images, *network, "--out", images / "results"],
        ["evaluate", images, *network, "--out", images],
        ["evaluate", images, *network, "--store", images / "store"],
        ["extract", images, *network, "--store", images / "train" / "store"],
        ["train", images, *network, "--store", images / "store", "-o", tmp_path / "model"],
        ["audit", images, "--out", images / "audit"],
        ["paper", "--like-mini-mit", images, *network, "--out", images / "paper"],
    ):
        status, _, error = run(*command)
        assert status == 2, command
        assert f"lies in the image folder {images}" in error
    assert sorted(images.rglob("*")) == before


def test_patients_by_a_pattern(run, images, weights, tmp_path):
    for path in list(images.rglob("*.png")):
        path.rename(path.with_name(f"case{int(path.stem) // 2}x{path.parent.parent.name}_{path.name}"))
    network = [*NETWORK, "--weights", weights, "--encode", "avg"]
    arguments = ["evaluate", images, *network, "--out", tmp_path / "out"]
    assert run(*arguments)[0] == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["dataset"]["n_groups"] is None
    status, printed, _ = run(*arguments, "--patient", "(case[0-9]+)x")
    assert status == 0
    assert "of 3 patients" in printed
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert report["dataset"]["n_groups"] == 3
    assert report["settings"]["group_pattern"] == "(case[0-9]+)x"
    # The same patients are in both parts, and that is kept with the results.
    assert any("too optimistic" in warning for warning in report["warnings"])
    if find_spec("matplotlib") is not None:
        assert "too optimistic" in (tmp_path / "out" / "report.html").read_text()
    status, _, error = run(*arguments, "--patient", "(case", "--layout", "folder")
    assert (status, "not a regular expression" in error) == (2, True)
    status, _, error = run(*arguments, "--patient", "(case)", "--layout", "chest-xray")
    assert (status, "already defines the patients" in error) == (2, True)


def test_a_class_without_test_images_is_told(run, images, weights, caplog):
    shutil.rmtree(images / "test" / "upright")
    assert run("evaluate", images, *NETWORK, "--weights", weights, "--encode", "avg")[0] == 0
    assert "the test part has no image of upright" in caplog.text


@pytest.mark.slow
def test_compare_runs(run, images, weights, tmp_path):
    """Two runs compared afterwards are what one run says of both."""
    arguments = ["evaluate", images, *NETWORK, "--weights", weights]
    for encode in ("avg", "max", "avg,max"):
        assert run(*arguments, "--encode", encode, "--out", tmp_path / encode)[0] == 0
    (inside,) = json.loads((tmp_path / "avg,max" / "results.json").read_text())["comparisons"]
    status, printed, _ = run("compare", tmp_path / "avg", tmp_path / "max", "--json")
    assert status == 0
    found = json.loads(printed)
    for name in ("only_first", "only_second", "mcnemar_p", "difference", "difference_ci95"):
        assert found[name] == inside[name]
    for both in ("max,max", "max"):
        status, printed, _ = run("compare", tmp_path / "avg,max", tmp_path / "max", "--encode", both)
        assert status == 0
        assert "8 images, 95 % intervals by images" in printed
        for name in ("accuracy", "balanced accuracy", "auc"):
            assert f"{name} +0.000 (+0.000 to +0.000)" in printed
    for wrong, told in (
        ([tmp_path / "avg,max", tmp_path / "max"], "holds several encodings"),
        ([tmp_path, tmp_path / "max"], "no predictions.csv"),
        ([tmp_path / "avg,max", tmp_path], f"{tmp_path} holds no predictions.csv"),
        ([tmp_path / "avg", tmp_path / "max", "--encode", "vlad4,max"], "holds no encoding"),
    ):
        status, _, error = run("compare", *wrong)
        assert status == 2
        assert told in error
    table = tmp_path / "max" / "predictions.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    status, _, error = run("compare", tmp_path / "avg", tmp_path / "max")
    assert status == 2
    assert "other test images" in error


def test_c_is_a_number_or_cv(run, images, weights):
    status, _, error = run("evaluate", images, *NETWORK, "--weights", weights, "--C", "much")
    assert status == 2
    assert "--C takes a number above 0, or cv, got 'much'" in error


@pytest.mark.slow
def test_train_with_a_preset(run, images, weights, tmp_path):
    model = tmp_path / "model"
    arguments = ["train", images, *NETWORK, "--weights", weights, "--preset", "best", "--encode", "vlad3"]
    status, _, error = run(*arguments, "--pca", "4", "--vocabularies", "2", "--mirror", "-o", model)
    assert status == 0, error
    status, printed, _ = run(
        "predict", model, images / "test" / "upright" / "0.png", "--explain", tmp_path / "maps"
    )
    assert status == 0
    assert "to first order" in printed
    assert "Predictions and their evidence" in (tmp_path / "maps" / "explain.html").read_text()
    assert (tmp_path / "maps" / "0_0.png").is_file()


def test_tiles(run, images, weights, tmp_path):
    model = tmp_path / "model"
    arguments = ["train", images, *NETWORK, "--weights", weights, "--encode", "avg"]
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


def test_train_takes_one_encoding(run, images, weights, tmp_path):
    arguments = ["train", images, *NETWORK, "--weights", weights, "--encode", "avg, vlad3"]
    status, _, error = run(*arguments, "-o", tmp_path / "model")
    assert status == 2
    assert "--encode takes one encoding here, got 'avg, vlad3': '+' between joins their vectors" in error


def test_export(run, images, weights, tmp_path):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    model, graph = tmp_path / "model", tmp_path / "model.onnx"
    assert run("train", images, *NETWORK, "--weights", weights, "--encode", "vlad3", "-o", model)[0] == 0
    status, _, error = run("export", model, graph)
    assert status == 2
    assert "from_features=True" in error.replace("--from-features", "from_features=True")
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


def test_paper(run, images, weights, tmp_path):
    options = [*NETWORK, "--weights", weights, "--scale", "0", "--out", tmp_path / "out"]
    many = images.parent / "many"
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name, upright in (("lying", False), ("upright", True)):
            (many / part / name).mkdir(parents=True)
            for i in range(3):
                stripes(rng, upright).save(many / part / name / f"{i}.png")
    status, printed, error = run("paper", "--like-chest-xray", many, *options)
    assert status == 0, error
    found = json.loads((tmp_path / "out" / "paper.json").read_text())
    assert [(c["encode"], c["paper"]) for c in found["cells"]] == [
        ("avg", 0.8),
        ("vlad64", 0.77),
        ("vlad256", 0.78),
    ]
    assert all(cell["stands_in"] for cell in found["cells"])
    assert "many, for Chest X-ray" in printed
    assert "not of the paper's VGG19" in printed
    assert "stand-in" in (tmp_path / "out" / "paper.html").read_text()
    (many / "train" / "lying" / "smith.png").write_bytes(b"no image")
    arguments = ["paper", "--like-chest-xray", many, *options, "--on-error", "skip", "--anonymise"]
    status, _, error = run(*arguments)
    assert (status, "give a new or an empty folder" in error) == (2, True)
    shutil.rmtree(tmp_path / "out")
    status, printed, error = run(*arguments)
    assert status == 1
    assert "skipped: image image-" in error
    written = [(tmp_path / "out" / name).read_text() for name in ("paper.json", "paper.html")]
    everything = "\n".join([printed, error, *written]).replace(str(tmp_path / "out"), "")
    for name in ("many, for", "smith", str(images.parent)):
        assert name not in everything
    cell = json.loads(written[0])["cells"][0]
    assert cell == found["cells"][0] | {"data": "other images, for Chest X-ray"}
    assert run("paper", *options)[0] == 2
    status, _, error = run("paper", "--chest-xray", many, *options)
    assert status == 2
    assert "Traceback" not in error


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
def test_file_names_that_are_no_text(run, images, weights, tmp_path):
    for part in ("train", "test"):
        odd = os.fsdecode(os.fsencode(images / part / "upright") + b"/\xff.png")
        shutil.copy(images / part / "upright" / "0.png", odd)
    options = [*NETWORK, "--weights", weights, "--encode", "avg"]
    status, _, error = run("evaluate", images, *options, "--out", tmp_path / "out")
    assert status == 0, error
    status, _, error = run("compare", tmp_path / "out", tmp_path / "out")
    assert status == 0, error
    status, _, error = run("audit", images, "--out", tmp_path / "out")
    assert status == 0, error
    assert (tmp_path / "out" / "audit.html").is_file()


def test_audit(run, images, tmp_path):
    copied = images / "test" / "upright" / "copied.png"
    copied.write_bytes((images / "train" / "upright" / "0.png").read_bytes())
    status, printed, _ = run("audit", images, "--out", tmp_path / "out")
    assert status == 0
    assert "error: " in printed
    assert "copied.png" in printed
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert any(
        one["kind"].startswith("identical") and one["severity"] == "error" for one in found["findings"]
    )
    assert "copied.png" in (tmp_path / "out" / "audit.html").read_text()
    (images / "train" / "lying" / "bad.png").write_bytes(b"no image")
    status, printed, _ = run("audit", images, "--json")
    assert status == 1
    assert json.loads(printed)["n_read"] == json.loads(printed)["n_images"] - 1


def test_cross_validation_without_a_test_part(run, images, weights):
    status, printed, _ = run(
        "evaluate", images / "train", *NETWORK, "--weights", weights, "--encode", "avg", "--folds", 3
    )
    assert status == 0
    assert "3-fold cross-validation" in printed


@pytest.mark.parametrize(
    ("encode", "power", "how"), [("avg", "1", "exactly"), ("vlad3", "0.5", "to first order")]
)
@pytest.mark.slow
def test_train_and_predict(run, images, weights, tmp_path, encode, power, how):
    model = tmp_path / "model.medvlad"
    learning = ["--encode", encode, "--power", power]
    status, printed, _ = run("train", images, *NETWORK, "--weights", weights, *learning, "-o", model)
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
    shutil.copy(weights, moved)
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


def test_extract_and_store(run, images, weights, tmp_path, monkeypatch):
    """Descriptors are made once, whoever asks; the store can be listed, verified and mended."""
    folder = tmp_path / "store"
    network = [*NETWORK, "--weights", weights, "--store", folder]
    status, printed, error = run("extract", images, *network)
    assert (status, error) == (0, "")
    assert printed == f"20 images, 20 of them extracted now; store: {folder}\n"
    assert "20 images, 0 of them" in run("extract", images, *network)[1]
    status, printed, _ = run("store", "ls", folder)
    assert status == 0
    assert printed.startswith("20 images, ")
    assert "layer out_relu, model mobilenetv2" in printed
    assert run("store", "verify", folder) == (0, "20 images, nothing is damaged\n", "")
    with monkeypatch.context() as patch:
        patch.setattr(
            "medvlad.extraction.cnn_descriptors.make_engine", lambda *_, **__: None
        )  # the network is not asked
        status, table, _ = run("evaluate", images, *network, "--encode", "avg,vlad4")
    assert status == 0
    assert table == run("evaluate", images, *network[:-2], "--encode", "avg,vlad4")[1]
    (shard,) = folder.glob("*/*.shard")
    content = bytearray(shard.read_bytes())
    content[-9] ^= 1
    shard.write_bytes(content)
    status, printed, error = run("store", "verify", folder)
    assert (status, printed) == (2, "20 images, 1 damaged; 'medvlad store gc' removes them\n")
    assert "is damaged" in error
    assert "20 images, 1 of them" in run("extract", images, *network)[1]
    assert run("store", "gc", folder)[0] == 0
    assert run("store", "verify", folder)[0] == 0


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")
def test_evaluate_finds_what_extract_calibrated(run, images, tmp_path, monkeypatch):
    """int8's ranges are a setting of the store: both commands must take them from the same images."""
    network = import_keras().applications.VGG16(weights=None, include_top=False)
    network.save_weights(tmp_path / "vgg16.weights.h5")
    (images / "val" / "upright").mkdir(parents=True)
    shutil.copy(images / "train" / "upright" / "0.png", images / "val" / "upright" / "v.png")
    (images / "val" / "lying").mkdir()
    shutil.copy(images / "train" / "lying" / "0.png", images / "val" / "lying" / "v.png")
    options = ["--model", "vgg16", "--layer", "block1_pool", "--weights", tmp_path / "vgg16.weights.h5"]
    options += ["--dtype", "int8", "--store", tmp_path / "store"]
    assert run("extract", images, *options)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(
            "medvlad.extraction.cnn_descriptors.make_engine", lambda *_, **__: None
        )  # the network is not asked
        status, _, error = run("evaluate", images, *options, "--encode", "avg", "--out", tmp_path / "out")
    assert (status, error) == (0, "")
    settings = json.loads((tmp_path / "out" / "results.json").read_text())["settings"]
    assert settings["ranges"].keys() == {"input", "block1_conv1", "block1_conv2"}


@pytest.mark.slow
def test_results_do_not_depend_on_the_store(run, images, weights, tmp_path, monkeypatch):
    """Descriptors are read block by block; one image cannot be read at all."""
    monkeypatch.setattr("medvlad.experiment._IN_MEMORY", 0)
    monkeypatch.setattr("medvlad.store.stored_descriptors.StoredDescriptors.blocks.__defaults__", (300_000,))
    (images / "train" / "lying" / "bad.png").write_bytes(b"no image")
    options = [*NETWORK, "--weights", weights, "--on-error", "skip"]
    found = {}
    for name, store in (("without", []), ("with", ["--store", tmp_path / "store"])):
        out = tmp_path / name
        assert run("evaluate", images, *options, *store, "--encode", "avg,vlad4", "--out", out)[0] == 1
        found[name] = json.loads((out / "results.json").read_text())
        for result in found[name]["results"]:
            del result["seconds"]
        model = tmp_path / f"{name}.medvlad"
        assert run("train", images, *options, *store, "--encode", "vlad4", "-o", model)[0] == 1
    assert found["with"] == found["without"]
    assert len(found["with"]["skipped"]) == 1
    assert (tmp_path / "with.medvlad").read_bytes() == (tmp_path / "without.medvlad").read_bytes()


def test_mistakes_about_stores(run, images, tmp_path):
    for arguments, sentence in (
        (["extract", images], "extract needs --store"),
        (["extract", images, "--store", images], "whose folders and images are read"),
        (["extract", images, "--store", images.parent], "is a folder of something else"),
        (["store", "ls", tmp_path / "none"], "is no descriptor store"),
        (["store", "verify", images], "is no descriptor store"),
    ):
        status, printed, error = run(*arguments)
        assert (status, printed) == (2, "")
        assert sentence in error
        assert error.count("\n") == 1
    (tmp_path / "empty").mkdir()
    assert "there is no image in" in run("extract", tmp_path / "empty", "--store", tmp_path / "s")[2]


def test_weights_of_another_training_are_refused(run, images, weights, tmp_path):
    keras = pytest.importorskip("keras")
    model = tmp_path / "model.medvlad"
    run("train", images, *NETWORK, "--weights", weights, "--encode", "avg", "-o", model)
    keras.utils.set_random_seed(1)
    other = tmp_path / "other.weights.h5"
    keras.applications.MobileNetV2(weights=None, include_top=False).save_weights(other)
    status, _, error = run("predict", model, next(images.rglob("*.png")), "--weights", other)
    assert status == 2
    assert "are not those that" in error


def test_skip_lists_what_was_skipped(run, images, weights, tmp_path):
    bad = images / "train" / "lying" / "broken.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    arguments = [images, *NETWORK, "--weights", weights, "--encode", "avg"]
    status, _, error = run("evaluate", *arguments)
    assert status == 2
    assert "broken.png" in error
    status, printed, error = run("evaluate", *arguments, "--on-error", "skip", "--out", tmp_path / "out")
    assert status == 1
    assert "12 training and 8 test images" in printed
    assert "skipped" in error
    assert "broken.png" in error
    skipped = json.loads((tmp_path / "out" / "results.json").read_text())["skipped"]
    assert [item["image"] for item in skipped] == [str(bad)]
    model = tmp_path / "m"
    assert run("train", *arguments[:-1], "avg", "--on-error", "skip", "-o", model)[0] == 1
    status, printed, _ = run(
        "predict", model, bad, images / "test" / "lying" / "0.png", "--on-error", "skip", "--json"
    )
    assert status == 1
    assert len(json.loads(printed)["predictions"]) == 1
    assert run("predict", model, bad)[0] == 2


MISTAKES = {
    "no folder": (["evaluate", "nowhere"], "nowhere"),
    "no model": (["predict", "missing.model", "a.png"], "missing.model"),
    "model is a folder": (["predict", ".", "a.png"], "folder"),
    "unknown encoding": (["evaluate", "{images}", "--encode", "fisher"], "fisher"),
    "unknown model": (["evaluate", "{images}", "--model", "vgg18"], "vgg18"),
    "unknown layer": (
        ["evaluate", "{images}", *NETWORK[:2], "--layer", "block9", "--weights", "{weights}"],
        "block9",
    ),
    "no weights file": (["evaluate", "{images}", *NETWORK, "--weights", "gone.h5"], "gone.h5"),
    "weights of another network": (
        ["evaluate", "{images}", "--model", "vgg16", "--weights", "{weights}"],
        "mobilenetv2",
    ),
    "scale": (["evaluate", "{images}", "--scale", "big"], "big"),
    "negative scale": (["evaluate", "{images}", *NETWORK, "--weights", "{weights}", "--scale", "-1"], "-1"),
    "C": (["evaluate", "{images}", *NETWORK, "--weights", "{weights}", "--C", "0"], "C must"),
    "power": (
        ["evaluate", "{images}", *NETWORK, "--weights", "{weights}", "--power", "2", "--encode", "vlad2"],
        "power",
    ),
    "resize": (["evaluate", "{images}", *NETWORK, "--weights", "{weights}", "--resize", "magic"], "magic"),
    "backend": (
        ["evaluate", "{images}", *NETWORK, "--weights", "{weights}", "--backend", "gpu", "--encode", "vlad2"],
        "gpu",
    ),
    "layout": (["evaluate", "{images}", "--layout", "tree"], "tree"),
    "positive class": (
        ["evaluate", "{images}", *NETWORK, "--weights", "{weights}", "--positive", "sitting"],
        "sitting",
    ),
    "too many clusters": (
        ["evaluate", "{images}", *NETWORK, "--weights", "{weights}", "--encode", "vlad9999"],
        "9999",
    ),
    "no folder for the model": (["train", "{images}", "-o", "no/such/model"], "no/such"),
    "one class": (["evaluate", "{images}/train/upright"], "class"),
    "unknown option": (["evaluate", "{images}", "--speed", "9"], "--speed"),
    "no command": (["classify"], "classify"),
    "seed": (["evaluate", "{images}", "--seed", "-1"], "seed must be"),
    "threads": (["evaluate", "{images}", "--threads", "99999999999"], "99999999999"),
    "folds": (["evaluate", "{images}", "--folds", "0"], "folds"),
    "power is not a number": (["evaluate", "{images}", "--power", "nan"], "power"),
    "batch size": (
        ["evaluate", "{images}", *NETWORK, "--weights", "{weights}", "--batch-size", "0"],
        "batch_size",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_in_one_sentence(run, images, weights, mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, named = MISTAKES[mistake]
    arguments = [a.format(images=images, weights=weights) for a in arguments]
    status, printed, error = run(*arguments)
    assert status == 2, error
    assert named in error
    assert "Traceback" not in printed + error
    if "Usage:" not in error:
        assert error.startswith("medvlad: ")
        assert error.count("\n") == 1, error


@pytest.mark.parametrize(
    "option", ["--C=0", "--backend=gpu", "--threads=0", "--power=2", "--folds=0", "--seed=-1"]
)
def test_settings_are_checked_before_the_long_work(run, images, monkeypatch, option):
    def too_late(*args):
        raise AssertionError("extraction began")

    monkeypatch.setattr("medvlad.experiment._extract", too_late)
    status, _, error = run("evaluate", images, *NETWORK, option)
    assert status == 2
    assert error.startswith("medvlad: ")


def test_a_train_part_without_a_test_part(run, images, monkeypatch):
    pytest.importorskip("keras", reason="needs the extra tensorflow")
    monkeypatch.setattr("medvlad.experiment._extract", None)
    shutil.rmtree(images / "test")
    status, _, error = run("evaluate", images, *NETWORK)
    assert status == 2
    assert "there is a train part but no test part" in error


def test_positive_needs_two_classes(run, images, rng, monkeypatch):
    stripes(rng, True).save(images / "train" / "lying" / "x.png")
    for part in ("train", "test"):
        shutil.copytree(images / part / "lying", images / part / "third")
    status, _, error = run("evaluate", images, "--positive", "third")
    assert status == 2
    assert "needs a data set with two classes, this one has 3" in error


def test_results_that_cannot_be_written_are_told_first(run, images, tmp_path, monkeypatch):
    (tmp_path / "out" / "results.json").mkdir(parents=True)
    monkeypatch.setattr("medvlad.experiment.Experiment.load", None)
    status, _, error = run("evaluate", images, "--out", tmp_path / "out")
    assert status == 2
    assert "results.json is a folder" in error


def test_unknown_keras_backend(tmp_path, images):
    pytest.importorskip("keras", reason="needs the extra tensorflow")
    done = subprocess.run(
        [sys.executable, "-c", "from medvlad.cli import main; main()", "evaluate", str(images)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"KERAS_BACKEND": "foo"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("medvlad: Keras cannot start")
    assert done.stderr.count("\n") == 1


def test_out_is_a_file(run, images, weights, tmp_path):
    blocker = tmp_path / "taken"
    blocker.write_text("")
    status, _, error = run(
        "evaluate", images, *NETWORK, "--weights", weights, "--encode", "avg", "--out", blocker
    )
    assert status == 2
    assert "taken" in error


@pytest.mark.filterwarnings("always:the clusters")
def test_warnings_are_one_line(run, images, monkeypatch):
    """The reader sees what is the matter, not where in the code."""

    def warn(*args):
        warnings.warn("the clusters are few", UserWarning, stacklevel=1)
        raise InputError("enough")

    monkeypatch.setattr("medvlad.experiment.Experiment.load", warn)
    status, _, error = run("evaluate", images)
    assert status == 2
    assert error.splitlines() == ["medvlad: the clusters are few", "medvlad: enough"]


def test_out_of_memory_is_told(run, images, monkeypatch):
    def exhausted(*args, **kwargs):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr("medvlad.experiment.Experiment.load", exhausted)
    status, _, error = run("evaluate", images)
    assert status == 2
    assert error.startswith("medvlad: not enough memory (Unable to allocate 9 TiB)")


def test_python_m_medvlad():
    command = [sys.executable, "-m", "medvlad", "--version"]
    assert __version__ in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_doctor(run):
    status, printed, _ = run("doctor")
    assert status == 0
    status, as_json, _ = run("doctor", "--json")
    found = json.loads(as_json)
    assert found["backends"]["reference"] == "ok"
    assert found["threads"] >= 1
    assert found.keys() >= {"versions", "backends", "instruction_set", "threads", "gpu", "weights"}
    assert found["versions"]["numpy"] in printed
    extras = "tensorflow openvino medical offline onnx distributed demo report fetch"
    assert " ".join(found["extras"]) == extras


def test_doctor_names_missing_extras(monkeypatch):
    required = [
        "numpy",
        'scipy>=1; extra == "a"',
        "nonesuch-1.x>=3; extra == 'b-c'",
        'nonesuch; extra == "test"',
        'nonesuch; python_version < "3.0" and extra == "a"',
    ]
    monkeypatch.setattr("medvlad.cli.doctor.metadata.requires", lambda _: required)
    found = diagnose()["extras"]
    assert found == {"a": "installed", "b-c": "without nonesuch-1.x: pip install 'medvlad[b-c]'"}


def test_as_a_process(tmp_path):
    """The installed command, from another folder: plain output, no traceback, the right status."""
    done = subprocess.run(
        [sys.executable, "-c", "from medvlad.cli import main; main()", "evaluate", "nowhere"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("medvlad: ")
    assert len(done.stderr.splitlines()) == 1
