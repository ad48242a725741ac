"""The Keras model itself, compiled once a shape by whatever backend Keras was told to use (KERAS_BACKEND).

``network.predict`` would trace anew for each size of batch and copies its result to the host; so each backend
is asked by itself. TF32 is a GPU's default for what it calls float32, and is switched off meanwhile.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.descriptors.gpu_array import GpuArray
from medvlad.descriptors.gpu_array import on_gpu as array_on_gpu
from medvlad.extraction.network import float32_arithmetic, import_keras

__all__ = ["make", "on_gpu"]


def on_gpu() -> bool:
    """Whether Keras computes on a GPU here."""
    keras_backend = import_keras().config.backend()
    if keras_backend == "torch":
        return bool(importlib.import_module("torch").cuda.is_available())
    if keras_backend == "jax":
        return bool(importlib.import_module("jax").default_backend() != "cpu")
    if keras_backend == "tensorflow":
        return bool(importlib.import_module("tensorflow").config.list_physical_devices("GPU"))
    return False


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in tiles; else float32 is faster."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False


def make(network: Any, *, dtype: str, output: str, **_: Any) -> Callable[[NDArray[np.float32]], Any]:
    """See :func:`medvlad.extraction.engines.make_engine`."""
    if dtype == "bfloat16" and (on_gpu() or has_fast_bfloat16()):
        with float32_arithmetic():
            network = _in_bfloat16(network)
    keras_backend = import_keras().config.backend()
    if keras_backend not in _COMPILERS:
        raise InputError(
            f"engine='keras' needs Keras on {', '.join(_COMPILERS)}: set KERAS_BACKEND, now {keras_backend}"
        )
    compute = _COMPILERS[keras_backend](network)

    def on_host(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        with float32_arithmetic():  # a graph is built when it is first run
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
    """Return a copy of the network that computes in bfloat16 and gives float32."""
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
        if side not in graphs:  # for any number of images
            signature = [tf.TensorSpec((None, side, side, 3), tf.float32)]
            graphs[side] = tf.function(partial(network, training=False), input_signature=signature)
        with _without_tf32(tf.config.experimental):
            return graphs[side](tf.constant(pixels))

    return compute


@contextmanager
def _without_tf32(settings: Any) -> Iterator[None]:
    allowed = settings.tensor_float_32_execution_enabled()
    settings.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        settings.enable_tensor_float_32_execution(allowed)


def _jax(network: Any) -> Callable[[NDArray[np.float32]], Any]:
    jax = importlib.import_module("jax")
    stateless = jax.jit(partial(network.stateless_call, training=False))

    def compute(pixels: NDArray[np.float32]) -> Any:
        # Compiled for 1, 2, 4, 8, ... images: a graph for each size of a last batch takes longer than it.
        size = 1 << (len(pixels) - 1).bit_length()
        padded = np.zeros((size, *pixels.shape[1:]), np.float32)
        padded[: len(pixels)] = pixels
        weights = [v.value for v in network.trainable_variables]
        others = [v.value for v in network.non_trainable_variables]
        with jax.default_matmul_precision("float32"):
            return stateless(weights, others, padded)[0][: len(pixels)]

    return compute


def _torch(network: Any) -> Callable[[NDArray[np.float32]], Any]:
    torch = importlib.import_module("torch")

    def compute(pixels: NDArray[np.float32]) -> Any:
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return network(pixels, training=False)

    return compute


_COMPILERS: dict[str, Callable[[Any], Callable[[NDArray[np.float32]], Any]]] = {
    "tensorflow": _tensorflow,
    "jax": _jax,
    "torch": _torch,
}
