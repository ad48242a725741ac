r"""Turn the stored numbers of a DICOM frame into grey levels (extra medical).

A grey frame passes through these steps (DICOM PS3.3 C.7.6.3, C.11.1 and C.11.2)::

    stored bits --BitsStored, sign--> --modality LUT, or slope and intercept--> --VOI LUT, or window--> 0..255

A window of centre :math:`c` and width :math:`w` maps a number :math:`x` to a grey level :math:`y`, which is
clipped to 0..255 and rounded. The file names one of three functions:

.. math::

    \text{LINEAR:} \quad & y = 255 \left( \frac{x - (c - 0.5)}{w - 1} + 0.5 \right) \\
    \text{LINEAR\_EXACT:} \quad & y = 255 \left( \frac{x - c}{w} + 0.5 \right) \\
    \text{SIGMOID:} \quad & y = \frac{255}{1 + e^{-4 (x - c) / w}}

If a file has several windows, the first one is used. Without a window, the minimum and maximum of the frame
become 0 and 255, as in other images of more than 8 bits. Padding pixels are left out of that range and become
0. MONOCHROME1 is inverted at the end.

pydicom drops the bits above BitsStored, extends the sign, and applies lookup tables and windows. Two things
are our own, because pydicom's functions differ:

- Slope, intercept and window are those of the frame. An enhanced object stores them once per frame, and
  pydicom's functions look only at the top level of the file.
- A window that is not a number or has an impossible width is ignored, and an unknown function counts as
  LINEAR. pydicom raises an error or returns NaN.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.images.grey_levels import rounded, stretch

__all__ = ["to_eight_bits"]


def to_eight_bits(
    pydicom: ModuleType, header: Any, pixels: NDArray[Any], index: int, name: str
) -> NDArray[np.uint8]:
    """Turn the pixels of one frame, as pydicom decodes them, into 8 bits.

    Parameters
    ----------
    pydicom : module
        The module, which is an optional dependency.
    header : pydicom.Dataset
    pixels : ndarray of shape (H, W) or (H, W, 3)
        Stored numbers, or colour.
    index : int
        Number of the frame, from 0.
    name : str
        How errors name the image.

    Returns
    -------
    ndarray of shape (H, W) or (H, W, 3), uint8

    Raises
    ------
    InputError
        If numbers are not finite, or their range cannot be scaled.
    """
    photometric = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
    if photometric == "PALETTE COLOR":
        pixels = pydicom.pixels.apply_color_lut(pixels, header)
        return (pixels >> (8 * pixels.itemsize - 8)).astype(np.uint8)
    if pixels.ndim == 3:
        return pixels if pixels.dtype == np.uint8 else stretch(pixels, name)
    values = _apply_modality(pydicom, header, pixels, index)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{name} holds NaN or infinite pixels: repair them")
    grey = _apply_voi(pydicom, header, values, index)
    if grey is None:
        padding = _padding(header, pixels)
        if padding is None or padding.all():
            grey = stretch(values, name)
        else:
            grey = np.zeros(values.shape, np.uint8)
            grey[~padding] = stretch(values[~padding], name)
    return 255 - grey if photometric == "MONOCHROME1" else grey


def _padding(header: Any, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return which pixels are padding. None: the file declares no padding."""
    value = header.get("PixelPaddingValue")
    if value is None or stored.dtype.kind == "f":
        return None
    limit = header.get("PixelPaddingRangeLimit")
    ends = sorted([int(value), int(value if limit is None else limit)])
    return (stored >= ends[0]) & (stored <= ends[1])


def _found(header: Any, index: int, group: str, tag: str) -> Any:
    """Return an element of the frame's functional group, else of the shared group, else of the file."""
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for groups in ([frames[index]] if index < len(frames) else []) + list(shared[:1]):
        items = groups.get(group) or []
        if items and items[0].get(tag) is not None:
            return items[0].get(tag)
    return header.get(tag)


def _apply_modality(pydicom: ModuleType, header: Any, stored: NDArray[Any], index: int) -> NDArray[Any]:
    """Apply the modality lookup table, or the slope and intercept of the frame."""
    if header.get("ModalityLUTSequence"):
        values: NDArray[Any] = pydicom.pixels.apply_modality_lut(stored, header)
        return values
    slope = _found(header, index, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = _found(header, index, "PixelValueTransformationSequence", "RescaleIntercept")
    slope = 1.0 if slope is None else float(slope)
    intercept = 0.0 if intercept is None else float(intercept)
    return stored * slope + intercept if (slope, intercept) != (1.0, 0.0) else stored


def _apply_voi(
    pydicom: ModuleType, header: Any, values: NDArray[Any], index: int
) -> NDArray[np.uint8] | None:
    """Apply the file's own lookup table or window. Return None if it has neither."""
    tables = header.get("VOILUTSequence")
    # Rescaling turns whole numbers into floating point, which a table can still look up.
    if tables and (values.dtype.kind in "iu" or (values == np.rint(values)).all()):
        looked_up = pydicom.pixels.apply_voi(values.astype(np.int64), header)
        top = (1 << int(tables[0].LUTDescriptor[2])) - 1
        return rounded(looked_up * (255.0 / top))
    window = _window(pydicom, header, index)
    if window is None:
        return None
    with np.errstate(over="ignore"):  # the exponential of SIGMOID far below the window: its level is 0
        return rounded(pydicom.pixels.apply_windowing(values, window))


def _window(pydicom: ModuleType, header: Any, index: int) -> Any:
    """Return the first window of a frame as a data set of its own. None: it has no valid window."""
    center, width, function = (
        _found(header, index, "FrameVOILUTSequence", tag)
        for tag in ("WindowCenter", "WindowWidth", "VOILUTFunction")
    )
    center, width = _first(center), _first(width)
    function = str(function or "LINEAR").upper()
    if function not in ("LINEAR_EXACT", "SIGMOID"):
        function = "LINEAR"
    if center is None or width is None or not (math.isfinite(center) and math.isfinite(width)):
        return None
    if width <= 0 or (function == "LINEAR" and width < 1):
        return None
    window = pydicom.Dataset()
    # FD takes any float. A DS, as in files, has at most 16 characters.
    window.add_new("WindowCenter", "FD", center)
    window.add_new("WindowWidth", "FD", width)
    window.VOILUTFunction = function
    # pydicom returns the range of these stored numbers: 0..255.
    window.BitsStored, window.PixelRepresentation = 8, 0
    window.PhotometricInterpretation = "MONOCHROME2"
    return window


def _first(value: Any) -> float | None:
    """Return the first number of an element that may have none, one or several."""
    if value is None or value == "":
        return None
    return float(value) if isinstance(value, int | float | str) else float(value[0])
