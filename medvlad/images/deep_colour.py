"""Read PNG and TIFF colour of 16 bits a channel (extra medical). Pillow keeps only 8 bits of it."""

from __future__ import annotations

import importlib.util
import os
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError, import_extra, one_line
from medvlad.images.png_chunks import essential_png

__all__ = ["read_colour"]


def read_colour(file: BinaryIO, page: int, kind: str, name: str) -> NDArray[Any] | None:
    """Read colour, or grey with transparency, of more than 8 bits a channel.

    Parameters
    ----------
    file : binary file
        Read from its beginning. Its position does not change.
    page : int
        Page of a TIFF, from 0. Ignored for PNG.
    kind : {"PNG", "TIFF"}
    name : str
        How errors name the image.

    Returns
    -------
    ndarray of shape (H, W, 3), uint16, or None
        Without transparency. None: the extra medical is not installed.

    Raises
    ------
    InputError
        If the file is damaged, or is neither grey nor RGB, each with or without transparency.
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
            values = np.asarray(reader.png_decode(essential_png(file.read())))
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
        values = values.transpose(1, 2, 0)  # a TIFF that stores one plane for each colour
    if values.ndim != 3 or values.shape[2] not in (2, 3, 4) or values.dtype != np.uint16:
        raise InputError(f"{name} is {values.dtype} of shape {values.shape}: convert it to 8 bits or to grey")
    return np.repeat(values[..., :1], 3, axis=2) if values.shape[2] == 2 else values[..., :3]
