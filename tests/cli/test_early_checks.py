"""Wrong options are told before the network is loaded, and results of an earlier run are kept."""

import re

import numpy as np
import pytest
from sklearn.pipeline import Pipeline
from support.in_this_process import run_command
from support.striped_images import NETWORK, write_striped_images

from medvlad import GlobalPool, InputError, WideLinearSVC, save_model
from medvlad._util.validate import make_output_folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_striped_images(tmp_path_factory.mktemp("data") / "images", np.random.default_rng(2))


@pytest.fixture(scope="module")
def model(images, tiny_weights):
    file = images.parent / "model"
    words = ["train", images, *NETWORK, "--weights", tiny_weights, "--encode", "avg", "-o", file]
    assert run_command(*words)[0] == 0
    return file


@pytest.fixture
def no_network(monkeypatch):
    def started(*_):
        raise AssertionError("the network was loaded")

    monkeypatch.setattr("medvlad.extraction.keras_startup.start_keras", started)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("evaluate IMAGES --encode vlad64,fischer64", "unknown encoding 'fischer64'"),
        ("evaluate IMAGES --vocabularies 0", "--vocabularies must be an integer"),
        ("evaluate IMAGES --weights gone.h5", "weights file 'gone.h5' does not exist"),
        ("evaluate IMAGES --batch-size 0", "--batch-size must be an integer"),
        ("evaluate IMAGES --scale 12", "12"),
        ("train IMAGES -o new --encode vladd", "unknown encoding 'vladd'"),
        ("train IMAGES -o new --weights gone.h5", "weights file 'gone.h5' does not exist"),
        ("train IMAGES -o new --scale 12", "12"),
        ("extract IMAGES --store new --weights gone.h5", "weights file 'gone.h5' does not exist"),
        ("extract IMAGES --store new --batch-size 0", "--batch-size must be an integer"),
        ("predict MODEL gone.png", "there is no image gone.png: check the path"),
        ("predict MODEL @list", "there is no list of images list: check the path, or write ./@list"),
        ("predict MODEL gone.csv", "there is no image gone.csv: check the path"),
        ("predict MODEL - -", "standard input (-) can be read once only"),
        ("predict MODEL IMAGES --json --format csv", "--json and --format csv contradict each other"),
        ("predict MODEL IMAGES --out MODEL", "is one of the inputs"),
        ("predict MODEL IMAGES --similar 0", "--similar must be an integer of at least 1"),
        ("predict MODEL IMAGES --one-bag", "was trained on images: leave it out"),
        ("predict MODEL IMAGES --explain maps --thumbnails .", "--thumbnails is for feature files"),
        (
            "predict MODEL IMAGES --out -",
            "--out - would be a file of that name: give a path (./- for such a file)",
        ),
        ("evaluate IMAGES --out -", "--out - would be a file of that name"),
        ("train IMAGES -o -", "--output - would be a file of that name: give a path (./- for such a file)"),
        ("export MODEL -", "OUT.onnx - would be a file of that name"),
        ("manifest IMAGES -o -", "--output - would be a file of that name"),
        ("predict MODEL IMAGES --anonymise-key -", "--anonymise-key - would be a file of that name"),
        ("train IMAGES -o MODEL", "exists: name another file, or give --overwrite to replace it"),
        ("train IMAGES -o new --no-similar --similar", "--similar and --no-similar contradict each other"),
        ("train IMAGES -o new --no-similar --similar 5", "--similar and --no-similar contradict each other"),
        ("evaluate IMAGES --mirror --no-mirror", "--mirror and --no-mirror contradict each other: leave one"),
        ("predict MODEL IMAGES --abstain --no-abstain", "--abstain and --no-abstain contradict each other"),
        ("evaluate IMAGES --sweep-layers --out out", "--sweep-layers only prints a table: leave --out out"),
        ("evaluate IMAGES --sweep-layers --learning-curve", "leave --learning-curve out"),
        (
            "evaluate IMAGES --augment shift --learning-curve",
            "trains without shifted copies: leave --augment",
        ),
        (
            "evaluate IMAGES --augment shift --sweep-layers",
            "scored without shifted copies: leave --augment out",
        ),
        ("evaluate IMAGES --sweep-layers --n-seeds 5", "--n-seeds 5: layers are scored with one seed"),
        ("extract IMAGES --store s --workers 2 --scheduler tcp://h:1", "--workers 2 starts workers"),
        ("predict MODEL IMAGES --image-root x", "--image-root is for tables, and no table is given"),
        ("similar MODEL IMAGES --top 0", "--top must be an integer of at least 1"),
        ("similar MODEL gone.png", "there is no image gone.png: check the path"),
        ("predict MODEL a#3", "there is no image a#3"),
        ("predict MODEL IMAGES/train/lying/1.png --weights gone.h5", "'gone.h5' does not exist"),
        ("similar MODEL IMAGES/train/lying/1.png --weights gone.h5", "'gone.h5' does not exist"),
        ("external MODEL IMAGES --weights gone.h5", "'gone.h5' does not exist"),
        ("export MODEL new.onnx --weights gone.h5", "'gone.h5' does not exist"),
    ],
)
def test_a_wrong_option_is_told_before_the_network_is_loaded(
    run, images, model, no_network, tmp_path, monkeypatch, words, told
):
    monkeypatch.chdir(tmp_path)
    words = [one.replace("IMAGES", str(images)).replace("MODEL", str(model)) for one in words.split()]
    status, printed, error = run(*words)
    assert (status, printed) == (2, "")
    assert told in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_switch_may_be_named_after_two_dashes(run, model, tmp_path, monkeypatch):
    """What follows -- is a file name."""
    monkeypatch.chdir(tmp_path)
    status, _, error = run("predict", model, "--abstain", "--", "--no-abstain")
    assert (status, "there is no image --no-abstain" in error) == (2, True)


