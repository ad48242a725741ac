"""The frozen network: a Keras application with its weights, cut at a layer.

Keras holds the one definition of a network and its preprocessing; what runs it is chosen in
:mod:`medvlad.extraction.engines`.

The network computes in float32, whatever Keras' global dtype policy and floatx are: both are set for as long
as it is built or runs, and are then what they were.
"""

from __future__ import annotations

import difflib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from medvlad._util.validate import InputError, MissingExtraError, import_extra
from medvlad.extraction.weights import fill_network

__all__ = ["build_network", "float32_arithmetic", "import_keras"]


class _Floatx:
    """Keras' floatx, which all threads share: float32 until the last thread that needs this has left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = "float32"

    def enter(self, config: Any) -> None:
        with self._lock:
            if self._users == 0:
                self._before = config.floatx()
                config.set_floatx("float32")
            self._users += 1

    def leave(self, config: Any) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                config.set_floatx(self._before)


_FLOATX = _Floatx()


@contextmanager
def float32_arithmetic() -> Iterator[None]:
    """Have Keras build and compute in float32 for as long as the context lasts."""
    config = import_keras().config
    policy = config.dtype_policy()  # each thread has its own
    _FLOATX.enter(config)
    try:
        config.set_dtype_policy("float32")
        yield
    finally:
        config.set_dtype_policy(policy)
        _FLOATX.leave(config)


def build_network(model: str, layer: str, weights: str | os.PathLike[str]) -> tuple[Any, Callable[..., Any]]:
    """Build the frozen network from image to `layer`.

    Parameters
    ----------
    model : str
        Any network of ``keras.applications``, in any case.
    layer : str
    weights : str or path
        See :mod:`medvlad.extraction.weights`.

    Returns
    -------
    network : keras.Model
        From pixels (B, s, s, 3) to feature maps (B, h, w, D) or vectors (B, D).
    preprocess : callable
        From RGB pixels in 0..255 to what the network takes. It may work in place.

    Raises
    ------
    InputError
        If there is no such network or layer, the weights do not fit, or a layer does not compute in float32.
    MissingExtraError
        If Keras or its backend is not installed.
    """
    with float32_arithmetic():
        return _build(import_keras(), model, layer, weights)


def _build(
    keras: Any, model: str, layer: str, weights: str | os.PathLike[str]
) -> tuple[Any, Callable[..., Any]]:
    if not isinstance(layer, str):
        raise InputError(f"layer must be the name of a layer, got {layer!r}")
    if keras.config.image_data_format() != "channels_last":
        raise InputError(
            "Keras is set to channels_first: set image_data_format to channels_last in keras.json"
        )
    builder = _find_application(keras.applications, model)
    name = builder.__name__
    network, include_top = builder(weights=None, include_top=False), False
    names = [x.name for x in network.layers if len(x.output.shape) == 4]
    if layer not in names:
        network, include_top = builder(weights=None, include_top=True), True
        if layer not in [x.name for x in network.layers]:
            close = difflib.get_close_matches(layer, names, n=1)
            hint = f"did you mean {close[0]!r}" if close else f"the last are {', '.join(names[-4:])}"
            raise InputError(f"{name} has no layer {layer!r}: {hint}")
    network = fill_network(network, builder, weights, include_top=include_top)
    cut = keras.Model(network.input, network.get_layer(layer).output, name=network.name)
    if len(cut.output_shape) not in (2, 4):
        raise InputError(
            f"layer {layer!r} of {name} has shape {cut.output_shape}: choose one of (h, w, D) or (D,)"
        )
    for part in _layers_in(cut):
        if part.compute_dtype != "float32":
            raise InputError(
                f"layer {part.name!r} of {name} computes in {part.compute_dtype}, and descriptors need "
                "float32: build the network with the dtype policy 'float32'"
            )
    cut.trainable = False
    return cut, sys.modules[builder.__module__].preprocess_input


def _layers_in(network: Any) -> Iterator[Any]:
    """Yield the layers of a network and of the networks in it."""
    for layer in network.layers:
        yield layer
        yield from _layers_in(layer) if hasattr(layer, "layers") else ()


def import_keras() -> Any:
    """Import Keras with whatever backend it was told to use.

    Raises
    ------
    MissingExtraError
        If Keras or its backend is not installed.
    InputError
        If KERAS_BACKEND names no backend of Keras.
    """
    try:
        return import_extra("keras", "tensorflow", "CNNDescriptors")
    except MissingExtraError as error:
        backend = getattr(error.__cause__, "name", None)
        if backend in ("jax", "torch", "openvino"):
            raise MissingExtraError(
                f"KERAS_BACKEND is {backend}, which is not installed: install it or name another"
            ) from error
        raise
    except ValueError as error:  # a backend that Keras does not know
        raise InputError(f"Keras cannot start ({error}): check KERAS_BACKEND") from error


def _find_application(applications: Any, model: str) -> Callable[..., Any]:
    """``keras.applications.NAME``, whatever the case of `model`."""
    names = {
        name.lower(): name
        for name in dir(applications)
        if not name.startswith("_") and name[0].isupper() and callable(getattr(applications, name))
    }
    if not isinstance(model, str) or model.lower() not in names:
        close = difflib.get_close_matches(str(model).lower(), names, n=3)
        hint = f"did you mean {' or '.join(close)}" if close else f"use one of {', '.join(sorted(names))}"
        raise InputError(f"Keras has no network {model!r}: {hint}")
    application: Callable[..., Any] = getattr(applications, names[model.lower()])
    return application
