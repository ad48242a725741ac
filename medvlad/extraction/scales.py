"""Scales of the input: scale s means a square of 224 + 320 s pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medvlad._util.validate import InputError
from medvlad.extraction.network import FrozenNetwork

__all__ = ["check_scales", "check_sides", "input_side"]


def input_side(scale: int) -> int:
    """Return the side in pixels of the square input of a scale: 224, 544, 864, ..."""
    return 224 + 320 * scale


def check_scales(scales: int | Sequence[int]) -> tuple[int, ...]:
    """Return the scales as a tuple.

    Raises
    ------
    InputError
        If a scale is not an integer from 0 to 10, is there twice, or there is none.
    """
    listed = tuple(scales) if np.iterable(scales) else (scales,)
    for scale in listed:
        if isinstance(scale, bool) or not isinstance(scale, int | np.integer) or not 0 <= scale <= 10:
            raise InputError(f"scales must be integers from 0 to 10, got {scale!r}")
    if not listed or len(set(listed)) != len(listed):
        raise InputError(f"scales must be one or more different integers, got {scales!r}")
    return tuple(int(scale) for scale in listed)


def check_sides(network: FrozenNetwork, sides: tuple[int, ...]) -> None:
    """Check that a network takes square inputs of these sides.

    Raises
    ------
    InputError
        If the network has fully connected layers, which take one side only, and this is another.
    """
    only = network.only_side
    if only is not None and sides != (only,):
        hint = "use scales=(0,)" if only == input_side(0) else "use another layer"
        raise InputError(
            f"layer {network.layer!r} of {network.model} follows fully connected layers and takes "
            f"{only} x {only} pixels only, got {', '.join(map(str, sides))}: {hint}"
        )
