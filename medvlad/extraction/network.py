"""The frozen network: a Keras application with its weights, cut at a layer.

Keras holds the one definition of a network and its preprocessing; what runs it is chosen in
:mod:`medvlad.extraction.engines`.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable
from typing import Any

from medvlad._util.validate import InputError, MissingExtraError, import_extra
from medvlad.extraction.weights import fill_network

__all__ = ["build_network", "import_keras"]


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
        If there is no such network or layer, or the weights do not fit.
    MissingExtraError
        If Keras or its backend is not installed.
    """
    keras = import_keras()
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
    cut.trainable = False
    return cut, sys.modules[builder.__module__].preprocess_input


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
