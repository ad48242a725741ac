"""Any step of a write to a disk may fail. The error is one sentence, and no file is lost or incomplete."""

import errno
import io
import json
import os
import resource
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.faults import (
    files,
    fill,
    fitted,
    key_of,
    light_network,
    section_of,
    whole_store,
    write_images,
    zipped_chest,
)
from support.small_sets import without_size_warning

from medvlad import InputError, StoredDescriptors, save_model
from medvlad.datasets import download as fetch
from medvlad.models.onnx_export import export_onnx

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and signals of Linux")


class FailingDisk:
    """Counts the steps of writing to a disk. From step `fails_at` on, every step fails with `number`."""

    def __init__(self, patch):
        self.fails_at, self.number, self.count = None, errno.ENOSPC, 0
        disk, open_ = self, Path.open

        class Raw(io.FileIO):
            def write(self, content):
                disk.step(self.name)
                return super().write(content)

        def opened(path, mode="r", *rest, **named):
            if disk.fails_at is None or not set(mode) & set("wxa+"):
                return open_(path, mode, *rest, **named)
            disk.step(path)
            raw = io.BufferedWriter(Raw(os.fspath(path), mode.replace("b", "")))
            return raw if "b" in mode else io.TextIOWrapper(raw, "utf-8")

        patch.setattr(Path, "open", opened)
        for name in ("os.fsync", "os.posix_fallocate", "os.mkdir", "os.rename", "os.replace"):
            patch.setattr(name, self.counted(getattr(os, name[3:])))

    def counted(self, call):
        def counted(*arguments, **named):
            self.step(arguments[0])
            return call(*arguments, **named)

        return counted

    def step(self, what):
        if self.fails_at is None:
            return
        self.count += 1
        if self.count > self.fails_at:
            raise OSError(self.number, os.strerror(self.number), None if isinstance(what, int) else str(what))

    @contextmanager
    def failing(self, at, number):
        self.fails_at, self.number, self.count = at, number, 0
        try:
            yield
        finally:
            self.fails_at = None


@pytest.fixture
def disk(monkeypatch):
    return FailingDisk(monkeypatch)


@pytest.fixture(scope="module")
def pipeline():
    return fitted()


def store_work(folder, _):
    fill(folder / "store", 5)


def gc_work(folder, _):
    section_of(folder / "store").gc()


def vectors_work(folder, pipeline):
    stored = StoredDescriptors(section_of(folder / "store"), [key_of(i) for i in range(4)])
    pipeline.named_steps["encode"].transform_to_file(stored, folder / "vectors.npy")


def model_work(folder, pipeline):
    save_model(pipeline, folder / "model", card={"new": True})


def export_work(folder, pipeline):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    export_onnx(pipeline, folder / "model.onnx")


def fetch_work(folder, _):
    fetch.fetch("chest-xray", folder / "chest", archive=folder / "chest.zip")


