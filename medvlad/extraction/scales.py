"""Scales of the input: scale s means a square of 224 + 320 s pixels.

A network that takes a single side has scale 0 only, which stands for that side. `side` is another side at
scale 0, for networks that Keras does not define.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medvlad._util.validate import InputError
from medvlad.extraction.networks.frozen import FrozenNetwork

__all__ = ["check_scales", "check_sides", "input_side", "input_sides"]


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


def input_sides(network: FrozenNetwork, scales: tuple[int, ...], side: int | None) -> tuple[int, ...]:
    """Return the side in pixels of the input at each scale.

    Parameters
    ----------
    network : FrozenNetwork
    scales : tuple of int
        See :func:`check_scales`.
    side : int or None
        Side that the user wants at scale 0. None: that of the scale, or the only side of the network.

    Returns
    -------
    tuple of int

    Raises
    ------
    InputError
        If the network does not take a side, or `side` is given for a network of Keras or with other scales.
    """
    if network.kind == "keras":
        if side is not None:
            raise InputError(
                f"side={side} is for networks of onnx, timm and torch: use scales with {network.model}"
            )
        sides = tuple(input_side(scale) for scale in scales)
        check_sides(network, sides)
        return sides
    only = network.only_side
    if scales != (0,) and (side is not None or only is not None):
        why = f"side={side}" if side is not None else f"{network.model} takes {only} x {only} pixels only"
        raise InputError(f"{why}, which does not fit scales={scales!r}: use scales=(0,)")
    if side is not None and only is not None and side != only:
        raise InputError(
            f"{network.model} takes {only} x {only} pixels only, got side={side}: leave side out"
        )
    if side is not None or only is not None:
        return (int(side or only or 0),)
    return tuple(input_side(scale) for scale in scales)


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
