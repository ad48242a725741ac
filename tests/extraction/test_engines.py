"""All engines give the same descriptors, within the rounding of their arithmetic."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from medvlad import CNNDescriptors, GlobalPool, InputError, WideLinearSVC, load_model, save_model
from medvlad._util.memory import OutOfMemory
from medvlad._util.validate import MissingExtraError
from medvlad.extraction.engines import calibrate, choose_engine, keras_engine, make_engine
from medvlad.extraction.engines.winograd import Convolution, layers_of
from medvlad.extraction.networks.keras_network import float32_arithmetic

keras = pytest.importorskip("keras", reason="needs the extra tensorflow")

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")

#: Largest difference from the Keras model, relative to the largest number, and largest angle (1 - cosine)
#: between the descriptors as vectors. Measured with VGG16 on real images: in float32 0 (openvino) and 4e-6
#: (native), in bfloat16 8e-3 (angle 4e-5), in int8 an angle of 2e-3.
FLOAT32_DIFFERENCE = 1e-4
BFLOAT16_DIFFERENCE = 2e-2
INT8_ANGLE = 1e-2
if "vnni" not in Path("/proc/cpuinfo").read_text():
    INT8_ANGLE = 2e-2  # sums of products saturate in 16 bits; 1.4e-2 was measured with AVX2

FLOAT32_ENGINES = ["native", pytest.param("openvino", marks=needs_openvino)]


@pytest.fixture(scope="module")
def network():
    """VGG16 up to block3_pool, seeded."""
    keras.utils.set_random_seed(3)
    whole = keras.applications.VGG16(weights=None, include_top=False)
    for layer in whole.layers:
        if layer.weights:
            layer.bias.assign(np.random.default_rng(0).normal(0, 0.1, layer.bias.shape))
    return keras.Model(whole.input, whole.get_layer("block3_pool").output, name="vgg16")


@pytest.fixture(scope="module")
def pixels():
    rng = np.random.default_rng(4)
    return rng.uniform(-120, 150, (3, 44, 44, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (60 + 9 * i, 80, 3), dtype=np.uint8) for i in range(3)]


def run(network, engine, pixels, dtype="float32", n_threads=2, ranges=None):
    made = make_engine(network, engine=engine, dtype=dtype, output="host", n_threads=n_threads, ranges=ranges)
    maps = made(pixels)
    assert maps.dtype == np.float32
    return maps


def difference(a, b):
    assert b.any()
    return np.abs(a - b).max() / np.abs(b).max()


def angle(a, b):
    a, b = a.ravel().astype(float), b.ravel().astype(float)
    return 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("engine", FLOAT32_ENGINES)
def test_float32_engines_agree_with_keras(network, pixels, engine):
    expected = np.asarray(keras.ops.convert_to_numpy(network(pixels)))
    assert difference(run(network, "keras", pixels), expected) < 1e-6
    assert difference(run(network, engine, pixels), expected) < FLOAT32_DIFFERENCE


def test_the_batch_changes_rounding_at_most_on_keras(network, pixels):
    """TensorFlow chooses kernels by the size of the batch; with AVX2 they round differently."""
    alone = [run(network, "keras", pixels[i : i + 1]) for i in range(3)]
    assert difference(np.concatenate(alone), run(network, "keras", pixels)) < 1e-6


@pytest.mark.parametrize("engine", FLOAT32_ENGINES)
def test_neither_batch_nor_threads_change_a_bit(network, pixels, engine):
    whole = run(network, engine, pixels)
    for n_threads in (1, 3):
        alone = [run(network, engine, pixels[i : i + 1], n_threads=n_threads) for i in range(3)]
        np.testing.assert_array_equal(np.concatenate(alone), whole)


@pytest.mark.parametrize("engine", ["keras", pytest.param("openvino", marks=needs_openvino)])
def test_bfloat16_differs_by_its_rounding_only(network, pixels, engine, monkeypatch):
    monkeypatch.setattr(keras_engine, "has_fast_bfloat16", lambda: True)
    expected = run(network, "keras", pixels)
    got = run(network, engine, pixels, "bfloat16")
    assert 0 < difference(got, expected) < BFLOAT16_DIFFERENCE


@needs_openvino
def test_ranges_of_another_network_are_not_used(pixels):
    features = CNNDescriptors("vgg16", "block1_pool", weights="bundled", dtype="int8")
    images = [np.full((32, 32, 3), 9 * i, np.uint8) for i in range(3)]
    features.fit(images).transform(images)
    features.set_params(layer="block2_pool")
    with pytest.raises(InputError, match="call fit again"):
        features.transform(images)
    assert features.fit(images).transform(images).n_features == 128


def test_bfloat16_is_float32_if_that_is_faster(network, pixels, monkeypatch):
    """More exact arithmetic is allowed."""
    monkeypatch.setattr(keras_engine, "has_fast_bfloat16", lambda: False)
    expected = run(network, "keras", pixels)
    np.testing.assert_array_equal(run(network, "keras", pixels, "bfloat16"), expected)


@needs_openvino
def test_calibration_takes_the_mean_of_the_largest_activations(network, pixels):
    ranges = calibrate(network, [pixels[:2], pixels[2:]], n_threads=2)
    convolutions = [layer.name for layer in layers_of(network) if isinstance(layer, Convolution)]
    assert list(ranges) == ["input", *convolutions]
    largest = np.abs(pixels).reshape(3, -1).max(axis=1)
    assert ranges["input"] == pytest.approx(largest.mean(), rel=1e-6)
    first = keras.Model(network.input, network.layers[1].output)
    maps = np.asarray(keras.ops.convert_to_numpy(first(pixels))).reshape(3, -1)
    assert ranges["block1_conv1"] == pytest.approx(maps.max(axis=1).mean(), rel=1e-4)


@needs_openvino
def test_int8_differs_by_its_rounding_only(network, pixels):
    ranges = calibrate(network, [pixels[:2], pixels[2:]], n_threads=2)
    expected = run(network, "keras", pixels)
    got = run(network, "openvino", pixels, "int8", ranges=ranges)
    assert 0 < angle(got, expected) < INT8_ANGLE
    again = [run(network, "openvino", p[None], "int8", n_threads=1, ranges=ranges) for p in pixels]
    np.testing.assert_array_equal(np.concatenate(again), got)


@needs_openvino
def test_int8_keeps_a_channel_of_zeros(pixels):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="a")(inputs)
    x = keras.layers.Conv2D(5, 3, padding="same", activation="relu", name="b")(x)
    network = keras.Model(inputs, x)
    kernel_a, bias_a, kernel_b, bias_b = network.get_weights()
    kernel_a[..., 1] = 0
    network.set_weights([kernel_a, bias_a, np.abs(kernel_b), bias_b])
    ranges = calibrate(network, [pixels], n_threads=1)
    got = run(network, "openvino", pixels, "int8", ranges=ranges)
    assert angle(got, run(network, "keras", pixels)) < INT8_ANGLE


@needs_openvino
def test_int8_needs_fit(vgg16_file, pictures):
    features = CNNDescriptors("vgg16", "block2_pool", weights=vgg16_file, dtype="int8")
    with pytest.raises(
        InputError, match="int8' needs the ranges of activations on training images: call fit"
    ):
        features.transform(pictures)


@needs_openvino
@pytest.mark.parametrize(
    ("images", "message"), [([], "at least one readable training image"), (None, "put it into a list")]
)
def test_int8_needs_training_images(vgg16_file, images, message):
    features = CNNDescriptors("vgg16", "block2_pool", weights=vgg16_file, dtype="int8")
    with pytest.raises(InputError, match=message):
        features.fit(images)


@needs_openvino
def test_int8_is_fitted_and_saved_with_the_model(vgg16_file, pictures, tmp_path):
    features = CNNDescriptors("vgg16", "block2_pool", weights=vgg16_file, dtype="int8")
    steps = [("features", features), ("encode", GlobalPool()), ("classify", WideLinearSVC())]
    pipeline = Pipeline(steps).fit(pictures, ["a", "b", "a"])
    assert features.engine_ == "openvino"
    save_model(pipeline, tmp_path / "model")
    back = load_model(tmp_path / "model")
    assert back[0].ranges_ == features.ranges_
    np.testing.assert_array_equal(back.decision_function(pictures), pipeline.decision_function(pictures))
    plain = clone(features).set_params(dtype="float32").transform(pictures)
    assert 0 < angle(features.transform(pictures).values, plain.values) < INT8_ANGLE


@needs_openvino
def test_int8_has_a_section_of_its_own_for_each_calibration(vgg16_file, pictures, tmp_path):
    features = CNNDescriptors("vgg16", "block1_pool", weights=vgg16_file, store=tmp_path / "store")
    assert features.fit(pictures).extract(pictures) == 3
    features.set_params(dtype="int8")
    assert features.fit(pictures).extract(pictures) == 3
    assert features.fit(pictures).extract(pictures) == 0
    assert features.fit(pictures[1:]).extract(pictures) == 3


def test_the_fastest_engine_is_chosen(network, tiny_weights, vgg16_file):
    small = CNNDescriptors("mobilenetv2", "out_relu", weights=tiny_weights).fit()
    assert small.engine_ == ("keras" if find_spec("openvino") is None else "openvino")
    assert CNNDescriptors("vgg16", weights=vgg16_file).fit().engine_ == "native"
    assert choose_engine(network, engine="keras", dtype="float32", output="host") == "keras"
    assert choose_engine(network, engine="auto", dtype="float32", output="gpu") == "keras"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"engine": "tensorrt"},
            "engine must be one of auto, keras, native, openvino, onnxruntime, torch, got 'tensorrt'",
        ),
        ({"dtype": "float16"}, "dtype must be one of auto, float32, bfloat16, int8, got 'float16'"),
        (
            {"engine": "native"},
            "engine='native' needs a network of 3x3 convolutions .*mobilenet.* is another",
        ),
        ({"dtype": "int8", "engine": "keras"}, "engine='keras' does not compute in int8"),
        (
            {"output": "gpu", "engine": "native"},
            "output='gpu' works with engine='keras' only, not with engine='native'",
        ),
        ({"n_threads": 0}, "n_threads"),
    ],
)
def test_a_choice_that_does_not_work_is_refused(tiny_weights, pictures, settings, message):
    features = CNNDescriptors("mobilenetv2", "out_relu", weights=tiny_weights, **settings)
    with pytest.raises(InputError, match=message) as error:
        features.fit(pictures).transform(pictures)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "openvino"}, r"engine='openvino' needs a network .* has the layer 'twice' \(Rescaling\)"),
        ({"dtype": "int8"}, "dtype='int8' needs a network of 3x3 .*: use dtype='float32'"),
        ({"engine": "native"}, "engine='native' needs a network of 3x3 .*: use engine='auto'"),
    ],
)
def test_a_network_that_an_engine_cannot_run_is_refused(settings, message):
    pixels = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(2.0, name="twice")(keras.layers.Conv2D(4, 3)(pixels))
    settings = {"engine": "auto", "dtype": "float32", "output": "host"} | settings
    with pytest.raises(InputError, match=message):
        choose_engine(keras.Model(pixels, x), **settings)


def test_without_openvino_the_extra_is_named(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'medvlad\[openvino\]'"):
        choose_engine(network, engine="openvino", dtype="float32", output="host")


def test_auto_leaves_out_an_openvino_that_cannot_be_imported(network, monkeypatch, tmp_path):
    (tmp_path / "openvino.py").write_text("raise OSError('libopenvino.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.setattr("medvlad.extraction.engines.keras_engine.has_fast_bfloat16", lambda: True)
    assert choose_engine(network, engine="auto", dtype="bfloat16", output="host") in ("native", "keras")
    with pytest.raises(MissingExtraError, match=r"whose import fails .*libopenvino") as error:
        choose_engine(network, engine="openvino", dtype="float32", output="host")
    assert "pip install" not in str(error.value)


def test_no_gpu_is_asked_for_the_choice_of_an_engine(network, monkeypatch):
    def asked():
        raise AssertionError("CuPy was asked")

    monkeypatch.setattr("medvlad.backends.cuda.import_cupy", asked)
    for engine in ("auto", "keras", "native"):
        choose_engine(network, engine=engine, dtype="float32", output="host")


def test_too_little_memory_for_the_network_is_an_error_with_advice(network):
    error = type("ResourceExhaustedError", (Exception,), {})("OOM when allocating tensor\nwith shape[1]")
    message = r"not enough memory for the network \(OOM .*batch_size"
    with pytest.raises(OutOfMemory, match=message), float32_arithmetic():
        raise error


def test_one_graph_serves_all_batches(tiny_weights, pictures, monkeypatch):
    """The Python code of the layers runs only when a graph is made."""
    if keras.config.backend() == "torch":
        pytest.skip("torch makes no graph")
    features = CNNDescriptors("mobilenetv2", "out_relu", weights=tiny_weights, batch_size=2, engine="keras")
    features.fit()
    calls = []
    kind = keras.layers.DepthwiseConv2D
    original = kind.call
    monkeypatch.setattr(kind, "call", lambda self, x: calls.append(self.name) or original(self, x))
    features.transform(pictures)
    assert len(calls) == len(set(calls)) > 0
    features.transform(pictures * 3)
    assert len(calls) == len(set(calls))


@pytest.mark.slow
def test_engines_agree_on_real_weights_and_photographs(vgg16_file):
    """VGG16 up to block5_pool. The limits stand at the top of this file."""
    data = pytest.importorskip("skimage.data", reason="needs scikit-image (extra test)")
    try:
        exact = CNNDescriptors("vgg16", weights="bundled", engine="keras").fit()
    except MissingExtraError as missing:
        pytest.skip(str(missing))
    images = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    expected = exact.transform(images).values
    native = CNNDescriptors("vgg16", weights="bundled", engine="native")
    assert difference(native.transform(images).values, expected) < FLOAT32_DIFFERENCE
    if find_spec("openvino") is None:
        return
    openvino = clone(native).set_params(engine="openvino")
    assert difference(openvino.transform(images).values, expected) < FLOAT32_DIFFERENCE
    openvino.set_params(dtype="bfloat16")
    assert difference(openvino.transform(images).values, expected) < BFLOAT16_DIFFERENCE
    openvino.set_params(dtype="int8").fit(images)
    assert angle(openvino.transform(images).values, expected) < INT8_ANGLE
