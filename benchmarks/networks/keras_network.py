"""Keras: its own predict, or the model as a tf.function, with and without XLA."""

from __future__ import annotations

import os
from functools import partial

import keras
import numpy as np


def describe():
    backend = os.environ["KERAS_BACKEND"]
    return {"keras": keras.__version__, backend: __import__(backend).__version__}


def model_of(layers):
    x = pixels = keras.Input((None, None, 3))
    for layer in layers:
        if layer[0] == "conv":
            x = keras.layers.Conv2D(layer[2].size, 3, padding="same", activation="relu")(x)
        else:
            x = keras.layers.MaxPooling2D(2)(x)
    model = keras.Model(pixels, x)
    model.set_weights([values for layer in layers if layer[0] == "conv" for values in layer[1:]])
    return model


def prepare(layers, side, n_threads, how):
    model = model_of(layers)
    if how == "predict":
        return lambda pixels: model.predict(pixels, batch_size=len(pixels), verbose=0)
    import tensorflow as tf

    function = tf.function(partial(model, training=False), jit_compile=how == "xla")
    return lambda pixels: np.asarray(function(tf.constant(pixels)))
