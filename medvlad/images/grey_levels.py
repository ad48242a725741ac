"""Numbers of more than eight bits as levels 0 to 255."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError

__all__ = ["rounded", "stretch"]


def stretch(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Map minimum..maximum linearly to 0..255; a constant image to zeros.

    Raises
    ------
    InputError
        If a number is not finite, or their range is none that can be scaled.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{name} holds NaN or infinite pixels: repair them or convert it to 16-bit integers")
    low, high = float(values.min()), float(values.max())
    if low == high:
        return np.zeros(values.shape, np.uint8)
    scale = 255.0 / (high - low)
    if not 0 < scale < math.inf:
        raise InputError(f"{name} holds pixels from {low} to {high}, too far apart or too near: scale them")
    return np.rint((values.astype(np.float64) - low) * scale).astype(np.uint8)


def rounded(levels: NDArray[Any]) -> NDArray[np.uint8]:
    """Round levels; what is outside becomes 0 or 255."""
    grey: NDArray[np.uint8] = np.rint(levels.clip(0, 255)).astype(np.uint8)
    return grey
