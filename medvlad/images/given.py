"""Images that are given as objects: bytes, open files, Pillow images, and arrays of other libraries.

::

    bytes, bytearray, memoryview    the content of an image file
    object with `read`              an open binary file, which is read from its beginning and stays open
    PIL.Image.Image                 pixels as its file would give, turned by its EXIF orientation
    torch, TensorFlow, JAX, CuPy    arrays of uint8 or uint16, also on a GPU, by `__array__` or DLPack
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medvlad._util.validate import InputError, one_line
from medvlad.images.grey_levels import stretch
from medvlad.images.to_rgb import (
    as_three_channels,
    check_header,
    check_size,
    exif_orientation,
    to_rgb,
    turn_upright,
)

__all__ = [
    "array_of",
    "content_key",
    "content_of",
    "is_content",
    "opened",
    "pixels_of_array",
    "pixels_of_pillow",
]

_reading = threading.Lock()  # one file object may stand several times in a list that threads read


def is_content(image: Any) -> bool:
    """Return whether an image is given as the content of a file: bytes, or an open file."""
    return isinstance(image, bytes | bytearray | memoryview) or (
        hasattr(image, "read") and not isinstance(image, os.PathLike)
    )


def content_of(image: Any) -> tuple[bytes, str]:
    """Return the content of an image file and its name.

    Parameters
    ----------
    image : bytes-like, or binary file

    Returns
    -------
    content : bytes
    name : str
        Name of the open file, or "" if it has none.

    Raises
    ------
    InputError
        If the file cannot be read, or is open as text.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image), ""
    name = getattr(image, "name", "")
    name = name if isinstance(name, str) else ""
    try:
        with _reading:
            if getattr(image, "seekable", bool)():
                image.seek(0)
            content = image.read()
    except (OSError, ValueError) as error:
        raise InputError(
            f"the open file {name} of an image cannot be read ({one_line(error)}): open it again"
        ) from error
    if not isinstance(content, bytes):
        raise InputError(f"the open file {name} of an image gives text, not bytes: open it with mode 'rb'")
    return content, name


def content_key(image: Any) -> str:
    """Return the SHA-256 of an image that is given as the content of a file, as that of the file itself."""
    return hashlib.sha256(content_of(image)[0]).hexdigest()


def pixels_of_pillow(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of a Pillow image as RGB, turned by its EXIF orientation.

    Parameters
    ----------
    image : PIL.Image.Image
        It is loaded and does not change. Pillow keeps only the high byte of colour of more than 8 bits a
        channel, so give the file of such an image instead.

    Raises
    ------
    InputError
        If the image cannot be decoded, or is too small or too large.
    """
    name = "the Pillow image"
    check_header(image, name)
    transparency = image.info.get("transparency")
    try:
        image.load()
        return turn_upright(to_rgb(image, name), exif_orientation(image))
    except InputError:
        raise
    except Exception as error:  # damaged files give Pillow's decoders arbitrary content
        raise InputError(f"{name} cannot be decoded ({one_line(error)}): open its file again") from error
    finally:
        if transparency is not None:
            image.info["transparency"] = transparency


def pixels_of_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an array of uint8 or uint16, grey or RGB, as RGB of 8 bits.

    Raises
    ------
    InputError
        If the array has another dtype or shape.
    """
    if array.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"an image array must be of uint8 or uint16, got {array.dtype}: scale it to 0..255 and convert "
            "it with astype('uint8')"
        )
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        raise InputError(
            f"an image array of shape {array.shape} seems to have its channels first: give "
            "(height, width, 3), such as image.permute(1, 2, 0) of a torch tensor"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise InputError(
            f"an image array must have shape (height, width), (height, width, 1) or (height, width, 3), "
            f"got {array.shape}: give one grey or RGB image with the channels last"
        )
    check_size(array.shape[1], array.shape[0], "the image array")
    eight_bits = array if array.dtype == np.uint8 else stretch(array, "the image array")
    return as_three_channels(eight_bits)


def array_of(image: Any) -> NDArray[Any] | None:
    """Return an array of any library as a NumPy array on the host. None: it is no array.

    Raises
    ------
    InputError
        If the array cannot be copied to the host.
    """
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, str | list | tuple) or not hasattr(image, "shape"):
        return None
    library = type(image).__module__.partition(".")[0]
    try:
        if library == "torch":
            image = image.detach().cpu()
        elif library == "cupy":
            image = image.get()
        if hasattr(image, "__array__"):
            return np.asarray(image)
        return np.from_dlpack(image) if hasattr(image, "__dlpack__") else None
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise InputError(
            f"an image array of {library} cannot be read ({one_line(error)}): convert it to NumPy"
        ) from error


def opened(content: bytes, name: str) -> tuple[io.BytesIO, Path, str]:
    """Return content as an open file, a path whose ending may tell the format, and a name for messages."""
    return io.BytesIO(content), Path(name or "image"), f"image {name!r}" if name else "the image"
