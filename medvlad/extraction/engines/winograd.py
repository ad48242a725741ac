"""Networks of 3 x 3 convolutions and 2 x 2 pooling (VGG16, VGG19) on the CPU, in float32.

A convolution by Winograd's F(4x4, 3x3) takes a quarter of the multiplications, so this is two to three times
as fast as engines that do all of them. The mathematics stand in ``csrc/core/convnet.hpp``. Numbers differ
from the exact ones by some units of 1e-6 of the largest; they depend on neither the number of threads nor
the batch.

The instruction set is the one of :mod:`medvlad.backends.native`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, check_n_threads

__all__ = ["ConvNet", "Convolution", "Layer", "Pooling", "layers_of"]


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution with zeros around the image, then a bias and perhaps ReLU.

    Parameters
    ----------
    kernel : ndarray of float32 (3, 3, C, D)
    bias : ndarray of float32 (D,)
    relu : bool, default=True
    name : str, default=""
    """

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    relu: bool = True
    name: str = ""


@dataclass(frozen=True)
class Pooling:
    """The largest of each 2 x 2 numbers; an odd last row or column is left out."""


Layer = Convolution | Pooling


class ConvNet:
    """A network of these layers, ready to run.

    Its weights are kept transformed, four times their size, and so are the buffers of the last call.
    One network may run in several threads at a time.

    Parameters
    ----------
    layers : sequence of Convolution and Pooling
        The first to come is the first to run; there must be a convolution among them.

    Raises
    ------
    InputError
        If a layer's numbers do not fit, or do not follow on the layer before.
    ImportError
        If the native backend was not built.
    MemoryError
        If there is not enough memory.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        from medvlad.backends import native

        n_channels = None
        width = 0
        prepared: list[tuple[NDArray[np.float32], NDArray[np.float32], bool] | None] = []
        for i, layer in enumerate(layers):
            if isinstance(layer, Pooling):
                prepared.append(None)
                continue
            kernel, bias = np.asarray(layer.kernel), np.asarray(layer.bias)
            if kernel.ndim != 4 or kernel.shape[:2] != (3, 3) or 0 in kernel.shape:
                raise InputError(f"layer {i}: kernel must be (3, 3, C, D), got {kernel.shape}")
            if bias.shape != kernel.shape[3:]:
                raise InputError(f"layer {i}: bias must be {kernel.shape[3:]}, got {bias.shape}")
            if kernel.dtype != np.float32 or bias.dtype != np.float32:
                raise InputError(f"layer {i}: numbers must be float32, got {kernel.dtype} and {bias.dtype}")
            if n_channels is None:
                n_channels = kernel.shape[2]
            elif kernel.shape[2] != width:
                raise InputError(
                    f"layer {i} takes {kernel.shape[2]} channels, and the one before gives {width}"
                )
            width = kernel.shape[3]
            prepared.append((np.ascontiguousarray(kernel), np.ascontiguousarray(bias), bool(layer.relu)))
        if n_channels is None:
            raise InputError("a network needs a convolution")
        self.n_channels: int = n_channels
        self.n_features_out: int = width
        self._n_poolings = prepared.count(None)
        self._net = native.convnet(prepared, n_channels)

    def run(self, images: NDArray[np.float32], *, n_threads: int | None = None) -> NDArray[np.float32]:
        """Feature maps of the last layer.

        Parameters
        ----------
        images : ndarray of float32 (B, H, W, C), C-contiguous
            Preprocessed as the network wants them.
        n_threads : int or None, default=None
            Threads to use; None: as many as this process may use processors.

        Returns
        -------
        ndarray of float32 (B, h, w, D)
            Not finite where a number that is not finite comes in.

        Raises
        ------
        InputError
            If the images are of another kind, or too small for the network's poolings.
        MemoryError
            If there is not enough memory.
        """
        threads = check_n_threads(n_threads)
        if (
            not isinstance(images, np.ndarray)
            or images.dtype != np.float32
            or not images.flags.c_contiguous
            or images.ndim != 4
            or images.shape[3] != self.n_channels
        ):
            raise InputError(
                f"images must be a C-contiguous float32 array (B, H, W, {self.n_channels}), got "
                f"{getattr(images, 'dtype', type(images).__name__)} {getattr(images, 'shape', '')}"
            )
        smallest = 2**self._n_poolings
        if min(images.shape[1:3]) < smallest:
            raise InputError(
                f"images must have at least {smallest} x {smallest} pixels for {self._n_poolings} poolings, "
                f"got {images.shape[1]} x {images.shape[2]}"
            )
        maps: NDArray[np.float32] = self._net.run(images, threads)
        return maps


def layers_of(model: Any) -> list[Layer] | None:
    """Layers of a Keras model, or None if it has anything that :class:`ConvNet` cannot do.

    What it can do: a chain of Conv2D (3 x 3, strides of 1, padding "same", a bias, ReLU or no activation,
    channels last, float32) and MaxPooling2D (2 x 2, strides of 2, padding "valid"), with a Conv2D among them.
    Weights are read as they are now.

    Parameters
    ----------
    model : keras.Model
        Looked at by the names of its layers' classes and their attributes; Keras is not imported.
    """
    try:
        inputs, outputs, chain = list(model.inputs), list(model.outputs), list(model.layers)
        if len(inputs) != 1 or len(outputs) != 1:
            return None
        layers: list[Layer] = []
        end = inputs[0]
        for layer in chain:
            kind = type(layer).__name__
            if kind == "InputLayer":
                if layer.output is not end or layers:
                    return None
                continue
            if layer.input is not end:  # a branch, or a layer used twice
                return None
            end = layer.output
            read = {"Conv2D": _convolution, "MaxPooling2D": _pooling}.get(kind)
            found = None if read is None else read(layer)
            if found is None:
                return None
            layers.append(found)
    except (AttributeError, ValueError):  # not a model, not built, or a layer with several inputs
        return None
    if end is not outputs[0] or not any(isinstance(layer, Convolution) for layer in layers):
        return None
    return layers


def _convolution(layer: Any) -> Convolution | None:
    activation = getattr(layer.activation, "__name__", None)
    if (
        tuple(layer.kernel_size) != (3, 3)
        or tuple(layer.strides) != (1, 1)
        or tuple(layer.dilation_rate) != (1, 1)
        or layer.groups != 1
        or layer.padding != "same"
        or layer.data_format != "channels_last"
        or layer.compute_dtype != "float32"
        or not layer.use_bias
        or activation not in ("relu", "linear")
    ):
        return None
    kernel, bias = layer.get_weights()
    return Convolution(
        np.asarray(kernel, np.float32), np.asarray(bias, np.float32), activation == "relu", layer.name
    )


def _pooling(layer: Any) -> Pooling | None:
    if (
        tuple(layer.pool_size) != (2, 2)
        or tuple(layer.strides) != (2, 2)
        or layer.padding != "valid"
        or layer.data_format != "channels_last"
    ):
        return None
    return Pooling()
