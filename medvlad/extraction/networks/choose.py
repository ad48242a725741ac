"""Choose what builds a network: Keras, onnxruntime or torch. No other module makes this choice."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvlad._util.urls import is_url
from medvlad._util.validate import InputError
from medvlad.extraction.fetched_weights import weights_file, without_digest
from medvlad.extraction.networks.frozen import FrozenNetwork
from medvlad.extraction.networks.layer_list import Layer
from medvlad.extraction.networks.onnx_file import check_file
from medvlad.extraction.networks.preprocessing import as_preprocessing
from medvlad.extraction.weights import check_weights, weights_source

__all__ = [
    "build_network",
    "check_network",
    "kind_of",
    "layers_of_network",
    "needs_keras",
    "network_key",
]

_TORCH_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def kind_of(model: Any) -> str:
    """Return what defines a network.

    Parameters
    ----------
    model : str or torch.nn.Module
        See :mod:`medvlad.extraction.networks`.

    Returns
    -------
    {"keras", "onnx", "timm", "module"}

    Raises
    ------
    InputError
        If `model` is neither text nor a torch.nn.Module.
    """
    if isinstance(model, str):
        prefix = model.partition(":")[0] if ":" in model else ""
        return prefix if prefix in ("onnx", "timm") else "keras"
    # torch is not imported: an object of it cannot exist without.
    names = [f"{one.__module__}.{one.__name__}" for one in type(model).__mro__]
    if "torch.nn.modules.module.Module" in names:
        return "module"
    raise InputError(
        "model must be a name of keras.applications, 'onnx:FILE', 'timm:NAME' or a torch.nn.Module, got "
        f"{model!r}"
    )


def needs_keras(model: Any) -> bool:
    """Return whether Keras must be started to run a network."""
    return kind_of(model) == "keras"


def check_network(
    model: Any,
    layer: Any,
    weights: str | os.PathLike[str],
    *,
    preprocess: Any = None,
    prefix_tokens: Any = None,
) -> str:
    """Check what can be checked without building the network, and return the source of its weights.

    The parameters are those of :func:`build_network`.

    Returns
    -------
    str
        Keras: as :func:`medvlad.extraction.weights.weights_source`. ONNX: the file. timm: "imagenet",
        "random", a file or its URL. An object: "given".

    Raises
    ------
    InputError
        If a file is missing, or a parameter does not belong to this kind of network.
    """
    kind = kind_of(model)
    if kind != "keras":
        weights = weights_source(weights, from_environment=False)
    if layer is not None and not isinstance(layer, str):
        raise InputError(f"layer must be the name of a layer, got {layer!r}")
    if preprocess is not None:
        as_preprocessing(preprocess)
    if prefix_tokens is not None and (
        isinstance(prefix_tokens, bool) or not isinstance(prefix_tokens, int) or prefix_tokens < 0
    ):
        raise InputError(f"prefix_tokens must be an integer of at least 0, got {prefix_tokens!r}")
    if kind == "keras":
        for name, value in (("preprocess", preprocess), ("prefix_tokens", prefix_tokens)):
            if value is not None:
                raise InputError(
                    f"{name} is for networks of onnx, timm and torch, and Keras defines it for {model!r}: "
                    "leave it out"
                )
        return check_weights(weights)
    if kind == "onnx":
        path = check_file(model)
        if os.fspath(weights) != "imagenet":
            raise InputError(
                f"weights={os.fspath(weights)!r}: {model} holds its own weights; leave weights out"
            )
        return str(path)
    if kind == "timm":
        return _timm_source(model, weights)
    if os.fspath(weights) != "imagenet":
        raise InputError("a torch.nn.Module has its own weights: leave weights out")
    if layer is None or preprocess is None:
        raise InputError(
            "a torch.nn.Module needs layer='NAME', a name of its named_modules(), and preprocess, such as "
            "preprocess='imagenet'"
        )
    return "given"


def _timm_source(model: str, weights: str | os.PathLike[str]) -> str:
    source = os.fspath(weights)
    if source in ("imagenet", "random"):
        return source
    file = without_digest(source)
    if not file.endswith(_TORCH_SUFFIXES):
        raise InputError(
            f"weights={source!r} of {model} must be 'imagenet', 'random' or a file ending in "
            f"{', '.join(_TORCH_SUFFIXES)}"
        )
    if is_url(source):
        weights_file(source)
    elif not Path(file).is_file():
        raise InputError(f"weights file {source!r} does not exist: check the path")
    return source


def build_network(
    model: Any,
    layer: str | None,
    weights: str | os.PathLike[str],
    *,
    preprocess: str | Mapping[str, Any] | None = None,
    prefix_tokens: int | None = None,
) -> FrozenNetwork:
    """Build the frozen network from an image to the output of `layer`.

    Parameters
    ----------
    model : str or torch.nn.Module
        See :mod:`medvlad.extraction.networks`.
    layer : str or None
        Name of the layer at which the network is cut. None: block5_pool of VGG; of other networks the last
        feature map, or the patch tokens after the last block.
    weights : str or path
        Source of the weights. See :class:`medvlad.CNNDescriptors`.
    preprocess : str, dict or None
        Preprocessing of a network that is not of Keras. None: the network's own. See
        :mod:`medvlad.extraction.networks.preprocessing`.
    prefix_tokens : int or None
        Number of class and register tokens before the patch tokens. None: found from the number of tokens.

    Returns
    -------
    FrozenNetwork

    Raises
    ------
    InputError
        If there is no such network or layer, the weights do not fit, or a layer does not compute in float32.
    MissingExtraError
        If a package is not installed.
    """
    check_network(model, layer, weights, preprocess=preprocess, prefix_tokens=prefix_tokens)
    kind = kind_of(model)
    if kind == "keras":
        built: FrozenNetwork = _module("keras_network").build(model, layer, weights)
        return built
    options = {"preprocess": preprocess, "prefix_tokens": prefix_tokens}
    if kind == "onnx":
        built = _module("onnx_network").build(model, layer, **options)
    elif kind == "timm":
        built = _module("timm_network").build(model, layer, weights, **options)
    else:
        built = _module("torch_cut").build(model, layer, **options)
    return built


def network_key(
    model: Any,
    layer: str | None,
    weights: str | os.PathLike[str],
    *,
    preprocess: str | Mapping[str, Any] | None = None,
    prefix_tokens: int | None = None,
) -> tuple[Any, ...]:
    """Return a key that is equal as long as :func:`build_network` would build the same network.

    The parameters are those of :func:`build_network`. A change of a module's weights changes the key. A
    change of a file does not.
    """
    source = check_network(model, layer, weights, preprocess=preprocess, prefix_tokens=prefix_tokens)
    chosen = None if preprocess is None else as_preprocessing(preprocess)
    state = _module("torch_cut").state_of(model) if kind_of(model) == "module" else None
    return model if state is None else id(model), state, layer, source, chosen, prefix_tokens


def layers_of_network(model: str) -> list[Layer]:
    """List the layers at which a network can be cut: maps and patch tokens first, the last ones first.

    Parameters
    ----------
    model : str
        Name of a network of Keras, "onnx:FILE", the path of an ONNX file, or "timm:NAME".

    Returns
    -------
    list of Layer

    Raises
    ------
    InputError
        If there is no such network.
    """
    if model.lower().endswith(".onnx") and ":" not in model:
        model = f"onnx:{model}"
    function = {"keras": "layers_of_application", "onnx": "layers_of_file", "timm": "layers_of_timm"}
    kind = kind_of(model)
    found: list[Layer] = getattr(_module(f"{kind}_network"), function[kind])(model)
    return found


def _module(name: str) -> Any:
    return importlib.import_module(f"medvlad.extraction.networks.{name}")
