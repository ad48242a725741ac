"""What the header of a model file says about the network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from medvlad._util.network_name import without_folders
from medvlad._util.urls import is_url
from medvlad._util.validate import InputError
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.fetched_weights import without_digest
from medvlad.extraction.networks import kind_of

__all__ = ["check_network_file", "network_entries", "network_from"]

#: Parameters of the network that are saved. The others, such as the store, belong to the machine.
_NETWORK = (
    *("model", "layer", "scales", "mirror", "weights", "resize", "dtype", "colour_profile"),
    *("decode", "preprocess", "prefix_tokens", "side"),
)
#: Weights that are no file.
_NO_FILE = ("imagenet", "bundled", "random", "given")
#: Values of parameters that older files do not have.
_OLDER = {
    **{"colour_profile": "ignore", "decode": "full"},
    **{"preprocess": None, "prefix_tokens": None, "side": None},
}


def network_from(header: dict[str, Any], weights: str | None) -> CNNDescriptors:
    """Make the network that a header describes, without building it."""
    # Only these parameters are read, so that a stranger's file cannot name a folder to write into.
    settings = {name: (_OLDER | header["features"])[name] for name in _NETWORK}
    settings |= {"scales": tuple(settings["scales"])}
    if kind_of(settings["model"]) == "onnx":
        settings |= {"weights": "imagenet"} | ({"model": f"onnx:{weights}"} if weights else {})
    elif weights:
        settings["weights"] = weights
    features = CNNDescriptors(**settings)
    if header.get("ranges") is not None:
        features.ranges_ = {str(name): float(value) for name, value in header["ranges"].items()}
    str(header["weights_fingerprint"])  # KeyError if it is missing
    return features


def check_network_file(features: CNNDescriptors, path: str | os.PathLike[str]) -> None:
    """Raise InputError if the file that the model at `path` names for its network is missing."""
    of_onnx = kind_of(features.model) == "onnx"
    file = str(features.model).removeprefix("onnx:") if of_onnx else without_digest(str(features.weights))
    if not (file in _NO_FILE or is_url(file) or Path(file).exists()):
        raise InputError(
            f"the model {path} needs the file {file} of its network, and there is none: give it with "
            "weights='FILE'"
        )


def network_entries(features: CNNDescriptors | None, *, anonymise: bool = False) -> dict[str, Any]:
    """Return the header's entries on the network. All are None if there is no network.

    Parameters
    ----------
    features : CNNDescriptors or None
    anonymise : bool, default=False
        Whether to leave out the folders of its files.
    """
    if features is None:
        return {"features": None, "weights_fingerprint": None, "ranges": None}
    network = features.build().network_
    if network.kind == "module":
        raise InputError(
            f"a model file cannot name the object {network.model}: export it with torch.onnx.export and use "
            "model='onnx:FILE', or save the steps after it as a model of descriptors"
        )
    # What was found in the network's configuration is kept, because the configuration may change.
    found = network.input_settings() | {"layer": network.layer, "weights": network.source}
    entries = {name: getattr(features, name) for name in _NETWORK} | found | {"dtype": features.dtype_}
    return {
        "features": without_folders(entries) if anonymise else entries,
        "weights_fingerprint": features.weights_fingerprint_,
        "ranges": getattr(features, "ranges_", None) if features.dtype_ == "int8" else None,
    }
