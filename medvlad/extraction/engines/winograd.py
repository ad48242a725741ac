r"""Networks of 3 x 3 convolutions and 2 x 2 pooling (VGG16, VGG19) on the CPU, in float32.

Convolutions use Winograd's minimal filtering F(4x4, 3x3). It computes a tile Y of 4 x 4 outputs from a tile d
of 6 x 6 inputs and a 3 x 3 kernel g with 36 multiplications instead of 144:

.. math::

    Y = A^\top \left[ (G g G^\top) \odot (B^\top d B) \right] A

A, B and G are constant matrices, and :math:`\odot` multiplies element by element. ``csrc/core/convnet.hpp``
has the matrices. The network runs two to three times as fast as with direct convolutions.

Results differ from exact ones by a few millionths of the largest number. They depend neither on the number of
threads nor on the batch. :mod:`medvlad.backends.native` chooses the instruction set.

References
----------
Lavin, Gray: Fast algorithms for convolutional neural networks. CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, check_n_threads

__all__ = ["ConvNet", "Convolution", "Layer", "Pooling", "is_plain", "layers_of"]


@dataclass(frozen=True, eq=False)
class Convolution:
    """A 3 x 3 convolution with zero padding, a bias and, optionally, ReLU.

    Parameters
    ----------
    kernel : ndarray of float32, shape (3, 3, C, D)
        Weights for C input and D output channels.
    bias : ndarray of float32, shape (D,)
        Number added to each output channel.
    relu : bool, default=True
        Whether negative outputs become zero.
    name : str, default=""
        Name of the layer.
    """

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    relu: bool = True
    name: str = ""


@dataclass(frozen=True)
class Pooling:
    """Maximum over blocks of 2 x 2 numbers. An odd last row or column is left out."""


Layer = Convolution | Pooling


class ConvNet:
    """A network of these layers, ready to run.

    It keeps its weights in transformed form, which needs four times their memory, and the buffers of the last
    call. Any number of threads may run one network at the same time.

    Parameters
    ----------
    layers : sequence of Convolution and Pooling
        Layers in the order in which they run. At least one is a convolution.

    Attributes
    ----------
    n_channels : int
        Number of channels C of the input.
    n_features_out : int
        Number of channels D of the output.

    Raises
    ------
    InputError
        If a layer has arrays of a wrong shape or dtype, or does not take the output of the layer before it.
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
                raise InputError(
                    f"layer {i}: kernel and bias must be float32, got {kernel.dtype} and {bias.dtype}"
                )
            if n_channels is None:
                n_channels = kernel.shape[2]
            elif kernel.shape[2] != width:
                raise InputError(
                    f"layer {i} takes {kernel.shape[2]} channels, and the layer before it returns {width}"
                )
            width = kernel.shape[3]
            prepared.append((np.ascontiguousarray(kernel), np.ascontiguousarray(bias), bool(layer.relu)))
        if n_channels is None:
            raise InputError("layers hold no convolution: a network needs at least one")
        self.n_channels: int = n_channels
        self.n_features_out: int = width
        self._n_poolings = prepared.count(None)
        self._net = native.convnet(prepared, n_channels)

    def run(self, images: NDArray[np.float32], *, n_threads: int | None = None) -> NDArray[np.float32]:
        """Return the feature maps of the last layer.

        Parameters
        ----------
        images : ndarray of float32, shape (B, H, W, C), C-contiguous
            Preprocessed images.
        n_threads : int or None, default=None
            Number of threads. None: one for each processor that this process may use.

        Returns
        -------
        ndarray of float32, shape (B, h, w, D)
            An input that is NaN or infinite makes the outputs that depend on it NaN or infinite.

        Raises
        ------
        InputError
            If `images` has a wrong shape, dtype or memory layout, or is too small for the poolings.
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


def is_plain(model: Any) -> bool:
    """Return whether :class:`ConvNet` can run a Keras model. No weights are read.

    It can run a chain of Conv2D (3 x 3, strides of 1, padding "same", a bias, ReLU or no activation, channels
    last, float32) and MaxPooling2D (2 x 2, strides of 2, padding "valid") with at least one Conv2D.

    Parameters
    ----------
    model : keras.Model
        Recognised by the class names and attributes of its layers. Keras is not imported. A
        :class:`medvlad.extraction.plain_network.PlainModel` is plain.
    """
    return hasattr(model, "plain_layers") or _chain_of(model) is not None


def layers_of(model: Any) -> list[Layer] | None:
    """Return the layers of a Keras model with copies of their present weights.

    Parameters
    ----------
    model : keras.Model or PlainModel

    Returns
    -------
    list of Convolution and Pooling, or None
        None if :func:`is_plain` is false.
    """
    if hasattr(model, "plain_layers"):
        return list(model.plain_layers)
    chain = _chain_of(model)
    if chain is None:
        return None
    return [_convolution(layer) if _is_convolution(layer) else Pooling() for layer in chain]


def _chain_of(model: Any) -> list[Any] | None:
    """Return the Keras layers of a chain that :class:`ConvNet` can run, without the input layer."""
    try:
        inputs, outputs, layers = list(model.inputs), list(model.outputs), list(model.layers)
        if len(inputs) != 1 or len(outputs) != 1:
            return None
        chain: list[Any] = []
        end = inputs[0]
        for layer in layers:
            if type(layer).__name__ == "InputLayer":
                if layer.output is not end or chain:
                    return None
                continue
            if layer.input is not end:  # a branch, or a layer that is used twice
                return None
            end = layer.output
            if not (_is_convolution(layer) or _is_pooling(layer)):
                return None
            chain.append(layer)
    except (AttributeError, ValueError):  # not a model, not built, or a layer with several inputs
        return None
    if end is not outputs[0] or not any(_is_convolution(layer) for layer in chain):
        return None
    return chain


def _is_convolution(layer: Any) -> bool:
    return (
        type(layer).__name__ == "Conv2D"
        and tuple(layer.kernel_size) == (3, 3)
        and tuple(layer.strides) == (1, 1)
        and tuple(layer.dilation_rate) == (1, 1)
        and layer.groups == 1
        and layer.padding == "same"
        and layer.data_format == "channels_last"
        and layer.compute_dtype == "float32"
        and bool(layer.use_bias)
        and _activation(layer) in ("relu", "linear")
    )


def _is_pooling(layer: Any) -> bool:
    return (
        type(layer).__name__ == "MaxPooling2D"
        and tuple(layer.pool_size) == (2, 2)
        and tuple(layer.strides) == (2, 2)
        and layer.padding == "valid"
        and layer.data_format == "channels_last"
    )


def _activation(layer: Any) -> str | None:
    return getattr(layer.activation, "__name__", None)


def _convolution(layer: Any) -> Convolution:
    kernel, bias = layer.get_weights()
    kernel, bias = np.asarray(kernel, np.float32), np.asarray(bias, np.float32)
    return Convolution(kernel, bias, _activation(layer) == "relu", layer.name)
