"""Read colour of more than 8 bits a channel from PNG, PPM and JPEG 2000. Pillow keeps only 8 bits of it.

PNG and JPEG 2000 need the extra medical. :mod:`medvlad.images.tiff` does the same for TIFF.
"""

from __future__ import annotations

import importlib.util
import re
import struct
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from medvlad._util.validate import InputError, import_extra, one_line
from medvlad.images.grey_levels import rounded
from medvlad.images.png_chunks import essential_png

__all__ = ["has_deep_colour", "jpeg2000_bits", "read_colour", "widen_levels"]

_SIZ = b"\xff\x4f\xff\x51"  # the markers with which a JPEG 2000 stream begins
_SIZ_SEARCHED = 1 << 16  # bytes
_N_COMPONENTS_AT = 40  # from the beginning of the stream
_PPM_COMMENT = re.compile(rb"#[^\r\n]*")


def has_deep_colour(image: Image.Image, file: BinaryIO) -> bool:
    """Return whether an open image is colour, or grey with transparency, of more than 8 bits a channel.

    Parameters
    ----------
    image : PIL.Image.Image
        In an 8-bit mode of Pillow, and not decoded yet.
    file : binary file
        From which it was opened.
    """
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return False
    arguments = image.tile[0][3]
    if image.format == "PNG":  # the raw mode names the depth: "RGB;16B"
        return ";16" in str(arguments)
    if image.format == "PPM":
        return isinstance(arguments, tuple) and image.mode == "RGB" and int(arguments[-1]) > 255
    return image.format == "JPEG2000" and jpeg2000_bits(file) > 8


def jpeg2000_bits(file: BinaryIO) -> int:
    """Return the largest number of bits of a channel of a JPEG 2000 file. 8 if the header is damaged."""
    file.seek(0)
    head = file.read(_SIZ_SEARCHED)
    at = head.find(_SIZ)
    counted = head[at + _N_COMPONENTS_AT : at + _N_COMPONENTS_AT + 2]
    if at < 0 or len(counted) < 2:
        return 8
    first = at + _N_COMPONENTS_AT + 2
    depths = head[first : first + 3 * struct.unpack(">H", counted)[0] : 3]
    return max(((depth & 0x7F) + 1 for depth in depths), default=8)


def widen_levels(pixels: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Map levels of less than 8 bits, which Pillow has shifted to the left, to 0..255."""
    return rounded(pixels * (255 / (256 - 2 ** (8 - bits)))) if bits < 8 else pixels


def read_colour(image: Image.Image, file: BinaryIO, name: str) -> NDArray[Any] | None:
    """Read colour for which `has_deep_colour` is true.

    Parameters
    ----------
    image : PIL.Image.Image
        The open image, not decoded yet.
    file : binary file
        From which it was opened.
    name : str
        How errors name the image.

    Returns
    -------
    ndarray of shape (H, W, 3), integer, or None
        Without transparency. None: the extra medical is needed and not installed.

    Raises
    ------
    InputError
        If the file is damaged, or is neither grey nor RGB, each with or without transparency.
    """
    if image.mode not in ("RGB", "RGBA", "LA"):
        raise InputError(f"{name} is {image.mode} of more than 8 bits a channel: convert it to RGB")
    if image.format != "PPM" and importlib.util.find_spec("imagecodecs") is None:
        return None
    try:
        values = _ppm(image, file) if image.format == "PPM" else _decoded(str(image.format), file)
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        reason = one_line(error) or type(error).__name__
        raise InputError(
            f"{name} is corrupt or truncated ({reason[:200]}): copy it again or remove it"
        ) from error
    if values.ndim != 3 or values.shape[2] not in (2, 3, 4) or values.dtype.kind not in "iu":
        raise InputError(f"{name} is {values.dtype} of shape {values.shape}: convert it to 8 bits or to grey")
    return np.repeat(values[..., :1], 3, axis=2) if values.shape[2] == 2 else values[..., :3]


def _decoded(kind: str, file: BinaryIO) -> NDArray[Any]:
    codecs = import_extra("imagecodecs", "medical", f"{kind} of 16 bits")
    file.seek(0)
    content = file.read()
    return np.asarray(
        codecs.png_decode(essential_png(content)) if kind == "PNG" else codecs.jpeg2k_decode(content)
    )


def _ppm(image: Image.Image, file: BinaryIO) -> NDArray[Any]:
    """Return the numbers of a PPM, as bytes (P6) or as text (P3)."""
    assert isinstance(image, ImageFile.ImageFile)
    decoder, _, offset, _ = image.tile[0]
    width, height = image.size
    file.seek(offset)
    n_values = height * width * 3
    if decoder == "ppm_plain":
        words = _PPM_COMMENT.sub(b"", file.read()).split()[:n_values]
        values = np.array([int(word) for word in words], np.uint16)
    else:
        values = np.frombuffer(file.read(2 * n_values), ">u2").astype(np.uint16)
    return values.reshape(height, width, 3)
