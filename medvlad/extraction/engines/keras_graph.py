"""Read a Keras model as a list of steps that another program can run.

::

    convolution      Conv2D, with the batch normalisation and the activation behind it
    depthwise        DepthwiseConv2D, likewise
    scale            a batch normalisation that does not follow a convolution
    add, concatenate
    max_pool, average_pool, global_average
    pad              ZeroPadding2D

A batch normalisation is folded into the convolution before it if nothing else reads that convolution. A
model with any other layer, such as Dense or Rescaling, cannot be read, and runs on Keras.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad.extraction.engines.winograd import Convolution, Pooling

__all__ = ["INPUT", "Step", "read_steps", "unreadable_layer"]

#: Number that stands for the input of the network in `Step.inputs`.
INPUT = -1

_KINDS = {
    "Conv2D": "convolution",
    "DepthwiseConv2D": "depthwise",
    "BatchNormalization": "scale",
    "Add": "add",
    "Concatenate": "concatenate",
    "MaxPooling2D": "max_pool",
    "AveragePooling2D": "average_pool",
    "GlobalAveragePooling2D": "global_average",
    "ZeroPadding2D": "pad",
    "ReLU": "activation",
    "Activation": "activation",
    "Dropout": "identity",
}
_ACTIVATIONS = ("linear", "relu", "relu6")


@dataclass(frozen=True, eq=False)
class Step:
    """One step of the network.

    Parameters
    ----------
    kind : str
        See the top of this file.
    name : str
        Name of the Keras layer, for convolutions without the layers that were folded into it.
    inputs : tuple of int
        Numbers of the steps that this one reads. :data:`INPUT`: the pixels.
    activation : {"linear", "relu", "relu6"}
        Function of each number of the result.
    kernel : ndarray of float32 or None
        (height, width, in, out) of a convolution, (height, width, channels, 1) of a depthwise one,
        (channels,) of a scale.
    bias : ndarray of float32 or None
        Number added to each channel.
    size, strides, dilations : (int, int)
        Of pooling and convolutions.
    same : bool
        Whether the border is padded as in TensorFlow's "same": the odd pixel at the bottom and right.
    padding : ((int, int), (int, int))
        Rows above and below, columns left and right, of a pad.
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    activation: str = "linear"
    kernel: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None
    size: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    same: bool = False
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))


def unreadable_layer(model: Any) -> str | None:
    """Return a layer that :func:`read_steps` cannot read, in words. None: it can read the model.

    Parameters
    ----------
    model : keras.Model
        Recognised by the class names and attributes of its layers. Keras is not imported, and no weights are
        read.
    """
    try:
        _read(model, weights=False)
    except _Unreadable as error:
        return str(error)
    return None


def read_steps(model: Any) -> tuple[list[Step], list[int]]:
    """Return the steps of a Keras model with copies of its present weights, and the steps of its outputs.

    Parameters
    ----------
    model : keras.Model or PlainModel
        :func:`unreadable_layer` returns None for it.

    Returns
    -------
    steps : list of Step
        Each step reads earlier ones only.
    outputs : list of int
        Number of the step of each output.
    """
    plain = getattr(model, "plain_layers", None)  # VGG that was made without Keras
    if plain is not None:
        return _plain_steps(plain), [len(plain) - 1]
    steps, outputs = _read(model, weights=True)
    return _folded(steps, outputs)


def _plain_steps(layers: Sequence[Convolution | Pooling]) -> list[Step]:
    """Return a chain of 3 x 3 convolutions and 2 x 2 pooling as steps."""
    steps = []
    for i, layer in enumerate(layers):
        if isinstance(layer, Pooling):
            steps.append(Step("max_pool", f"pool{i}", (i - 1,), size=(2, 2), strides=(2, 2)))
            continue
        activation = "relu" if layer.relu else "linear"
        steps.append(
            Step("convolution", layer.name, (i - 1,), activation, layer.kernel, layer.bias, (3, 3), same=True)
        )
    return steps


class _Unreadable(Exception):
    """The model has a layer that is none of the above."""


def _read(model: Any, *, weights: bool) -> tuple[list[Step], list[int]]:
    steps: list[Step] = []
    made: dict[int, int] = {}  # id of a Keras tensor: number of the step that makes it
    try:
        if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4 or model.inputs[0].shape[3] != 3:
            raise _Unreadable("an input that is not one image")
        made[id(model.inputs[0])] = INPUT
        for layer in model.layers:
            if type(layer).__name__ == "InputLayer":
                continue
            read = layer.input  # raises if the layer is used twice
            tensors = read if isinstance(read, list | tuple) else [read]
            step = _step(layer, tuple(made[id(tensor)] for tensor in tensors), weights)
            if step is None:  # it changes nothing
                made[id(layer.output)] = made[id(tensors[0])]
            else:
                made[id(layer.output)] = len(steps)
                steps.append(step)
        outputs = [made[id(tensor)] for tensor in model.outputs]
    except (AttributeError, ValueError, KeyError) as error:  # not a model, or layers that are used twice
        raise _Unreadable("a layer that is used twice") from error
    if INPUT in outputs or not any(step.kind in ("convolution", "depthwise") for step in steps):
        raise _Unreadable("no convolution")
    return steps, outputs


