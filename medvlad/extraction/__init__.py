"""Turn images into local descriptors by a frozen network.

In: image paths or arrays. Out: :class:`~medvlad.descriptors.ragged.Descriptors`, or a part of the store.
"""

from medvlad.extraction.cnn_descriptors import CNNDescriptors, input_side
from medvlad.extraction.weights import find_weights, weights_source

__all__ = ["CNNDescriptors", "find_weights", "input_side", "weights_source"]
