"""Places of the descriptors of a feature file: the squares that they were extracted from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.bags.array_file import open_arrays

__all__ = ["TilePlaces", "read_places"]

_COORDINATES = ("coords", "coordinates")
#: Attributes with the side of a tile in the unit of the coordinates (TRIDENT, STAMP).
_SIDES = ("patch_size_level0", "tile_size_um", "tile_size")


@dataclass(frozen=True, eq=False)
class TilePlaces:
    """Squares of a slide.

    Attributes
    ----------
    corners : ndarray of float64, shape (n, 2)
        Left upper corner (x, y) of each tile.
    side : float
        Side of a tile, in the unit of the corners.
    extent : tuple of float, or None
        Width and height of the slide. None: unknown.
    """

    corners: NDArray[np.float64]
    side: float
    extent: tuple[float, float] | None


def read_places(path: str | os.PathLike[str], n_rows: int) -> TilePlaces:
    """Read the positions of the descriptors of a feature file.

    The side of a tile is the attribute ``patch_size_level0`` (TRIDENT), ``patch_size`` times ``downsample``
    (CLAM), ``tile_size_um`` or ``tile_size`` (STAMP). Without these it is the smallest distance between two
    columns or two rows of tiles.

    Parameters
    ----------
    path : path
        Feature file with an array ``coords`` (n, 2) or (1, n, 2).
    n_rows : int
        Number of descriptors of the file.

    Raises
    ------
    InputError
        If the file has no ``coords``, or not one finite pair for each descriptor.
    """
    with open_arrays(path) as arrays:
        name = next((one for one in _COORDINATES if one in arrays.names()), None)
        if name is None:
            raise InputError(
                f"{path} has no 'coords', so its descriptors have no place in the slide: add the corners "
                "(n, 2) of the tiles, or leave out the evidence"
            )
        shape = arrays.shape(name)
        if shape not in ((n_rows, 2), (1, n_rows, 2)):
            raise InputError(
                f"{name!r} in {path} has shape {shape}, expected ({n_rows}, 2), one pair (x, y) for each "
                "descriptor: extract the file again"
            )
        corners = arrays.rows(name, 0, n_rows).astype(np.float64)
        facts = arrays.attributes(name)
    if not np.isfinite(corners).all():
        row = int((~np.isfinite(corners)).any(axis=1).argmax())
        raise InputError(f"{name!r} in {path} is not finite in row {row}: extract the file again")
    return TilePlaces(corners, _side(facts, corners), _extent(facts))


def _side(facts: Mapping[str, Any], corners: NDArray[np.float64]) -> float:
    for name in _SIDES:
        side = _number(facts.get(name))
        if side is not None:
            return side
    patch, downsample = _number(facts.get("patch_size")), facts.get("downsample")
    if patch is not None and downsample is not None:
        factor = _number(np.ravel(downsample)[0])
        if factor is not None:
            return patch * factor
    steps = [np.diff(np.unique(axis)) for axis in corners.T]
    return float(min((step.min() for step in steps if len(step)), default=1.0))


def _extent(facts: Mapping[str, Any]) -> tuple[float, float] | None:
    width, height = _number(facts.get("level0_width")), _number(facts.get("level0_height"))
    return None if width is None or height is None else (width, height)


def _number(value: Any) -> float | None:
    """Return a number above 0 as float, or None if `value` is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) and number > 0 else None
