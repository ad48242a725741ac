"""The frozen network: a Keras application with its weights, cut at a layer.

Keras defines the network and its preprocessing. :mod:`medvlad.extraction.engines` chooses the program that
runs it.

The network is built and run in float32. Keras' global dtype policy and floatx may have other values. Both are
set to float32 while the network is built or runs, and are restored afterwards.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from medvlad._util.memory import OutOfMemory
from medvlad._util.validate import InputError, MissingExtraError, import_extra, one_line
from medvlad.extraction.efficientnet_lite import NETWORKS
from medvlad.extraction.process_setting import ProcessSetting
from medvlad.extraction.weights import fill_network, fingerprint, weights_source

__all__ = ["FrozenNetwork", "build_network", "float32_arithmetic", "import_keras"]

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


@dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """A network from pixels to the feature maps of one layer. Its weights do not change.

    Parameters
    ----------
    model : str
        Name of the Keras application, as the user wrote it.
    layer : str
        Name of the layer at which the network is cut.
    source : str
        Source of the weights: "imagenet", "bundled" or a file. See
        :func:`medvlad.extraction.weights.weights_source`.
    keras_model : keras.Model
        Network from preprocessed pixels (B, s, s, 3) to feature maps (B, h, w, D) or vectors (B, D).
    preprocess : callable
        Function from RGB pixels (B, s, s, 3), float32 in 0..255, to the input of `keras_model`. It may change
        its argument in place.
    fingerprint : str
        SHA-256 of the weights. See :func:`medvlad.extraction.weights.fingerprint`.
    """

    model: str
    layer: str
    source: str
    keras_model: Any
    preprocess: Callable[..., Any]
    fingerprint: str

    def is_for(self, model: str, layer: str, source: str) -> bool:
        """Return whether the network was built from this model, layer and source of weights."""
        return (self.model, self.layer, self.source) == (model, layer, source)

    @property
    def n_features(self) -> int:
        """Width D of a descriptor."""
        return int(self.keras_model.output_shape[-1])

    @property
    def only_side(self) -> int | None:
        """Side in pixels of the only square input that the network takes. None: it takes any side."""
        side = self.keras_model.input_shape[1]
        return None if side is None else int(side)

    def grid(self, side: int) -> tuple[int, int]:
        """Return height and width of the feature map of a square input.

        Parameters
        ----------
        side : int
            Side of the input in pixels.

        Returns
        -------
        (int, int)
            (1, 1) for a layer of shape (D,).
        """
        shape = self.keras_model.compute_output_shape((1, side, side, 3))
        return (int(shape[1]), int(shape[2])) if len(shape) == 4 else (1, 1)


def build_network(model: str, layer: str, weights: str | os.PathLike[str]) -> FrozenNetwork:
    """Build the frozen network from an image to the output of `layer`.

    Parameters
    ----------
    model : str
        Name of a network of ``keras.applications``, in upper or lower case.
    layer : str
        Name of the layer at which the network is cut.
    weights : str or path
        Source of the weights. See :mod:`medvlad.extraction.weights`.

    Returns
    -------
    FrozenNetwork

    Raises
    ------
    InputError
        If Keras has no such network, the network has no such layer, the weights do not fit, or a layer does
        not compute in float32.
    MissingExtraError
        If Keras or its backend is not installed.
    """
    source = weights_source(weights)
    with float32_arithmetic():
        keras_model, preprocess = _build(import_keras(), model, layer, weights)
    return FrozenNetwork(model, layer, source, keras_model, preprocess, fingerprint(keras_model))


def _build(
    keras: Any, model: str, layer: str, weights: str | os.PathLike[str]
) -> tuple[Any, Callable[..., Any]]:
    if not isinstance(layer, str):
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
    return cut, sys.modules[builder.__module__].preprocess_input


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
