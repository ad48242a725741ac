"""medvlad: medical image classification with frozen CNN descriptors, VLAD and an exact linear SVM.

::

    paths --images--> pixels --features--> Descriptors --encoding--> (B, K*D) --classify--> y
                                                ^ cluster centres (K, D), fitted once by codebook

Public names are imported when first used, so ``import medvlad`` costs little and never brings in TensorFlow
or CuPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvlad._validate import InputError, MissingExtraError
    from medvlad.backends import available_backends
    from medvlad.bag_of_words import BagOfWords
    from medvlad.classify import WideLinearSVC
    from medvlad.codebook import KMeansCodebook
    from medvlad.datasets import load_image_folder
    from medvlad.descriptors import Descriptors
    from medvlad.encoding import VLAD, assign, vlad_encode
    from medvlad.features import CNNDescriptors
    from medvlad.fisher import FisherVector
    from medvlad.model_file import load_model, save_model
    from medvlad.pooling import GlobalPool
    from medvlad.projection import DescriptorProjection
    from medvlad.second_order import SecondOrderPool
    from medvlad.stored import StoredDescriptors
    from medvlad.tiles import SpatialTiles

_HOME = {
    "SpatialTiles": "tiles",
    "SecondOrderPool": "second_order",
    "FisherVector": "fisher",
    "BagOfWords": "bag_of_words",
    "CNNDescriptors": "features",
    "DescriptorProjection": "projection",
    "Descriptors": "descriptors",
    "GlobalPool": "pooling",
    "InputError": "_validate",
    "KMeansCodebook": "codebook",
    "MissingExtraError": "_validate",
    "StoredDescriptors": "stored",
    "VLAD": "encoding",
    "WideLinearSVC": "classify",
    "assign": "encoding",
    "available_backends": "backends",
    "load_image_folder": "datasets",
    "load_model": "model_file",
    "save_model": "model_file",
    "vlad_encode": "encoding",
}

__all__ = [
    "VLAD",
    "BagOfWords",
    "CNNDescriptors",
    "DescriptorProjection",
    "Descriptors",
    "FisherVector",
    "GlobalPool",
    "InputError",
    "KMeansCodebook",
    "MissingExtraError",
    "SecondOrderPool",
    "SpatialTiles",
    "StoredDescriptors",
    "WideLinearSVC",
    "assign",
    "available_backends",
    "load_image_folder",
    "load_model",
    "save_model",
    "vlad_encode",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("medvlad")
    if name not in _HOME:
        raise AttributeError(f"module 'medvlad' has no attribute {name!r}")
    return getattr(importlib.import_module(f"medvlad.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
