"""X."""

import json
import shutil
from importlib.util import find_spec

import pytest
from support.striped_images import NETWORK, write_striped_images

from medvlad.extraction.network import import_keras


@pytest.fixture
def images(tmp_path, rng):
    return write_striped_images(tmp_path / "images", rng)


def test_extract_and_store(run, images, small_weights, tmp_path, monkeypatch):
    """Descriptors are made once, whoever asks; the store can be listed, verified and mended."""
    folder = tmp_path / "store"
    network = [*NETWORK, "--weights", small_weights, "--store", folder]
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
def test_results_do_not_depend_on_the_store(run, images, small_weights, tmp_path, monkeypatch):
    """Descriptors are read block by block; one image cannot be read at all."""
    monkeypatch.setattr("medvlad.experiment._IN_MEMORY", 0)
    monkeypatch.setattr("medvlad.store.stored_descriptors.StoredDescriptors.blocks.__defaults__", (300_000,))
    (images / "train" / "lying" / "bad.png").write_bytes(b"no image")
    options = [*NETWORK, "--weights", small_weights, "--on-error", "skip"]
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
