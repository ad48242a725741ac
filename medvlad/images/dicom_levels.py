r"""Turn the stored numbers of a DICOM frame into grey levels (extra medical).

A grey frame passes through these steps (DICOM PS3.3 C.7.6.3, C.11.1 and C.11.2)::

    stored bits --BitsStored, sign--> --modality LUT, or slope and intercept--> --VOI LUT, or window--> 0..255

A window of centre :math:`c` and width :math:`w` maps a number :math:`x` to a grey level :math:`y`, which is
clipped to 0..255 and rounded. The file names one of three functions:

.. math::

    \text{LINEAR:} \quad & y = 255 \left( \frac{x - (c - 0.5)}{w - 1} + 0.5 \right) \\
    \text{LINEAR\_EXACT:} \quad & y = 255 \left( \frac{x - c}{w} + 0.5 \right) \\
    \text{SIGMOID:} \quad & y = \frac{255}{1 + e^{-4 (x - c) / w}}

If a file has several windows, the first one is used. A VOI LUT is preferred to a window. Without both, the
minimum and maximum of the frame become 0 and 255, as in other images of more than 8 bits. MONOCHROME1 is
inverted. Padding is found in the stored numbers (:mod:`medvlad.images.dicom_padding`). Minimum and maximum
ignore it, and it always becomes black. So a picture has the same grey levels in every encoding.

A header can be wrong. These cases are logged as warnings:

- A window, table or palette turns a frame that varies into one colour. The frame's own range is used.
- RescaleSlope is 0, which would erase the frame. The slope 1 is used.

pydicom decodes the pixels, drops the bits above BitsStored, extends the sign, and applies windows. The other
steps are our own, because pydicom's functions differ:

- Slope, intercept, window and VOI LUT are those of the frame. An enhanced object stores them once per frame,
  and pydicom's functions look only at the top level of the file.
- A window that is not a number, such as "2048,25", or has an impossible width is ignored, and an unknown
  function counts as LINEAR. pydicom raises an error or returns NaN.
- Tables and palettes are read by what they hold (:mod:`medvlad.images.dicom_tables`). pydicom believes their
  descriptors, and cannot read palettes of big-endian files.
"""

from __future__ import annotations

import logging
import math
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.images.dicom_padding import find_padding, stored_range
from medvlad.images.dicom_tables import LookupTable, find_table, palette_colours, read_table
from medvlad.images.grey_levels import keep_contrast, rounded, stretch

__all__ = ["to_eight_bits"]

_log = logging.getLogger(__name__)


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
        little_endian = _is_little_endian(header)
        colours = palette_colours(pydicom, header, pixels, little_endian=little_endian)
        return keep_contrast(colours, pixels, name, "the palette")
    if pixels.ndim == 3:
        return pixels if pixels.dtype == np.uint8 else stretch(pixels, name)
    padding = find_padding(header, pixels)
    if padding is None:
        return _grey(pydicom, header, pixels, index, name, inverted=photometric == "MONOCHROME1")
    if padding.all():
        return np.zeros(pixels.shape, np.uint8)
    # A number of the picture takes the place of padding, so that padding counts in no range.
    filled = np.where(padding, pixels[~padding][0], pixels)
    grey = _grey(pydicom, header, filled, index, name, inverted=photometric == "MONOCHROME1")
    grey[padding] = 0
    return grey


def _grey(
    pydicom: ModuleType, header: Any, stored: NDArray[Any], index: int, name: str, *, inverted: bool
) -> NDArray[np.uint8]:
    """Turn stored numbers without padding into grey levels. `inverted`: the file shows large ones dark."""
    modality = _apply_modality(header, stored, index, name)
    values = modality.values
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{name} holds NaN or infinite pixels: repair them")
    falling = inverted != modality.falling
    display = _display(header, index)
    table = None if display is None else find_table(display, "VOILUTSequence")
    window = None if display is None or table is not None else _window(pydicom, display)
    if table is not None:
        levels = _read_table(header, table, modality.low, modality.high).as_levels().look_up(values)
        step = "the VOI lookup table"
    elif window is not None:
        with np.errstate(over="ignore"):  # the exponential of SIGMOID far below the window: its level is 0
            levels = pydicom.pixels.apply_windowing(values, window)
        step = f"the window of center {window.WindowCenter:g} and width {window.WindowWidth:g}"
    else:
        grey = stretch(modality.plain, name, inverted=falling)
        return keep_contrast(grey, stored, name, "the modality lookup table", inverted=inverted)
    grey = rounded(255.0 - levels if inverted else levels)
    grey = keep_contrast(grey, modality.plain, name, step, inverted=falling)
    return keep_contrast(grey, stored, name, "the modality lookup table", inverted=inverted)


