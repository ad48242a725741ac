"""List the images of a data set with their labels, patients and parts (train, test).

In: a folder, a table, a published layout or a download. Out: an
:class:`~medvlad.datasets.folders.ImageFolder`. No pixels are read here.
"""

from medvlad.datasets.array_part import ArrayPart, read_part, take_part
from medvlad.datasets.folders import ImageFolder, load_image_folder
from medvlad.datasets.manifest import load_manifest
from medvlad.datasets.pseudonyms import Pseudonyms

__all__ = [
    "ArrayPart",
    "ImageFolder",
    "Pseudonyms",
    "load_image_folder",
    "load_manifest",
    "read_part",
    "take_part",
]
