"""A file whose name holds a line break or an escape character: one line for each image, in every text."""

import json
import sys

import numpy as np
import pytest
from support.in_this_process import run_command
from support.striped_images import NETWORK, write_striped_images

from medvlad.cli.console import say

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows forbids such names")

NAME = "two\nlines\x1b[31m.png"
SHOWN = "two\\nlines\\x1b[31m.png"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    rng = np.random.default_rng(0)
    folder = write_striped_images(tmp_path_factory.mktemp("data") / "images", rng)
    first = next((folder / "train" / "upright").iterdir())
    first.rename(first.with_name(NAME))
    first.with_name("broken\n.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def model(images, tiny_weights, tmp_path_factory):
    model = tmp_path_factory.mktemp("model") / "model"
    words = ["train", images, *NETWORK, "--weights", tiny_weights, "--encode", "avg", "-o", model]
    status, _, error = run_command(*words, "--on-error", "skip")
    assert status == 1
    assert error.count("\n") == 1
    assert "medvlad: skipped: " in error
    assert "broken\\n.png" in error
    return model


def test_predict_prints_one_line_for_each_image(model, images):
    file = images / "train" / "upright" / NAME
    status, printed, _ = run_command("predict", model, file, images / "train" / "upright" / "1.png")
    assert status == 0
    assert len(printed.splitlines()) == 2
    assert SHOWN in printed
    assert "\x1b" not in printed


def test_json_keeps_the_name(model, images):
    file = images / "train" / "upright" / NAME
    _, printed, _ = run_command("predict", model, file, "--json")
    assert json.loads(printed)["predictions"][0]["image"] == str(file)


def test_audit_prints_one_line_for_each_finding(images):
    _, printed, error = run_command("audit", images)
    assert all(": " in line or " images" in line for line in printed.splitlines())
    assert "broken\\n.png" in printed + error


def test_a_message_is_one_line(capsys):
    say("the file a\nb is missing")
    assert capsys.readouterr().err == "medvlad: the file a\\nb is missing\n"