def _is_little_endian(header: Any) -> bool:
    return header.original_encoding[1] is not False


def _read_table(header: Any, item: Any, low: float, high: float) -> LookupTable:
    return read_table(item, low, high, little_endian=_is_little_endian(header))


def _places(header: Any, index: int, group: str) -> list[Any]:
    """Return where to look for an element: the frame's functional group, the shared group, the file."""
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    groups = ([frames[index]] if index < len(frames) else []) + list(shared[:1])
    return [one.get(group)[0] for one in groups if one.get(group)] + [header]


def _found(header: Any, index: int, group: str, tag: str) -> Any:
    """Return an element of the frame's functional group, else of the shared group, else of the file."""
    values = (place.get(tag) for place in _places(header, index, group))
    return next((value for value in values if value is not None), None)


class _Modality(NamedTuple):
    """Result of the modality step.

    Attributes
    ----------
    values : ndarray of shape (H, W)
    low, high : float
        Range of the numbers that the step can put out, whatever the frame holds.
    plain : ndarray of shape (H, W)
        Numbers of the same order, or of the opposite order if `falling`. Without rounding if possible.
    falling : bool
    """

    values: NDArray[Any]
    low: float
    high: float
    plain: NDArray[Any]
    falling: bool


def _apply_modality(header: Any, stored: NDArray[Any], index: int, name: str) -> _Modality:
    """Apply the modality lookup table, or the slope and intercept of the frame."""
    low, high = stored_range(header, stored)
    item = find_table(header, "ModalityLUTSequence")
    if item is not None:
        table = _read_table(header, item, low, high)
        values = table.look_up(stored)
        return _Modality(values, float(table.entries.min()), float(table.entries.max()), values, False)
    slope = _rescaling(header, index, "RescaleSlope", 1.0)
    intercept = _rescaling(header, index, "RescaleIntercept", 0.0)
    if slope == 0:
        _log.warning("%s: RescaleSlope is 0, so 1 is used: correct the header", name)
        slope = 1.0
    values = stored * slope + intercept if (slope, intercept) != (1.0, 0.0) else stored
    ends = sorted([low * slope + intercept, high * slope + intercept])
    return _Modality(values, ends[0], ends[1], stored, slope < 0)


def _rescaling(header: Any, index: int, tag: str, default: float) -> float:
    """Return RescaleSlope or RescaleIntercept of a frame. Raise ValueError if it is not a number."""
    try:
        number = _first(_found(header, index, "PixelValueTransformationSequence", tag))
    except ValueError as error:
        raise ValueError(f"{tag} is not a number") from error
    return default if number is None else number


def _display(header: Any, index: int) -> Any:
    """Return the data set with the VOI lookup table or the window of a frame. None: there is neither."""
    for place in _places(header, index, "FrameVOILUTSequence"):
        if find_table(place, "VOILUTSequence") is not None or _number(place, "WindowCenter") is not None:
            return place
    return None


def _number(place: Any, tag: str) -> float | None:
    """Return the first number of an element. None: there is none, or its text is not a number."""
    try:
        return _first(place.get(tag))
    except ValueError:
        return None


def _window(pydicom: ModuleType, display: Any) -> Any:
    """Return the first window of `display` as a data set of its own. None: it has no valid window."""
    center, width = _number(display, "WindowCenter"), _number(display, "WindowWidth")
    function = str(display.get("VOILUTFunction") or "LINEAR").upper()
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
