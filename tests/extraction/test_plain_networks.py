"""Keras models that ConvNet can run are recognised without reading their weights, and give the same maps."""

import numpy as np
import pytest
from support.convnets import pictures

from medvlad.extraction.engines import choose_engine
from medvlad.extraction.engines.winograd import ConvNet, is_plain, layers_of

pytest.importorskip("medvlad.backends.native", reason="native was not built")
keras = pytest.importorskip("keras", reason="needs the extra tensorflow")

#: Largest error of a few random layers, relative to the largest number. See test_winograd.py.
TOLERANCE = 2e-5

SAME = {"padding": "same"}


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(3)


def chain_of(*layers, side=12):
    return keras.Sequential([keras.Input((side, side, 3)), *layers])


def check(model, images, tolerance=TOLERANCE):
    layers = layers_of(model)
    assert layers is not None
    maps = keras.ops.convert_to_numpy(model(images))
    got = ConvNet(layers).run(images, n_threads=2)
    assert np.abs(maps).max() > 0
    np.testing.assert_allclose(got, maps, rtol=0, atol=tolerance * np.abs(maps).max())


def test_a_sequential_model_gives_the_maps_of_keras(rng):
    conv, pool = keras.layers.Conv2D, keras.layers.MaxPooling2D
    model = chain_of(
        conv(7, 3, padding="same", activation="relu", bias_initializer="normal"),
        pool(),
        conv(5, 3, padding="same"),
    )
    check(model, pictures(rng, 2, 12, 12, 3))


def test_vgg16_and_a_part_of_it_give_the_maps_of_keras(rng):
    network = keras.applications.VGG16(weights=None, include_top=False)
    images = 50 * pictures(rng, 2, 64, 96, 3)
    check(network, images)
    cut = keras.Model(network.input, network.get_layer("block3_conv2").output)
    check(cut, images)


def refuses(model):
    """Return whether neither function accepts the model; they must agree."""
    assert is_plain(model) == (layers_of(model) is not None)
    return not is_plain(model)


@pytest.mark.parametrize(
    "other",
    [
        lambda k: k.Conv2D(4, 5, **SAME),
        lambda k: k.Conv2D(4, 3),
        lambda k: k.Conv2D(4, 3, strides=2, **SAME),
        lambda k: k.Conv2D(4, 3, dilation_rate=2, **SAME),
        lambda k: k.Conv2D(3, 3, groups=3, **SAME),
        lambda k: k.Conv2D(4, 3, use_bias=False, **SAME),
        lambda k: k.Conv2D(4, 3, activation="gelu", **SAME),
        lambda k: k.Conv2D(4, 3, activation=k.LeakyReLU(), **SAME),
        lambda k: k.Conv2D(4, 3, dtype="float16", **SAME),
        lambda k: k.MaxPooling2D(3),
        lambda k: k.MaxPooling2D(2, strides=1),
        lambda k: k.MaxPooling2D(2, padding="same"),
        lambda k: k.AveragePooling2D(2),
        lambda k: k.BatchNormalization(),
    ],
)
def test_a_model_with_another_layer_is_not_plain(other):
    k = keras.layers
    assert refuses(chain_of(k.Conv2D(3, 3, activation="relu", **SAME), other(k)))


def test_a_model_without_a_convolution_is_not_plain():
    assert refuses(chain_of(keras.layers.MaxPooling2D()))


def test_another_object_is_not_plain():
    assert refuses("a model")


def test_a_model_with_a_branch_is_not_plain():
    inputs = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(3, 3, **SAME)(inputs)
    assert refuses(keras.Model(inputs, keras.layers.Add()([maps, inputs])))
    assert refuses(keras.applications.MobileNetV2(weights=None, include_top=False))


def test_a_model_with_two_outputs_is_not_plain():
    inputs = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(3, 3, **SAME)(inputs)
    assert refuses(keras.Model(inputs, [maps, keras.layers.MaxPooling2D()(maps)]))


def test_a_model_that_uses_a_layer_twice_is_not_plain():
    inputs = keras.Input((8, 8, 3))
    first = keras.layers.Conv2D(3, 3, **SAME)
    assert refuses(keras.Model(inputs, first(first(inputs))))


def test_no_weight_is_copied_to_choose_an_engine(monkeypatch):
    plain = chain_of(keras.layers.Conv2D(4, 3, activation="relu", **SAME), keras.layers.MaxPooling2D())
    monkeypatch.setattr(keras.layers.Layer, "get_weights", None)
    monkeypatch.setattr(keras.Variable, "numpy", None)
    monkeypatch.setattr(keras.Variable, "__array__", None)
    assert is_plain(plain)
    assert choose_engine(plain, engine="native", dtype="float32", output="host") == "native"
    with pytest.raises(TypeError):
        layers_of(plain)
