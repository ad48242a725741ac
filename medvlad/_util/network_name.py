"""Names of networks without folders of this machine, which may name a person or a project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["without_folder", "without_folders"]

_ONNX = "onnx:"


def without_folder(model: Any) -> Any:
    """Return the name of a network. "onnx:FOLDER/FILE" becomes "onnx:FILE", the others stay.

    Examples
    --------
    >>> from medvlad._util.network_name import without_folder
    >>> without_folder("onnx:/home/smith/chest.onnx")
    'onnx:chest.onnx'
    """
    if isinstance(model, str) and model.startswith(_ONNX):
        return _ONNX + Path(model.removeprefix(_ONNX)).name
    return model


def without_folders(network: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters of a network in which the files of `model` and `weights` have no folder."""
    found = dict(network)
    if "model" in found:
        found["model"] = without_folder(found["model"])
    if found.get("weights") is not None:
        found["weights"] = Path(str(found["weights"])).name
    return found
