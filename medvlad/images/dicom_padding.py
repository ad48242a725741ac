"""Find the padding of a DICOM frame: pixels that fill the frame and are no part of the picture.

The header names a value, or a range of values, among the stored numbers (DICOM PS3.3 C.7.5.1.1.2): with
PixelPaddingValue and PixelPaddingRangeLimit for integers, and with elements of their own for float32 and
float64. The value of signed data is often written as an unsigned number, 63536 in place of -2000, and the
other way round. It is compared in the sign of the stored numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["find_padding", "stored_range"]


def stored_range(header: Any, stored: NDArray[Any]) -> tuple[float, float]:
    """Return the smallest and the largest number that the pixels can hold.

    Parameters
    ----------
    header : pydicom.Dataset
        BitsStored is read.
    stored : ndarray
        Its dtype tells the sign. A number outside BitsStored widens the range. The range of floating point
        is that of its numbers.

    Returns
    -------
    low, high : float
    """
    low, high = float(stored.min()), float(stored.max())
    if stored.dtype.kind == "f":
        return low, high
    bits = _bits(header, stored)
    if stored.dtype.kind == "i":
        return min(low, -float(1 << (bits - 1))), max(high, float((1 << (bits - 1)) - 1))
    return min(low, 0.0), max(high, float((1 << bits) - 1))


def _bits(header: Any, stored: NDArray[Any]) -> int:
    allocated = 8 * stored.dtype.itemsize
    bits = int(header.get("BitsStored") or allocated)
    return bits if 1 <= bits <= allocated else allocated


def find_padding(header: Any, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return which pixels are padding.

    Parameters
    ----------
    header : pydicom.Dataset
    stored : ndarray of shape (H, W)
        Numbers before any grey-level step.

    Returns
    -------
    ndarray of shape (H, W), bool, or None
        None: the file declares no padding, or no pixel is padding.
    """
    found = _find_floats(header, stored) if stored.dtype.kind == "f" else _find_integers(header, stored)
    return found if found is not None and found.any() else None


def _find_integers(header: Any, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    value, limit = _number(header, "PixelPaddingValue"), _number(header, "PixelPaddingRangeLimit")
    if value is None:
        return None
    low, high = stored_range(header, stored)
    bits = _bits(header, stored)
    first = _in_sign(int(value), low, high, bits)
    return _between(stored, first, first if limit is None else _in_sign(int(limit), low, high, bits))


def _between(stored: NDArray[Any], first: Any, last: Any) -> NDArray[np.bool_]:
    """Return which numbers lie between two ends, which may come in any order."""
    found: NDArray[np.bool_] = (stored >= min(first, last)) & (stored <= max(first, last))
    return found


def _in_sign(value: int, low: float, high: float, bits: int) -> int:
    """Return a padding value in the sign of the stored numbers. It may have been written in the other."""
    word = 1 << 16
    others: tuple[int, ...] = (value - word, value - (1 << bits)) if low < 0 else (value + word,)
    for candidate in (value, *others):
        if low <= candidate <= high:
            return candidate
    return value - word if low < 0 and value >= word // 2 else value


def _find_floats(header: Any, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Find padding in floating point. NaN can be the value."""
    for kind, dtype in (("Float", np.float32), ("DoubleFloat", np.float64)):
        value = _number(header, f"{kind}PixelPaddingValue")
        if value is None:
            continue
        if math.isnan(value):
            missing: NDArray[np.bool_] = np.isnan(stored)
            return missing
        limit = _number(header, f"{kind}PixelPaddingRangeLimit")
        end = value if limit is None or math.isnan(limit) else limit
        with np.errstate(over="ignore"):  # numbers that float32 cannot hold are not equal to the value
            numbers = stored.astype(dtype, copy=False)
        return _between(numbers, dtype(value), dtype(end))
    return None


def _number(header: Any, tag: str) -> float | None:
    """Return the first number of an element that may be missing or empty, or hold several."""
    value = header.get(tag)
    if value is None or isinstance(value, bytes | str):
        return None
    numbers = [value] if isinstance(value, int | float) else list(value)
    return numbers[0] if numbers else None
