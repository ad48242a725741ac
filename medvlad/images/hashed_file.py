"""Hash exactly the bytes of an image file that are decoded.

A file may be replaced or written to between two readings, so it is opened only once:

- A file of up to 64 MiB is read into memory once, then hashed and decoded from there.
- A larger file may hold thousands of images and not fit into memory. It is hashed through the same open file
  before and after it is decoded, and refused if the two digests differ. This reads it twice more for each of
  its images.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from medvlad._util.counters import count
from medvlad._util.object_path import check_reached
from medvlad._util.validate import InputError
from medvlad.images.frames import split_frame
from medvlad.images.given import array_of, content_key, is_content, pixels_of_pillow

__all__ = ["HashedFile", "image_key"]

_IN_MEMORY = 64 << 20


class HashedFile:
    """Hashed content of an open file.

    Parameters
    ----------
    opened : binary file
        File on the disk or in object storage.

    Attributes
    ----------
    file : binary file
        Decode from this: a copy in memory, or `opened` if the file is large.
    digest : str
        SHA-256 of the bytes, hexadecimal.
    """

    def __init__(self, opened: BinaryIO) -> None:
        self._is_copy = opened.seek(0, os.SEEK_END) <= _IN_MEMORY
        opened.seek(0)
        self.file: BinaryIO = io.BytesIO(opened.read()) if self._is_copy else opened
        self.digest = self._hash()

    def _hash(self) -> str:
        self.file.seek(0)
        digest = hashlib.file_digest(self.file, "sha256").hexdigest()  # type: ignore[arg-type]
        self.file.seek(0)
        return digest

    def check_unchanged(self, name: str) -> None:
        """Check that a large file has not changed since it was hashed.

        Parameters
        ----------
        name : str
            How the error names the image.

        Raises
        ------
        InputError
        """
        if not self._is_copy and self._hash() != self.digest:
            raise InputError(f"{name} has changed while it was read: run the same again once it is complete")


def image_key(image: Any, digests: dict[Path, str] | None = None) -> str:
    """Return the SHA-256 of a file's bytes, or of pixels with their shape and dtype.

    Parameters
    ----------
    image : path, ndarray, or another image that :func:`medvlad.images.read.load_image` takes
    digests : dict of Path to str, optional
        Digests of files of several images that have been read. New digests are added. Pass the same dict for
        all images, so that each file is read once. None: each image reads its file.

    Returns
    -------
    str
        Hexadecimal digits, followed by ``#N`` for image N of a file.

    Raises
    ------
    InputError
        If the file cannot be read. StorageFailure if it is an object and its storage fails.
    """
    if isinstance(image, str | os.PathLike):
        path, frame = split_frame(image)
        if digests is not None and path in digests:
            return digests[path] if frame is None else f"{digests[path]}#{frame}"
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                count("bytes_read", file.tell())
        except OSError as error:
            check_reached(path, error)
            raise InputError(
                f"{image} cannot be read: {error.strerror}. Check the path and its permissions"
            ) from error
        if frame is None:
            return found
        if digests is not None:
            digests[path] = found
        return f"{found}#{frame}"
    if is_content(image):
        return content_key(image)
    digest = hashlib.sha256()
    pixels = pixels_of_pillow(image) if isinstance(image, Image.Image) else np.asarray(array_of(image))
    digest.update(f"{pixels.dtype.str} {pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
