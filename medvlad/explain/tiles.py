"""Evidence of tiles: one term for each descriptor of a feature file, drawn where the tile lies in the slide.

The terms are those of :mod:`medvlad.explain.split`. The terms of all tiles of a bag and the constant add up
to the decision value. If an encoder has a signed power, they do not: then the terms are the first-order form.
Where tiles overlap, a picture shows their mean.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvlad._util.validate import InputError
from medvlad.bags.bag_files import BagFiles
from medvlad.bags.coordinates import TilePlaces, read_places
from medvlad.descriptors.ragged import Descriptors
from medvlad.encoders.projection import DescriptorProjection
from medvlad.explain.maps import evidence_colours, evidence_scale
from medvlad.explain.split import evidence, first_order_evidence, is_additive
from medvlad.images.colour_bar import add_colour_bar
from medvlad.images.formats import is_image_name
from medvlad.images.read import load_image

__all__ = [
    "BagEvidence",
    "TileEvidence",
    "bag_evidence",
    "find_thumbnail",
    "tile_picture",
    "tile_table",
]

_SIDE = 900  # pixels; longer side of the picture of a slide
_MARGIN = 0.02  # share of the longer side around the tiles, if the size of the slide is not known
_BACKGROUND, _NEUTRAL = 255, 205  # grey levels of an empty place, and of a tile without evidence
_GAP = 12  # pixels between two slides


@dataclass(frozen=True, eq=False)
class TileEvidence:
    """Evidence of the tiles of one file.

    Attributes
    ----------
    path : Path
        The feature file.
    places : TilePlaces
        Where the tiles lie.
    terms : ndarray of float64, shape (n,)
        Term of each tile. Positive terms speak for the class.
    """

    path: Path
    places: TilePlaces
    terms: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BagEvidence:
    """Evidence of all tiles of a bag for one class.

    Attributes
    ----------
    files : list of TileEvidence
        One for each file of the bag.
    constant : float
        Part of the decision value that no tile contributes.
    """

    files: list[TileEvidence]
    constant: float

    @property
    def largest(self) -> float:
        """Largest absolute value of a term."""
        return max(float(np.abs(one.terms).max()) for one in self.files)

    def decision(self) -> float:
        """Return the sum of all terms and the constant: the decision value, if the evidence is exact."""
        return float(sum(one.terms.sum() for one in self.files)) + self.constant


def bag_evidence(steps: Sequence[Any], bag: BagFiles, descriptors: Descriptors, label: int) -> BagEvidence:
    """Split the decision value of one class over the tiles of a bag.

    Parameters
    ----------
    steps : sequence of fitted estimators
        The steps from descriptors to decision values.
    bag : BagFiles
        One bag.
    descriptors : Descriptors
        Its descriptors in memory, from :meth:`medvlad.descriptors.blocks.DescriptorBlocks.load`.
    label : int
        Index of the class.

    Returns
    -------
    BagEvidence

    Raises
    ------
    InputError
        If a file has no coordinates, or a step cannot be split over descriptors.
    """
    files, lengths = bag.files(0), bag.lengths(0)
    places = [read_places(path, n_rows) for path, n_rows in zip(files, lengths, strict=True)]
    encoder, *after = steps
    if isinstance(encoder, DescriptorProjection):
        descriptors = encoder.transform(descriptors)
        encoder, *after = after
    split = (evidence if is_additive(encoder) else first_order_evidence)(descriptors, encoder, *after)
    # With two classes there is one column, that of class 1.
    several = split.terms.shape[1] > 1
    column, sign = (label, 1) if several else (0, 1 if label == 1 else -1)
    terms = sign * split.terms[:, column]
    parts = np.split(terms, np.cumsum(lengths)[:-1])
    own = [TileEvidence(*one) for one in zip(files, places, parts, strict=True)]
    return BagEvidence(own, float(sign * split.bias[0, column]))


def tile_table(bag: BagEvidence, names: Sequence[str]) -> bytes:
    """Return the terms of a bag as a table (CSV): file, x, y, side and evidence of each tile.

    Parameters
    ----------
    bag : BagEvidence
    names : sequence of str
        Name of each file.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "x", "y", "side", "evidence"])
    for name, one in zip(names, bag.files, strict=True):
        side = f"{one.places.side:g}"
        for (x, y), term in zip(one.places.corners.tolist(), one.terms.tolist(), strict=True):
            table.writerow([name, f"{x:.10g}", f"{y:.10g}", side, repr(term)])
    return text.getvalue().encode("utf-8", "surrogateescape")


