"""What the header of a model file says about the network."""

from __future__ import annotations

from typing import Any

from medvlad._util.validate import InputError
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.networks import kind_of

__all__ = ["network_entries", "network_from"]

#: Parameters of the network that are saved. The others, such as the store, belong to the machine.
_NETWORK = (
    *("model", "layer", "scales", "mirror", "weights", "resize", "dtype", "colour_profile"),
    *("preprocess", "prefix_tokens", "side"),
)
#: Values of parameters that older files do not have.
_OLDER = {"colour_profile": "ignore", "preprocess": None, "prefix_tokens": None, "side": None}


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


def network_entries(features: CNNDescriptors | None) -> dict[str, Any]:
    """Return the header's entries on the network. All are None if there is no network."""
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
    return {
        "features": {name: getattr(features, name) for name in _NETWORK} | found,
        "weights_fingerprint": features.weights_fingerprint_,
        "ranges": getattr(features, "ranges_", None) if features.dtype == "int8" else None,
    }
