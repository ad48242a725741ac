"""Descriptors that were extracted elsewhere: feature files, one bag of descriptors each.

A bag contains the descriptors (n, D) of one image, such as the tiles of a slide, and optionally their
positions. Several files can form one bag, such as all slides of a patient. In: paths of feature files. Out:
bags that the encoders read block by block.
"""

from medvlad.bags.bag_files import BagFiles, is_bag_file, open_bags
from medvlad.bags.coordinates import TilePlaces, read_places

__all__ = ["BagFiles", "TilePlaces", "is_bag_file", "open_bags", "read_places"]
