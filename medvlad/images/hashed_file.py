"""A file of an image, hashed so that the digest is that of the very bytes that are decoded.

A file may be replaced or written to between two readings. So it is opened once. Up to 64 MiB are read into
memory once, hashed there and decoded from there. A larger file, which may hold thousands of images and more
than the memory, is not copied: it is hashed through the same descriptor before and after it is decoded, and
refused if the two digests differ. That reads a large file twice for each of its images.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medvlad._util.validate import InputError
from medvlad.images.frames import split_frame

__all__ = ["HashedFile", "image_key"]

_IN_MEMORY = 64 << 20


class HashedFile:
    """What an open file holds, to be decoded from `file`.

    Attributes
    ----------
    file : binary file
        In memory, or the open file itself.
    digest : str
        SHA-256 of the bytes.
    """

    def __init__(self, opened: BinaryIO) -> None:
        self._is_copy = os.fstat(opened.fileno()).st_size <= _IN_MEMORY
        self.file: BinaryIO = io.BytesIO(opened.read()) if self._is_copy else opened
        self.digest = self._hash()

    def _hash(self) -> str:
        self.file.seek(0)
        digest = hashlib.file_digest(self.file, "sha256").hexdigest()  # type: ignore[arg-type]
        self.file.seek(0)
        return digest

    def check_unchanged(self, name: str) -> None:
        """Refuse a file that was written to since it was hashed; `name` is what the error calls it."""
        if not self._is_copy and self._hash() != self.digest:
            raise InputError(f"{name} has changed while it was read: run the same again once it is complete")


def image_key(image: Any, digests: dict[Path, str] | None = None) -> str:
    """SHA-256 of an image: of the file's bytes, or of the pixels with their shape and dtype.

    One of several images of a file, ``FILE#N``, has "#N" after that of the file.

    Parameters
    ----------
    image : path or ndarray
    digests : dict of Path to str, optional
        Of files of several images that have been looked at, so that each is read once; is added to.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        path, frame = split_frame(image)
        if digests is not None and path in digests:
            return digests[path] if frame is None else f"{digests[path]}#{frame}"
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"{image} cannot be read: {error.strerror}") from error
        if frame is None:
            return found
        if digests is not None:
            digests[path] = found
        return f"{found}#{frame}"
    digest = hashlib.sha256()
    pixels = np.asarray(image)
    digest.update(f"{pixels.dtype.str} {pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
