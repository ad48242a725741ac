"""A Keras application with its weights, cut at a layer.

Keras defines the network and its preprocessing. :mod:`medvlad.extraction.engines` chooses the program that
runs it.

The network is built and run in float32. Keras' global dtype policy and floatx may have other values. Both are
set to float32 while the network is built or runs, and are restored afterwards.
"""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from medvlad._util.memory import OutOfMemory
from medvlad._util.validate import InputError, MissingExtraError, import_extra, one_line
from medvlad.extraction.efficientnet_lite import NETWORKS
from medvlad.extraction.networks.frozen import FrozenNetwork
from medvlad.extraction.networks.layer_list import Layer, spatial_first
from medvlad.extraction.process_setting import ProcessSetting
from medvlad.extraction.weights import fill_network, fingerprint, weights_source

__all__ = ["build", "float32_arithmetic", "import_keras", "layers_of_application"]

logger = logging.getLogger(__name__)

_SIDE = 224
_VGG_LAYER = "block5_pool"  # the layer of the paper
_FLOATX = ProcessSetting("float32")
#: Errors of TensorFlow and PyTorch that mean too little memory.
_OUT_OF_MEMORY = ("ResourceExhaustedError", "OutOfMemoryError")


@contextmanager
def float32_arithmetic() -> Iterator[None]:
    """Make Keras build and compute in float32 until the context ends.

    Raises
    ------
    OutOfMemory
        If Keras' backend finds too little memory. Its own error is no MemoryError.
    """
    config = import_keras().config
    policy = config.dtype_policy()  # each thread has its own policy; all threads share floatx
    with _FLOATX.held(config.floatx, config.set_floatx):
        try:
            config.set_dtype_policy("float32")
            yield
        except Exception as error:
            if type(error).__name__ not in _OUT_OF_MEMORY:
                raise
            raise OutOfMemory(
                f"not enough memory for the network ({one_line(error)[:200]}): use a smaller batch_size or "
                "scale, or allow the process more memory"
            ) from error
        finally:
            config.set_dtype_policy(policy)


def build(model: str, layer: str | None, weights: str | os.PathLike[str]) -> FrozenNetwork:
    """Build the network of a Keras application. See :func:`medvlad.extraction.networks.build_network`.

    Parameters
    ----------
    model : str
        Name of a network of ``keras.applications``, in upper or lower case.
    layer : str or None
        Name of the layer at which the network is cut. None: block5_pool if there is one, otherwise the last
        feature map.
    weights : str or path
        Source of the weights. See :mod:`medvlad.extraction.weights`.

    Returns
    -------
    FrozenNetwork
    """
    source = weights_source(weights)
    with float32_arithmetic():
        cut, preprocess, layer = _build(import_keras(), model, layer, weights)
    return FrozenNetwork(model, layer, source, cut, preprocess, fingerprint(cut))


def layers_of_application(model: str) -> list[Layer]:
    """List the layers of a Keras application at which it can be cut. No weights are needed."""
    with float32_arithmetic():
        builder = _find_application(import_keras().applications, model)
        network = builder(weights=None, include_top=False)
        shapes = {}
        for layer in network.layers:
            cut = import_keras().Model(network.input, layer.output)
            shapes[layer.name] = cut.compute_output_shape((1, _SIDE, _SIDE, 3))
    return spatial_first(Layer(name, tuple(shape)) for name, shape in shapes.items())


def _build(
    keras: Any, model: str, layer: str | None, weights: str | os.PathLike[str]
) -> tuple[Any, Callable[..., Any], str]:
    if not isinstance(layer, str | None):
        raise InputError(f"layer must be the name of a layer, got {layer!r}")
    if keras.config.image_data_format() != "channels_last":
        raise InputError(
            "Keras is set to channels_first, and medvlad needs channels_last: set image_data_format to "
            "channels_last in keras.json"
        )
    builder = _find_application(keras.applications, model)
    name = builder.__name__
    network, include_top = builder(weights=None, include_top=False), False
    names = [x.name for x in network.layers if len(x.output.shape) == 4]
    if layer is None:
        layer = _VGG_LAYER if _VGG_LAYER in names else names[-1]
        logger.info("%s: layer %s", name, layer)
    if layer not in names:
        network, include_top = builder(weights=None, include_top=True), True
        if layer not in [x.name for x in network.layers]:
            close = difflib.get_close_matches(layer, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"its last layers are {', '.join(names[-4:])}"
            raise InputError(f"{name} has no layer {layer!r}: {hint}")
    network = fill_network(network, builder, weights, include_top=include_top)
    cut = keras.Model(network.input, network.get_layer(layer).output, name=network.name)
    if len(cut.output_shape) not in (2, 4):
        raise InputError(
            f"layer {layer!r} of {name} has shape {cut.output_shape}: choose one of shape (h, w, D) or (D,)"
        )
    for part in _layers_in(cut):
        if part.compute_dtype != "float32":
            raise InputError(
                f"layer {part.name!r} of {name} computes in {part.compute_dtype}, and descriptors need "
                "float32: build the network with the dtype policy 'float32'"
            )
    cut.trainable = False
    return cut, sys.modules[builder.__module__].preprocess_input, layer


def _layers_in(network: Any) -> Iterator[Any]:
    """Yield the layers of a network, and the layers of the networks inside it."""
    for layer in network.layers:
        yield layer
        yield from _layers_in(layer) if hasattr(layer, "layers") else ()


def import_keras() -> Any:
    """Import Keras with the backend that KERAS_BACKEND or keras.json names.

    Returns
    -------
    module

    Raises
    ------
    MissingExtraError
        If Keras or its backend is not installed.
    InputError
        If KERAS_BACKEND is not the name of a backend of Keras.
    """
    try:
        return import_extra("keras", "tensorflow", "CNNDescriptors")
    except MissingExtraError as error:
        backend = getattr(error.__cause__, "name", None)
        if backend in ("jax", "torch", "openvino"):
            raise MissingExtraError(
                f"KERAS_BACKEND is {backend}, which is not installed: install it, or set KERAS_BACKEND to "
                "another backend"
            ) from error
        if isinstance(error.__cause__, ValueError):  # Keras does not know the backend
            raise InputError(f"Keras cannot start ({error.__cause__}): check KERAS_BACKEND") from error
        raise


def _find_application(applications: Any, model: str) -> Callable[..., Any]:
    """Return ``keras.applications.NAME``, or a network of this package, for a name in any case."""
    if isinstance(model, str) and model.lower() in NETWORKS:
        return NETWORKS[model.lower()]
    names = {
        name.lower(): name
        for name in dir(applications)
        if not name.startswith("_") and name[0].isupper() and callable(getattr(applications, name))
    }
    if not isinstance(model, str) or model.lower() not in names:
        known = sorted([*names, *NETWORKS])
        close = difflib.get_close_matches(str(model).lower(), known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"use one of {', '.join(known)}"
        raise InputError(f"Keras has no network {model!r}: {hint}")
    application: Callable[..., Any] = getattr(applications, names[model.lower()])
    return application
