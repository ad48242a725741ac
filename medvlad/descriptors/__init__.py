"""Hold the local descriptors of a batch of images, in host memory or on a GPU.

In: arrays of any library, lists of arrays, feature maps. Out:
:class:`~medvlad.descriptors.ragged.Descriptors`, the input of all encoders.
"""

from medvlad.descriptors.checks import MAX_WEIGHT
from medvlad.descriptors.gpu_array import GpuArray
from medvlad.descriptors.ragged import Descriptors, as_descriptors

__all__ = ["MAX_WEIGHT", "Descriptors", "GpuArray", "as_descriptors"]