WORKS = {
    "store": (store_work, "store"),
    "gc": (gc_work, "store"),
    "vectors": (vectors_work, r"vectors\.npy"),
    "model": (model_work, "model"),
    "export": (export_work, r"model\.onnx"),
    "fetch": (fetch_work, "chest"),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder that already holds a store, a model and other results."""
    monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 4)
    small = dict(fetch.REMOTE)
    small["chest-xray"] = replace(small["chest-xray"], layout="folder")
    monkeypatch.setattr(fetch, "REMOTE", small)
    for n in range(1, 4):  # shards of one image each
        fill(tmp_path / "store", n)
    fill(tmp_path / "store", 4)
    for name in ("vectors.npy", "model", "model.onnx"):
        (tmp_path / name).write_bytes(b"the old content")
    zipped_chest(tmp_path / "chest.zip")
    return tmp_path


def nothing_lost(place, before):
    """Assert that all earlier files are unchanged and that no unfinished file is left."""
    after = files(place)
    for name, content in before.items():
        if not name.endswith(".shard"):  # gc may have joined shards
            assert after[name] == content, name
    assert not [name for name in after if name.endswith(".part")]
    assert not (place / "chest").exists()
    whole_store(place / "store", 4)


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_a_disk_that_fails_at_any_step_loses_nothing(place, pipeline, disk, work, number):
    """Each open, write, flush, mkdir and rename in turn is the first to fail, with all later ones."""
    do, named = WORKS[work]
    before = files(place)
    for at in range(60):
        with disk.failing(at, number):
            try:
                do(place, pipeline)
            except InputError as error:
                message = str(error)
            else:
                assert disk.count <= at
                break
        assert "\n" not in message
        assert os.strerror(number) in message
        assert named.replace("\\", "") in message
        # If only the flush of the folder failed, after the rename, the complete new file is there.
        if disk.count > at and work in ("vectors", "model", "export") and files(place) != before:
            assert files(place)[named.replace("\\", "")] != b"the old content"
            (place / named.replace("\\", "")).write_bytes(b"the old content")
        if work == "fetch" and (place / "chest").exists():
            pytest.fail("an incomplete data set was left")
        nothing_lost(place, before)
    assert at > 1
    whole_store(place / "store", 5 if work == "store" else 4)


@pytest.mark.parametrize("work", WORKS)
def test_a_limit_of_file_size_loses_nothing(place, pipeline, work):
    """The system itself refuses a write in the middle (EFBIG)."""
    do, named = WORKS[work]
    before, refused = files(place), 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 100, 250):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            with pytest.raises(InputError, match=f"{named}.*File too large"):
                do(place, pipeline)
            refused += 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        nothing_lost(place, before)
    do(place, pipeline)
    assert refused == 3


@pytest.fixture
def run(run, monkeypatch):
    light_network(monkeypatch.setattr)
    return run


LIGHT = ["--model", "light", "--layer", "x", "--weights", "imagenet"]
COMMANDS = {
    "evaluate": [
        "evaluate",
        "images",
        *LIGHT,
        "--encode",
        "avg",
        "--folds",
        "2",
        "--out",
        "out",
        "--overwrite",
    ],
    "extract": ["extract", "images", *LIGHT, "--store", "new store"],
    "train": ["train", "images", *LIGHT, "--encode", "avg", "-o", "model", "--overwrite"],
    "audit": ["audit", "images", "--out", "out", "--overwrite"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_on_a_failing_disk_keeps_earlier_results(tmp_path, run, disk, monkeypatch, command):
    """Status 2, one line that names a file, no incomplete file; the next run has the same results."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", 4)
    # The plots take seconds. They are written in the same place as predictions.csv and the pages.
    monkeypatch.setattr("medvlad.report.plots.confusion", lambda *_, **how: b"picture")
    monkeypatch.setattr("medvlad.report.sections._curves", lambda *_, **how: [("roc", b"picture", "")])
    monkeypatch.setattr("medvlad.report.evaluation.confident_errors", lambda *_, **how: [])
    assert run(*COMMANDS[command])[0] == 0
    before = {name: content for name, content in files(tmp_path).items() if not name.startswith("new store")}
    written, n_failed = len(before), 0
    for at in (0, 1, 2, 3, 5, 8, 11, 14, 17, 20):
        for file in tmp_path.glob("new store/*/*"):
            file.unlink()
        with disk.failing(at, errno.ENOSPC):
            status, _, error = run(*COMMANDS[command])
        if disk.count <= at:
            break
        n_failed += 1
        assert status == 2
        error = without_size_warning(error)
        assert error.count("\n") == 1
        assert "No space left on device" in error
        assert str(tmp_path) in error or "out" in error or "new store" in error
        after = files(tmp_path)
        assert not [name for name in after if name.endswith(".part")]
        for name, content in before.items():
            if name.endswith("results.json"):
                json.loads(after[name])  # the old or the new file; its seconds differ
            elif not name.endswith(".html"):
                assert after[name] == content, name
            else:
                assert after[name].endswith(b"</html>\n")
    assert n_failed > 2
    assert run(*COMMANDS[command])[0] == 0
    assert len([name for name in files(tmp_path) if not name.startswith("new store")]) == written
