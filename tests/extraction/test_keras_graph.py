"""Networks of convolutions, sums and pooling compute the same on OpenVINO and on Keras."""

from importlib.util import find_spec

import numpy as np
import pytest

from medvlad.extraction.engines import choose_engine, make_engine
from medvlad.extraction.engines.keras_graph import read_steps, unreadable_layer

keras = pytest.importorskip("keras", reason="needs the extra tensorflow")
layers = keras.layers

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")

#: Relative to the largest number.
FLOAT32_DIFFERENCE = 1e-4


def network_of(*steps, seed=0):
    """Return a chain of layers with random weights, and random statistics of batch normalisations."""
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((None, None, 3))
    x = pixels
    for step in steps:
        x = step(x)
    return randomised(keras.Model(pixels, x), seed)


def randomised(network, seed=0):
    rng = np.random.default_rng(seed)
    for layer in network.layers:
        if type(layer).__name__ == "BatchNormalization":
            layer.set_weights([rng.uniform(0.5, 1.5, v.shape) for v in layer.weights])
        elif getattr(layer, "use_bias", False):
            layer.bias.assign(rng.normal(size=layer.bias.shape))
    return network


def run(network, engine, pixels, **settings):
    settings = {"dtype": "float32", "output": "host", "n_threads": 2} | settings
    return make_engine(network, engine=engine, **settings)(pixels)


def check(network, side=33, n=2):
    pixels = np.random.default_rng(1).normal(size=(n, side, side, 3)).astype(np.float32)
    assert unreadable_layer(network) is None
    expected = run(network, "keras", pixels)
    found = run(network, "openvino", pixels)
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 0
    assert np.abs(found - expected).max() <= FLOAT32_DIFFERENCE * np.abs(expected).max()


@needs_openvino
@pytest.mark.parametrize(
    ("kernel", "stride", "side"), [(3, 1, 33), (3, 2, 32), (3, 2, 33), (5, 2, 32), (4, 3, 33), (1, 2, 33)]
)
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_convolutions_and_pooling_pad_alike(kernel, stride, side, padding):
    """The result of each layer is an output, so that one network checks all of them."""
    settings = {"strides": stride, "padding": padding}
    pixels = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 1)(pixels)
    outputs = [
        layers.Conv2D(5, kernel, activation="relu6", **settings)(x),
        layers.DepthwiseConv2D(kernel, activation="relu", **settings)(x),
        layers.MaxPooling2D(kernel, **settings)(x),
        layers.AveragePooling2D(kernel, **settings)(x),
    ]
    check(randomised(keras.Model(pixels, layers.Concatenate()(outputs))), side, n=1)


@needs_openvino
@pytest.mark.parametrize(
    "steps",
    [
        [layers.Conv2D(5, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU()],
        [layers.Conv2D(5, 3), layers.BatchNormalization(scale=False, center=False), layers.ReLU(6.0)],
        [layers.BatchNormalization(), layers.Activation("relu"), layers.Conv2D(5, 3)],
        [layers.Conv2D(5, 3, activation="relu"), layers.BatchNormalization(), layers.Dropout(0.5)],
        [layers.DepthwiseConv2D(3, use_bias=False), layers.BatchNormalization(), layers.Conv2D(4, 1)],
        [layers.ZeroPadding2D(((1, 2), (0, 3))), layers.Conv2D(5, 3, dilation_rate=2)],
        [layers.Conv2D(5, (3, 1)), layers.Conv2D(7, (1, 3)), layers.GlobalAveragePooling2D()],
    ],
)
def test_every_kind_of_layer_is_read(steps):
    check(network_of(*steps))


@needs_openvino
def test_branches_are_read():
    pixels = keras.Input((None, None, 3))
    start = layers.Conv2D(4, 3, padding="same")(pixels)
    left = layers.BatchNormalization()(start)  # `start` has two readers, so nothing is folded into it
    right = layers.Conv2D(4, 1)(layers.ReLU()(start))
    joined = layers.Concatenate()([layers.Add()([left, right, start]), left])
    check(randomised(keras.Model(pixels, joined)))


@needs_openvino
@pytest.mark.parametrize(
    "name",
    ["MobileNetV2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ResNet50", "DenseNet121"))],
)
def test_keras_applications_agree(name):
    keras.utils.set_random_seed(0)
    check(getattr(keras.applications, name)(weights=None, include_top=False), 64, n=1)


