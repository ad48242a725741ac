"""PNG and TIFF in colour of 16 bits, of which Pillow keeps 8 (extra medical)."""

from __future__ import annotations

import importlib.util
import os
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, import_extra, one_line

__all__ = ["read_colour"]


def read_colour(file: BinaryIO, page: int, kind: str, name: str) -> NDArray[Any] | None:
    """Read colour of more than 8 bits, which Pillow would cut to 8.

    Parameters
    ----------
    file : binary file
        Read from its beginning; its position is then where it was.
    page : int
        Of a TIFF.
    kind : {"PNG", "TIFF"}
    name : str

    Returns
    -------
    ndarray of shape (H, W, 3), uint16, or None
        None where the extra is not installed.

    Raises
    ------
    InputError
        If it is damaged, or not grey or RGB with or without transparency.
    """
    if any(importlib.util.find_spec(module) is None for module in ("imagecodecs", "tifffile")):
        return None
    if kind == "PNG":
        reader = import_extra("imagecodecs", "medical", "16-bit PNG")
    else:
        reader = import_extra("tifffile", "medical", "16-bit TIFF")
    position = file.seek(0, os.SEEK_CUR)
    file.seek(0)
    try:
        if kind == "PNG":
            values = np.asarray(reader.png_decode(file.read()))
        else:
            values = np.asarray(reader.imread(file, key=page))
    except Exception as error:
        reason = one_line(error) or type(error).__name__
        raise InputError(
            f"{name} is corrupt or truncated ({reason[:200]}): copy it again or remove it"
        ) from error
    finally:
        file.seek(position)
    if values.ndim == 3 and values.shape[0] in (3, 4) and values.shape[2] not in (2, 3, 4):
        values = values.transpose(1, 2, 0)  # a TIFF with a plane a colour
    if values.ndim != 3 or values.shape[2] not in (2, 3, 4) or values.dtype != np.uint16:
        raise InputError(f"{name} is {values.dtype} of shape {values.shape}: convert it to 8 bits or to grey")
    return np.repeat(values[..., :1], 3, axis=2) if values.shape[2] == 2 else values[..., :3]