def tile_picture(
    bag: BagEvidence, largest: float | None = None, *, thumbnails: Sequence[Any] | None = None
) -> Image.Image:
    """Draw the evidence of each tile at its place, the files of a bag side by side, and a colour bar.

    Red is evidence for the class, blue evidence against it, grey a tile without evidence.

    Parameters
    ----------
    bag : BagEvidence
    largest : float or None, default=None
        Absolute value that full colour stands for. None: the largest of this bag.
    thumbnails : sequence of path or array, or None, default=None
        A picture of each whole slide, drawn in grey below the tiles. None: tiles on white.

    Returns
    -------
    PIL.Image.Image
        RGB.

    Raises
    ------
    InputError
        If there is a thumbnail and the file does not tell the size of its slide.
    """
    largest = largest or bag.largest or 1.0
    shown: Iterable[Any] = [None] * len(bag.files) if thumbnails is None else thumbnails
    drawn = [_draw(one, largest, below) for one, below in zip(bag.files, shown, strict=True)]
    height = max(one.height for one in drawn)
    picture = Image.new("RGB", (sum(one.width + _GAP for one in drawn) - _GAP, height), "white")
    left = 0
    for one in drawn:
        picture.paste(one, (left, 0))
        left += one.width + _GAP
    return add_colour_bar(picture, evidence_scale(height), [f"{largest:+.2g}", "0", f"{-largest:+.2g}"])


def find_thumbnail(folder: Path, file: Path) -> Path:
    """Return the picture of a slide: a file in `folder` with the name of the feature file.

    Raises
    ------
    InputError
        If there is none.
    """
    found = sorted(one for one in folder.glob(f"{escape(file.stem)}.*") if is_image_name(one.name))
    if not found:
        raise InputError(
            f"there is no thumbnail of {file.name} in {folder}: add {file.stem}.jpg or .png, or leave the "
            "thumbnails out"
        )
    return found[0]


def _draw(tiles: TileEvidence, largest: float, thumbnail: Any) -> Image.Image:
    """Draw one slide. Its longer side has `_SIDE` pixels."""
    places = tiles.places
    if thumbnail is not None and places.extent is None:
        raise InputError(
            f"{tiles.path} does not tell the size of its slide (level0_width and level0_height of 'coords'), "
            "so tiles cannot be placed on a thumbnail: leave the thumbnail out"
        )
    origin, extent = _window(places)
    scale = _SIDE / extent.max()
    width, height = np.maximum(np.rint(extent * scale), 1).astype(int).tolist()
    total, count = np.zeros((height, width)), np.zeros((height, width), np.int64)
    begin = np.rint((places.corners - origin) * scale).astype(np.int64)
    end = np.maximum(np.rint((places.corners + places.side - origin) * scale).astype(np.int64), begin + 1)
    for (left, top), (right, bottom), term in zip(
        begin.clip(0).tolist(), end.tolist(), tiles.terms.tolist(), strict=True
    ):
        total[top:bottom, left:right] += term
        count[top:bottom, left:right] += 1
    strength = total / np.maximum(count, 1) / largest
    if thumbnail is None:
        grey = np.where(count > 0, _NEUTRAL, _BACKGROUND).astype(np.float32)
    else:
        below = Image.fromarray(load_image(thumbnail, on_damage="ignore")).convert("L")
        grey = np.asarray(below.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return Image.fromarray(evidence_colours(grey, strength))


def _window(places: TilePlaces) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the left upper corner and the size of what is drawn: the slide, or all tiles and a margin."""
    last = places.corners.max(axis=0) + places.side
    if places.extent is not None:
        return np.zeros(2), np.maximum(np.array(places.extent), last)
    first = places.corners.min(axis=0)
    margin = _MARGIN * float((last - first).max())
    return first - margin, last - first + 2 * margin
