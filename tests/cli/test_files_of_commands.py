"""Files that commands read and write: odd names, unreadable images, and nothing among the images."""

import json
import os
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from support.in_this_process import run_command
from support.striped_images import NETWORK, write_striped_images


@pytest.fixture
def images(tmp_path, rng):
    return write_striped_images(tmp_path / "images", rng)


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "{images}", "--out", "{images}/results"],
        ["evaluate", "{images}", "--out", "{images}"],
        ["evaluate", "{images}", "--store", "{images}/store"],
        ["extract", "{images}", "--store", "{images}/train/store"],
        ["train", "{images}", "--store", "{images}/store", "-o", "{images}/../model"],
        ["audit", "{images}", "--out", "{images}/audit"],
        ["paper", "--like-mini-mit", "{images}", "--out", "{images}/paper"],
    ],
    ids=lambda command: f"{command[0]} {command[-1]}",
)
def test_nothing_is_written_among_the_images(run, images, command):
    """The next run would read it as a class."""
    before = sorted(images.rglob("*"))
    status, _, error = run(*(word.format(images=images) for word in command))
    assert status == 2
    assert f"lies in the image folder {images}" in error
    assert sorted(images.rglob("*")) == before


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_file_names_may_be_no_valid_text(run, images, tiny_weights, tmp_path):
    for part in ("train", "test"):
        odd = os.fsdecode(os.fsencode(images / part / "upright") + b"/\xff.png")
        shutil.copy(images / part / "upright" / "0.png", odd)
    options = [*NETWORK, "--weights", tiny_weights, "--encode", "avg"]
    status, _, error = run("evaluate", images, *options, "--out", tmp_path / "out")
    assert status == 0, error
    status, _, error = run("compare", tmp_path / "out", tmp_path / "out")
    assert status == 0, error
    status, _, error = run("audit", images, "--out", tmp_path / "out")
    assert status == 0, error
    assert (tmp_path / "out" / "audit.html").is_file()


# ------------------------------------------------------------------------------- unreadable images


@pytest.fixture(scope="module")
def broken(tmp_path_factory, tiny_weights):
    """Images of which one is broken, and a model trained on the others."""
    folder = tmp_path_factory.mktemp("broken")
    images = write_striped_images(folder / "images", np.random.default_rng(2))
    bad = images / "train" / "lying" / "broken.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    arguments = [images, *NETWORK, "--weights", tiny_weights, "--encode", "avg"]
    arguments += ["--store", folder / "store"]
    trained = run_command("train", *arguments, "--on-error", "skip", "-o", folder / "model")
    return SimpleNamespace(
        images=images, bad=bad, arguments=arguments, model=folder / "model", status=trained[0]
    )


def test_an_unreadable_image_stops_the_run(run, broken):
    status, _, error = run("evaluate", *broken.arguments)
    assert status == 2
    assert "broken.png" in error


def test_evaluate_lists_what_it_skips(run, broken, tmp_path):
    status, printed, error = run("evaluate", *broken.arguments, "--on-error", "skip", "--out", tmp_path)
    assert status == 1
    assert "12 training and 8 test images" in printed
    assert "skipped" in error
    assert "broken.png" in error
    skipped = json.loads((tmp_path / "results.json").read_text())["skipped"]
    assert [item["image"] for item in skipped] == [str(broken.bad)]


def test_train_that_skips_ends_with_status_1(broken):
    assert broken.status == 1


def test_predict_skips_an_unreadable_image(run, broken):
    good = broken.images / "test" / "lying" / "0.png"
    status, printed, _ = run("predict", broken.model, broken.bad, good, "--on-error", "skip", "--json")
    assert status == 1
    assert len(json.loads(printed)["predictions"]) == 1


def test_predict_stops_at_an_unreadable_image(run, broken):
    assert run("predict", broken.model, broken.bad)[0] == 2
