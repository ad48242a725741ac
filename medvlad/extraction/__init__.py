"""Extraction: turn images into local descriptors with a frozen network.

In: image paths or arrays. Out: :class:`~medvlad.descriptors.ragged.Descriptors`, or entries in the store.

Names are imported at their first use, because the estimator needs scikit-learn, whose import takes long.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvlad.extraction.cnn_descriptors import CNNDescriptors, ExtractionReport, input_side
    from medvlad.extraction.weights import find_weights, weights_source

__all__ = ["CNNDescriptors", "ExtractionReport", "find_weights", "input_side", "weights_source"]

_MODULE = {
    "CNNDescriptors": "cnn_descriptors",
    "ExtractionReport": "cnn_descriptors",
    "find_weights": "weights",
    "input_side": "cnn_descriptors",
    "weights_source": "weights",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'medvlad.extraction' has no attribute {name!r}")
    return getattr(importlib.import_module(f"medvlad.extraction.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
