"""Show which places of an image a decision value comes from.

In: descriptors of an image and the fitted encoder and SVM. Out: one term for each descriptor, maps of the
terms over the image or its tiles, and pictures. The mathematics is in :mod:`medvlad.explain.split`.
"""

from medvlad.explain.maps import (
    evidence_map,
    evidence_maps,
    evidence_picture,
    largest_evidence,
    overlay,
    spread,
)
from medvlad.explain.split import (
    Evidence,
    evidence,
    first_order_evidence,
    has_evidence,
    is_additive,
)
from medvlad.explain.tiles import BagEvidence, bag_evidence, tile_picture, tile_table

__all__ = [
    "BagEvidence",
    "Evidence",
    "bag_evidence",
    "evidence",
    "evidence_map",
    "evidence_maps",
    "evidence_picture",
    "first_order_evidence",
    "has_evidence",
    "is_additive",
    "largest_evidence",
    "overlay",
    "spread",
    "tile_picture",
    "tile_table",
]
