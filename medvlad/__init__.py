"""Classify medical images with frozen CNN descriptors, VLAD and an exact linear SVM.

Data moves through the rooms of the package in one direction::

    paths --images--> pixels --extraction--> Descriptors --encoders--> (B, K * D) --svm--> y
                                   |             ^
                                 store       k-means centres (K, D)

    datasets      folders and tables of images, with labels and patients
    evaluation    cross-validation, metrics, intervals
    report        HTML reports and tables
    models        a fitted pipeline as a file, or as an ONNX graph
    audit         problems of a data set
    backends      assignment and aggregation: NumPy, C++ and CUDA
    distributed   extraction and encoding on a cluster
    cli           the command ``medvlad``

Every room imports only lower rooms. Public names are imported at their first use, so ``import medvlad`` is
fast and loads neither TensorFlow nor CuPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvlad._util.validate import InputError, MissingExtraError
    from medvlad.backends import available_backends
    from medvlad.datasets.folders import load_image_folder
    from medvlad.datasets.manifest import load_manifest
    from medvlad.descriptors.ragged import Descriptors
    from medvlad.encoders.bag_of_words import BagOfWords
    from medvlad.encoders.fisher import FisherVector
    from medvlad.encoders.kmeans import KMeansCodebook
    from medvlad.encoders.pooling import GlobalPool
    from medvlad.encoders.projection import DescriptorProjection
    from medvlad.encoders.second_order import SecondOrderPool
    from medvlad.encoders.spatial_tiles import SpatialTiles
    from medvlad.encoders.vlad import VLAD
    from medvlad.encoders.vlad_functions import assign, vlad_encode
    from medvlad.extraction.cnn_descriptors import CNNDescriptors
    from medvlad.models.model_file import load_model, save_model
    from medvlad.store.stored_descriptors import StoredDescriptors
    from medvlad.svm.wide_linear_svc import WideLinearSVC

#: Module, below medvlad, of each public name.
_ROOM = {
    "BagOfWords": "encoders",
    "CNNDescriptors": "extraction",
    "DescriptorProjection": "encoders",
    "Descriptors": "descriptors",
    "FisherVector": "encoders",
    "GlobalPool": "encoders",
    "InputError": "_util.validate",
    "KMeansCodebook": "encoders",
    "MissingExtraError": "_util.validate",
    "SecondOrderPool": "encoders",
    "SpatialTiles": "encoders",
    "StoredDescriptors": "store",
    "VLAD": "encoders",
    "WideLinearSVC": "svm",
    "assign": "encoders",
    "available_backends": "backends",
    "load_image_folder": "datasets",
    "load_manifest": "datasets",
    "load_model": "models",
    "save_model": "models",
    "vlad_encode": "encoders",
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
    "load_manifest",
    "load_model",
    "save_model",
    "vlad_encode",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("medvlad")
    if name not in _ROOM:
        raise AttributeError(f"module 'medvlad' has no attribute {name!r}")
    return getattr(importlib.import_module(f"medvlad.{_ROOM[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
