"""The command audit."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from support.in_this_process import run_command
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