def _step(layer: Any, inputs: tuple[int, ...], weights: bool) -> Step | None:
    """Return the step of a layer. None: the layer changes nothing."""
    kind = _KINDS.get(type(layer).__name__)
    described = f"the layer {layer.name!r} ({type(layer).__name__})"
    if kind is None or layer.compute_dtype != "float32":
        raise _Unreadable(described)
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise _Unreadable(described)
    if kind == "identity":
        return None
    step = Step(kind, layer.name, inputs, _activation(layer, described))
    if kind in ("convolution", "depthwise"):
        if getattr(layer, "groups", 1) != 1 or (kind == "depthwise" and layer.depth_multiplier != 1):
            raise _Unreadable(described)
        step = replace(step, dilations=tuple(layer.dilation_rate))
        if weights:
            kernel, *bias = (np.array(value, np.float32) for value in layer.get_weights())
            n_channels = kernel.shape[2 if kind == "depthwise" else 3]
            step = replace(step, kernel=kernel, bias=bias[0] if bias else np.zeros(n_channels, np.float32))
    if kind in ("convolution", "depthwise", "max_pool", "average_pool"):
        size = layer.pool_size if kind.endswith("pool") else layer.kernel_size
        if layer.padding not in ("same", "valid"):
            raise _Unreadable(described)
        return replace(step, size=tuple(size), strides=tuple(layer.strides), same=layer.padding == "same")
    if kind == "pad":
        (top, bottom), (left, right) = layer.padding
        return replace(step, padding=((top, bottom), (left, right)))
    if kind in ("scale", "concatenate") and layer.axis not in (-1, 3):
        raise _Unreadable(described)
    if kind == "global_average" and layer.keepdims:
        raise _Unreadable(described)
    if kind == "scale" and weights:
        factor, shift = _factors(layer)
        return replace(step, kernel=factor, bias=shift)
    return step


def _activation(layer: Any, described: str) -> str:
    if type(layer).__name__ == "ReLU":
        if layer.negative_slope or layer.threshold or layer.max_value not in (None, 6):
            raise _Unreadable(described)
        return "relu" if layer.max_value is None else "relu6"
    name = getattr(getattr(layer, "activation", None), "__name__", "linear")
    if name not in _ACTIVATIONS:
        raise _Unreadable(described)
    return str(name)


def _factors(layer: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what a batch normalisation multiplies with, and what it adds."""
    values = [np.asarray(value, np.float64) for value in layer.get_weights()]
    gamma = values.pop(0) if layer.scale else 1.0
    beta = values.pop(0) if layer.center else 0.0
    mean, variance = values
    factor = gamma / np.sqrt(variance + layer.epsilon)
    return factor.astype(np.float32), (beta - mean * factor).astype(np.float32)


def _folded(steps: list[Step], outputs: list[int]) -> tuple[list[Step], list[int]]:
    """Fold batch normalisations and activations into the step before them."""
    readers = Counter([i for step in steps for i in step.inputs] + outputs)
    kept: list[Step] = []
    moved = {INPUT: INPUT}  # new number of each step
    for number, step in enumerate(steps):
        inputs = tuple(moved[i] for i in step.inputs)
        before = kept[inputs[0]] if inputs[0] != INPUT else None
        alone = before is not None and before.activation == "linear" and readers[step.inputs[0]] == 1
        if before is not None and alone and step.kind == "activation":
            kept[inputs[0]] = replace(before, activation=step.activation)
        elif before is not None and alone and step.kind == "scale" and before.kernel is not None:
            kept[inputs[0]] = _scaled(before, step)
        else:
            moved[number] = len(kept)
            kept.append(replace(step, inputs=inputs))
            continue
        moved[number] = inputs[0]
    return kept, [moved[i] for i in outputs]


def _scaled(step: Step, scale: Step) -> Step:
    """Return a step with a batch normalisation behind it."""
    factor, shift = np.asarray(scale.kernel, np.float64), np.asarray(scale.bias, np.float64)
    across = factor[:, None] if step.kind == "depthwise" else factor
    return replace(
        step,
        activation=scale.activation,
        kernel=(np.asarray(step.kernel) * across).astype(np.float32),
        bias=(np.asarray(step.bias) * factor + shift).astype(np.float32),
    )
