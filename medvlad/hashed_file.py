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
from typing import BinaryIO

from medvlad._validate import InputError

__all__ = ["HashedFile"]

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
