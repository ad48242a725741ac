"""Extraction: turn images into local descriptors with a frozen network.

In: image paths or arrays. Out: :class:`~medvlad.descriptors.ragged.Descriptors`, or entries in the store.
"""

from medvlad.extraction.cnn_descriptors import CNNDescriptors, ExtractionReport, input_side
from medvlad.extraction.weights import find_weights, weights_source

__all__ = ["CNNDescriptors", "ExtractionReport", "find_weights", "input_side", "weights_source"]
