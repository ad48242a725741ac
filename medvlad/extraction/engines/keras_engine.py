"""Run the Keras model itself, compiled once for each input size by the backend that KERAS_BACKEND names.

``network.predict`` traces the network again for each batch size and copies its result to the host. So this
module calls TensorFlow, JAX or PyTorch directly. A GPU computes float32 in TF32 by default, with 10 bits
after the point instead of 23. TF32 is switched off while the network runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.processor_model import processor_model
from medvlad._util.validate import InputError
from medvlad.descriptors.gpu_array import GpuArray
from medvlad.descriptors.gpu_array import on_gpu as array_on_gpu
from medvlad.extraction.networks.keras_network import float32_arithmetic, import_keras
from medvlad.extraction.process_setting import ProcessSetting

__all__ = ["has_fast_bfloat16", "make", "on_gpu", "without_torch_tf32"]

_TENSORFLOW_TF32 = ProcessSetting(False)
_CUDNN_TF32 = ProcessSetting(False)
_MATMUL_TF32 = ProcessSetting(False)


def on_gpu() -> bool:
    """Return whether Keras computes on a GPU."""
    keras_backend = import_keras().config.backend()
    if keras_backend == "torch":
        return bool(importlib.import_module("torch").cuda.is_available())
    if keras_backend == "jax":
        return bool(importlib.import_module("jax").default_backend() != "cpu")
    if keras_backend == "tensorflow":
        return bool(importlib.import_module("tensorflow").config.list_physical_devices("GPU"))
    return False


def has_fast_bfloat16() -> bool:
    """Return whether this processor multiplies tiles of bfloat16 (AMX). If not, float32 is faster."""
    return "amx_bf16" in processor_model().instructions


def make(network: Any, *, dtype: str, output: str, **_: Any) -> Callable[[NDArray[np.float32]], Any]:
    """Make the engine. See :func:`medvlad.extraction.engines.make_engine`."""
    if dtype == "bfloat16" and (on_gpu() or has_fast_bfloat16()):
        with float32_arithmetic():
            network = _in_bfloat16(network)
    keras_backend = import_keras().config.backend()
    if keras_backend not in _COMPILERS:
        raise InputError(
            f"engine='keras' cannot use the Keras backend {keras_backend}: set KERAS_BACKEND to one of "
            f"{', '.join(_COMPILERS)}"
        )
    compute = _COMPILERS[keras_backend](network)

    def on_host(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        with float32_arithmetic():  # the first call builds a graph
            maps = compute(pixels)
        return np.asarray(maps.cpu() if keras_backend == "torch" else maps, np.float32)

    def on_device(pixels: NDArray[np.float32]) -> Any:
        with float32_arithmetic():
            maps = compute(pixels)
        if not array_on_gpu(maps):
            raise InputError(
                f"output='gpu' needs a GPU, and Keras computes on the CPU here ({keras_backend}): "
                "use output='host'"
            )
        return GpuArray.read(maps, "feature maps").float32()

    return on_device if output == "gpu" else on_host


def _in_bfloat16(network: Any) -> Any:
    """Return a copy of the network that computes in bfloat16 and returns float32."""
    keras = import_keras()

    def converted(layer: Any) -> Any:
        settings = layer.get_config()
        if type(layer).__name__ != "InputLayer":
            settings["dtype"] = "mixed_bfloat16"
        return type(layer).from_config(settings)

    copy = keras.models.clone_model(network, clone_function=converted)
    copy.set_weights(network.get_weights())
    return keras.Model(copy.input, keras.ops.cast(copy.output, "float32"))


def _tensorflow(network: Any) -> Callable[[NDArray[np.float32]], Any]:
    tf = importlib.import_module("tensorflow")
    graphs: dict[int, Any] = {}

    def compute(pixels: NDArray[np.float32]) -> Any:
        side = pixels.shape[1]
        if side not in graphs:  # one graph serves any number of images
            signature = [tf.TensorSpec((None, side, side, 3), tf.float32)]
            graphs[side] = tf.function(partial(network, training=False), input_signature=signature)
        with _without_tensorflow_tf32(tf):
            return graphs[side](tf.constant(pixels))

    return compute


@contextmanager
def _without_tensorflow_tf32(tf: Any) -> Iterator[None]:
    """Switch TF32 off in TensorFlow until the context ends. No other flag changes."""
    flags = tf.config.experimental
    read, write = flags.tensor_float_32_execution_enabled, flags.enable_tensor_float_32_execution
    with _TENSORFLOW_TF32.held(read, write):
        yield


def _jax(network: Any) -> Callable[[NDArray[np.float32]], Any]:
    jax = importlib.import_module("jax")
    stateless = jax.jit(partial(network.stateless_call, training=False))

    def compute(pixels: NDArray[np.float32]) -> Any:
        # Batches are padded to 1, 2, 4, 8, ... images: JAX compiles anew for each size, which takes longer
        # than the network needs for the padding.
        size = 1 << (len(pixels) - 1).bit_length()
        padded = np.zeros((size, *pixels.shape[1:]), np.float32)
        padded[: len(pixels)] = pixels
        weights = [v.value for v in network.trainable_variables]
        others = [v.value for v in network.non_trainable_variables]
        with jax.default_matmul_precision("float32"):  # applies to this thread only
            return stateless(weights, others, padded)[0][: len(pixels)]

    return compute


def _torch(network: Any) -> Callable[[NDArray[np.float32]], Any]:
    torch = importlib.import_module("torch")

    def compute(pixels: NDArray[np.float32]) -> Any:
        with torch.no_grad(), without_torch_tf32(torch):
            return network(pixels, training=False)

    return compute


@contextmanager
def without_torch_tf32(torch: Any) -> Iterator[None]:
    """Switch TF32 off in PyTorch until the context ends. No other flag changes."""

    def flag_of(owner: Any) -> tuple[Callable[[], bool], Callable[[bool], None]]:
        return (lambda: bool(owner.allow_tf32)), (lambda value: setattr(owner, "allow_tf32", value))

    convolutions, products = flag_of(torch.backends.cudnn), flag_of(torch.backends.cuda.matmul)
    with _CUDNN_TF32.held(*convolutions), _MATMUL_TF32.held(*products):
        yield


_COMPILERS: dict[str, Callable[[Any], Callable[[NDArray[np.float32]], Any]]] = {
    "tensorflow": _tensorflow,
    "jax": _jax,
    "torch": _torch,
}
