"""Tiny Keras networks under the names of large ones: the real code builds, fills and runs them in no time."""

import keras


def _plain(weights=None, include_top=False):
    layers = keras.layers
    pixels = keras.Input((None, None, 3))
    maps = layers.Conv2D(4, 3, padding="same", activation="relu", name="block1_conv1")(pixels)
    maps = layers.MaxPooling2D(name="block1_pool")(maps)
    maps = layers.Conv2D(5, 3, padding="same", activation="relu", name="block5_conv1")(maps)
    maps = layers.MaxPooling2D(name="block5_pool")(maps)
    return keras.Model(pixels, maps, name="vgg16")


def _not_plain(weights=None, include_top=False):
    """Return maps of the size that MobileNetV2 gives: 7 x 7 of 224 x 224 pixels."""
    layers = keras.layers
    pixels = keras.Input((None, None, 3))
    maps = layers.Conv2D(16, 5, strides=8, padding="same", use_bias=False, name="Conv1")(pixels)
    maps = layers.BatchNormalization(name="bn_Conv1")(maps)
    maps = layers.DepthwiseConv2D(3, strides=2, padding="same", name="depthwise")(maps)
    maps = layers.Conv2D(32, 1, strides=2, padding="same", name="Conv_1")(maps)
    return keras.Model(pixels, layers.ReLU(6.0, name="out_relu")(maps), name="mobilenetv2")


#: Name in ``keras.applications``, and the last layer, of a network that the native engine can run, and of
#: one that it cannot.
TINY = {"VGG16": (_plain, "block5_pool"), "MobileNetV2": (_not_plain, "out_relu")}


def install(name, patch, path):
    """Put the tiny network in the place of ``keras.applications.NAME``, and write seeded weights to `path`.

    `patch` is MonkeyPatch's setattr. Returns the name of the last layer.
    """
    build, layer = TINY[name]
    real = getattr(keras.applications, name)

    def builder(weights=None, include_top=False):
        return build()

    builder.__name__, builder.__module__ = real.__name__, real.__module__
    keras.utils.set_random_seed(3)
    build().save_weights(path)
    patch(keras.applications, name, builder)
    return layer