@needs_openvino
def test_several_outputs_are_a_list():
    network = network_of(layers.Conv2D(5, 3, name="a"), layers.ReLU(), layers.Conv2D(4, 3, 2, name="b"))
    both = keras.Model(network.input, [network.get_layer("a").output, network.output])
    pixels = np.random.default_rng(1).normal(size=(3, 20, 20, 3)).astype(np.float32)
    found = run(both, "openvino", pixels)
    expected = [np.asarray(keras.ops.convert_to_numpy(maps)) for maps in both(pixels)]
    assert [maps.shape for maps in found] == [(3, 18, 18, 5), (3, 8, 8, 4)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@needs_openvino
def test_neither_batch_nor_threads_change_a_bit():
    network = network_of(layers.Conv2D(16, 3, 2), layers.DepthwiseConv2D(5), layers.Conv2D(8, 1))
    pixels = np.random.default_rng(1).normal(size=(5, 40, 40, 3)).astype(np.float32)
    whole = run(network, "openvino", pixels)
    for n_threads in (1, 3):
        alone = [run(network, "openvino", pixels[i : i + 1], n_threads=n_threads) for i in range(5)]
        np.testing.assert_array_equal(np.concatenate(alone), whole)
        np.testing.assert_array_equal(run(network, "openvino", pixels, n_threads=n_threads), whole)


def test_batch_normalisation_and_activation_are_folded():
    network = network_of(
        layers.Conv2D(5, 3, use_bias=False, name="a"),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.DepthwiseConv2D(3, name="b"),
        layers.BatchNormalization(),
    )
    steps, outputs = read_steps(network)
    assert [(step.kind, step.name, step.activation) for step in steps] == [
        ("convolution", "a", "relu6"),
        ("depthwise", "b", "linear"),
    ]
    assert outputs == [1]


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        (
            [layers.Conv2D(6, 3, padding="same"), layers.LeakyReLU(name="leaky")],
            "the layer 'leaky' (LeakyReLU)",
        ),
        ([layers.Rescaling(2.0, name="rescale"), layers.Conv2D(6, 3)], "the layer 'rescale' (Rescaling)"),
        ([layers.Conv2D(6, 3, groups=3, name="g")], "the layer 'g' (Conv2D)"),
        ([layers.DepthwiseConv2D(3, depth_multiplier=2, name="d")], "the layer 'd' (DepthwiseConv2D)"),
        ([layers.Conv2D(6, 3, padding="same"), layers.ReLU(5.0, name="r")], "the layer 'r' (ReLU)"),
        (
            [layers.Conv2D(6, 3, padding="same"), layers.ReLU(negative_slope=0.1, name="r")],
            "the layer 'r' (ReLU)",
        ),
        ([layers.Conv2D(6, 3, activation="swish", name="s")], "the layer 's' (Conv2D)"),
        (
            [layers.Conv2D(6, 3, padding="same"), layers.BatchNormalization(axis=1, name="n")],
            "the layer 'n' (BatchNormalization)",
        ),
        (
            [layers.Conv2D(6, 3, padding="same"), layers.Conv2D(4, 3, dtype="mixed_bfloat16", name="low")],
            "the layer 'low' (Conv2D)",
        ),
        ([layers.MaxPooling2D()], "no convolution"),
    ],
)
def test_other_layers_are_named_and_run_on_keras(steps, named):
    pixels = keras.Input((32, 32, 3))
    x = pixels
    for step in steps:
        x = step(x)
    network = keras.Model(pixels, x)
    assert unreadable_layer(network) == named
    assert choose_engine(network, engine="auto", dtype="float32", output="host") == "keras"


def test_a_layer_that_is_used_twice_is_refused():
    twice = layers.Conv2D(3, 3, padding="same")
    assert unreadable_layer(network_of(twice, twice)) == "a layer that is used twice"