def test_a_model_is_replaced_only_if_wished(run, images, tiny_weights, model, tmp_path):
    file = tmp_path / "model"
    file.write_bytes(model.read_bytes())
    words = ["train", images, *NETWORK, "--weights", tiny_weights, "--encode", "max", "-o", file]
    assert run(*words)[0] == 2
    assert file.read_bytes() == model.read_bytes()
    status, printed, _ = run(*words, "--overwrite")
    assert (status, f"trained on 12 images; replaced {file}" in printed) == (0, True)
    assert file.read_bytes() != model.read_bytes()
    empty = tmp_path / "empty"
    empty.touch()
    status, printed, _ = run(*words[:-1], empty)
    assert (status, f"wrote {empty}" in printed) == (0, True)


def test_an_exported_file_is_replaced_only_if_wished(run, tmp_path, rng):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    x = rng.normal(size=(12, 9, 5)).astype(np.float32)
    fitted = Pipeline([("avg", GlobalPool()), ("svm", WideLinearSVC())]).fit(x, ["a", "b"] * 6)
    save_model(fitted, tmp_path / "model")
    words = ["export", tmp_path / "model", tmp_path / "a.onnx", "--from-features"]
    assert run(*words)[0] == 0
    status, _, error = run(*words)
    assert (status, "exists: name another file, or give --overwrite" in error) == (2, True)
    status, printed, _ = run(*words, "--overwrite")
    assert (status, printed.startswith("replaced ")) == (0, True)


def test_a_missing_image_may_be_skipped(run, model, images):
    good = next((images / "test").rglob("*.png"))
    status, printed, error = run("predict", model, "gone.png", good, "--on-error", "skip")
    assert status == 1
    assert len(printed.splitlines()) == 1
    assert "skipped: " in error


def test_extract_counts_what_the_store_holds(run, images, tiny_weights, tmp_path):
    """Twenty images, two copies and a file that cannot be read."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i, file in enumerate(sorted(images.rglob("*.png"))):
        (folder / f"{i}.png").write_bytes(file.read_bytes())
    for copy in ("a.png", "b.png"):
        (folder / copy).write_bytes((folder / "3.png").read_bytes())
    (folder / "broken.png").write_bytes(b"no image")
    words = [
        folder,
        *NETWORK,
        "--weights",
        tiny_weights,
        "--store",
        tmp_path / "store",
        "--on-error",
        "skip",
    ]
    status, printed, _ = run("extract", *words)
    kept = f"copies of others are not stored twice; store: {tmp_path / 'store'}\n"
    assert status == 1
    engine, _, said = printed.partition("\n")
    assert re.fullmatch(r"dtype float32 on (openvino|native|keras)", engine)
    assert said == f"20 images, 20 of them extracted now; 2 {kept}"
    _, printed, _ = run("extract", *words)
    assert printed == f"{engine}\n20 images, 0 of them extracted now; 2 {kept}"
    assert run("store", "ls", tmp_path / "store")[1].startswith("20 images, ")


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("evaluate IMAGES --out OUT", "results.json"),
        ("evaluate IMAGES --out OUT", "predictions.csv"),
        ("audit IMAGES --out OUT", "audit.json"),
        ("audit IMAGES --out OUT", "audit.html"),
        ("paper --like-mini-mit IMAGES --out OUT", "paper.json"),
        ("demo --out OUT", "report.html"),
        ("predict MODEL IMAGES/train/lying/1.png --explain OUT", "explain.html"),
    ],
)
def test_results_of_an_earlier_run_are_kept(run, images, model, no_network, tmp_path, command, file):
    (tmp_path / file).write_text("earlier")
    places = {"IMAGES": images, "OUT": tmp_path, "MODEL": model}
    words = command.split()
    for name, place in places.items():
        words = [one.replace(name, str(place)) for one in words]
    status, printed, error = run(*words)
    assert (status, printed) == (2, "")
    assert f"{tmp_path} holds {file} of an earlier run: give another folder, or --overwrite" in error
    assert [one.name for one in tmp_path.iterdir()] == [file]
    assert (tmp_path / file).read_text() == "earlier"


def test_overwrite_replaces_the_results_of_an_earlier_run(run, images, tmp_path):
    (tmp_path / "audit.json").write_text("earlier")
    assert run("audit", images, "--out", tmp_path, "--overwrite")[0] == 0
    assert (tmp_path / "audit.json").read_text().startswith("{")


def test_other_files_in_the_folder_do_no_harm(tmp_path):
    (tmp_path / "notes.txt").touch()
    assert make_output_folder(tmp_path, "out", results=["a.json"], overwrite=False) == tmp_path
    with pytest.raises(InputError, match=r"holds notes.txt of an earlier run: .*overwrite=True"):
        make_output_folder(tmp_path, "out", results=["notes.txt"], overwrite=False)
