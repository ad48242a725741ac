"""The commands extract and store."""

import json
import shutil
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from support.in_this_process import run_command
from support.striped_images import NETWORK, write_striped_images

from medvlad.extraction.networks.keras_network import import_keras


@pytest.fixture
def images(tmp_path, rng):
    return write_striped_images(tmp_path / "images", rng)


@pytest.fixture(scope="module")
def extracted(tmp_path_factory, tiny_weights):
    """20 images, the options of their network, and what `extract` printed; for tests that change nothing."""
    folder = tmp_path_factory.mktemp("extracted")
    images = write_striped_images(folder / "images", np.random.default_rng(5))
    options = [*NETWORK, "--weights", tiny_weights, "--store", folder / "store"]
    return SimpleNamespace(
        images=images,
        options=options,
        store=folder / "store",
        printed=run_command("extract", images, *options),
    )


@pytest.fixture
def damaged(extracted, tmp_path):
    """A copy of the store with one damaged image."""
    shutil.copytree(extracted.store, tmp_path / "damaged")
    (shard,) = (tmp_path / "damaged").glob("*/*.shard")
    content = bytearray(shard.read_bytes())
    content[-9] ^= 1
    shard.write_bytes(content)
    return tmp_path / "damaged"


def test_extract_says_how_many_images_are_new(extracted):
    status, printed, error = extracted.printed
    arithmetic, told = printed.splitlines()
    assert (status, error) == (0, "")
    assert arithmetic.startswith("dtype float32 on ")
    assert told == f"20 images, 20 of them extracted now; store: {extracted.store}"


def test_extract_says_first_which_dtype_was_chosen(run, extracted):
    status, printed, _ = run("extract", extracted.images, *extracted.options, "--dtype", "auto")
    assert status == 0
    line, told = printed.splitlines()
    assert line.startswith("dtype float32 (auto) on ")
    assert line.endswith(" are known to be as accurate for vgg16, vgg19, efficientnet-lite2 only")
    assert told.startswith("20 images, 0 of them extracted now")  # those of --dtype float32


def test_what_is_in_the_store_is_not_extracted_again(run, extracted):
    assert "20 images, 0 of them" in run("extract", extracted.images, *extracted.options)[1]


def test_ls_shows_images_and_settings(run, extracted):
    status, printed, _ = run("store", "ls", extracted.store)
    assert status == 0
    assert printed.startswith("20 images, ")
    assert "layer out_relu, model mobilenetv2" in printed


def test_a_whole_store_is_verified(run, extracted):
    assert run("store", "verify", extracted.store) == (0, "20 images, nothing is damaged\n", "")


def test_evaluate_takes_descriptors_from_the_store(run, extracted, monkeypatch):
    """It prints the same with the store, without the network, as without the store."""
    encode = ["--encode", "avg,vlad4"]
    with monkeypatch.context() as patch:
        patch.setattr("medvlad.extraction.cnn_descriptors.make_engine", lambda *_, **__: None)
        status, table, _ = run("evaluate", extracted.images, *extracted.options, *encode)
    assert status == 0
    assert table == run("evaluate", extracted.images, *extracted.options[:-2], *encode)[1]


def test_verify_tells_damage(run, damaged):
    status, printed, error = run("store", "verify", damaged)
    assert (status, printed) == (2, "20 images, 1 damaged; 'medvlad store gc' removes them\n")
    assert "is damaged" in error


def test_a_damaged_image_is_extracted_again_and_cleaned(run, extracted, damaged):
    options = [*extracted.options[:-1], damaged]
    assert "20 images, 1 of them" in run("extract", extracted.images, *options)[1]
    assert run("store", "gc", damaged)[0] == 0
    assert run("store", "verify", damaged)[0] == 0


@pytest.mark.slow
@pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")
def test_evaluate_finds_what_extract_calibrated(run, images, tmp_path, monkeypatch):
    """The ranges of int8 are a setting of the store. Both commands take them from the same images."""
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
        patch.setattr("medvlad.extraction.cnn_descriptors.make_engine", lambda *_, **__: None)
        status, _, error = run("evaluate", images, *options, "--encode", "avg", "--out", tmp_path / "out")
    assert (status, error) == (0, "")
    settings = json.loads((tmp_path / "out" / "results.json").read_text())["settings"]
    assert settings["ranges"].keys() == {"input", "block1_conv1", "block1_conv2"}


@pytest.mark.slow
def test_results_do_not_depend_on_the_store(run, images, tiny_weights, tmp_path, monkeypatch):
    """Descriptors are read block by block, and one image cannot be read."""
    monkeypatch.setattr("medvlad.extraction.data_set._IN_MEMORY", 0)
    monkeypatch.setattr("medvlad.store.stored_descriptors.StoredDescriptors.blocks.__defaults__", (300_000,))
    (images / "train" / "lying" / "bad.png").write_bytes(b"no image")
    options = [*NETWORK, "--weights", tiny_weights, "--on-error", "skip"]
    found = {}
    for name, store in (("without", []), ("with", ["--store", tmp_path / "store"])):
        out = tmp_path / name
        assert run("evaluate", images, *options, *store, "--encode", "avg,vlad4", "--out", out)[0] == 1
        found[name] = json.loads((out / "results.json").read_text())
        del found[name]["counters"]  # seconds and bytes differ
        for result in found[name]["results"]:
            del result["seconds"]
        model = tmp_path / f"{name}.medvlad"
        assert run("train", images, *options, *store, "--encode", "vlad4", "-o", model)[0] == 1
    assert found["with"] == found["without"]
    assert len(found["with"]["skipped"]) == 1
    assert (tmp_path / "with.medvlad").read_bytes() == (tmp_path / "without.medvlad").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["extract", "{images}"], "Missing option '--store'"),
        (["extract", "{images}", "--store", "{images}"], "so the next run would read it as images"),
        (["extract", "{images}", "--store", "{images}/.."], "is a folder of something else"),
        (["store", "ls", "{images}/none"], "is no descriptor store"),
        (["store", "verify", "{images}"], "is no descriptor store"),
        (["store", "verify", "{images}", "--recompute", "2"], "--images needs --recompute N"),
        (["store", "verify", "{images}", "--images", "{images}"], "--images needs --recompute N"),
    ],
)
def test_a_mistake_about_a_store_is_one_sentence(run, images, arguments, sentence):
    status, printed, error = run(*(word.format(images=images) for word in arguments))
    assert (status, printed) == (2, "")
    assert sentence in error
    assert error.count("\n") == 1


def test_a_folder_without_images_is_told(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "there is no image in" in run("extract", tmp_path / "empty", "--store", tmp_path / "s")[2]
