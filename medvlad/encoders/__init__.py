"""Turn the local descriptors of each image into one vector.

In: :class:`~medvlad.descriptors.ragged.Descriptors`, lists and arrays, or descriptors in a store. Out: an
array (B, d) of float32. Every encoder is a scikit-learn transformer. :mod:`medvlad.encoders.recipe` builds
one from a short name such as "vlad64".
"""

from medvlad.encoders.bag_of_words import BagOfWords
from medvlad.encoders.fisher import FisherVector
from medvlad.encoders.kmeans import KMeansCodebook
from medvlad.encoders.pooling import GlobalPool
from medvlad.encoders.projection import DescriptorProjection
from medvlad.encoders.recipe import PRESETS, Recipe
from medvlad.encoders.second_order import SecondOrderPool
from medvlad.encoders.spatial_tiles import SpatialTiles
from medvlad.encoders.vlad import VLAD
from medvlad.encoders.vlad_functions import assign, vlad_encode

__all__ = [
    "PRESETS",
    "VLAD",
    "BagOfWords",
    "DescriptorProjection",
    "FisherVector",
    "GlobalPool",
    "KMeansCodebook",
    "Recipe",
    "SecondOrderPool",
    "SpatialTiles",
    "assign",
    "vlad_encode",
]
