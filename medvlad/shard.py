"""A shard: descriptors of some hundred images in one file that never changes.

Descriptors behind a rectifier are mostly zeros. A shard (safetensors) keeps a bit a number, and numbers that
are not zero::

    marks    bits, most significant first, of all numbers of all images, each image begins a byte
    numbers  float32 or float16, those whose bit is set

and in its header, for each image, its key, shape, how many numbers, and the CRC-32 of all of these. Its name
is the SHA-256 of its bytes; it is written beside, flushed to the disk and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import zlib
from collections.abc import Collection, Mapping
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._validate import InputError

__all__ = [
    "DIGEST",
    "SHARD_BYTES",
    "SHARD_IMAGES",
    "Damaged",
    "Shard",
    "digests_of",
    "flush_and_rename",
    "publish",
    "write_shard",
]

SHARD_IMAGES = 256
SHARD_BYTES = 64 << 20  # of descriptors in memory
DIGEST = "S16"


class Damaged(Exception):
    """A shard, or an image in it, is not what was written; the message says which."""


def digests_of(keys: Collection[str | None]) -> NDArray[np.bytes_]:
    """Sixteen bytes for each key, by which an index in memory knows its image; none for None."""
    digests = (b"" if key is None else hashlib.blake2b(key.encode(), digest_size=16).digest() for key in keys)
    return np.fromiter(digests, DIGEST, len(keys))


def write_shard(folder: Path, images: Mapping[str, NDArray[Any]]) -> Path:
    """Write a shard and return its path."""
    from safetensors.numpy import save

    marks, numbers, rows = [], [], []
    for key, values in images.items():
        is_there = values.view(f"u{values.itemsize}") != 0  # not even -0.0 is lost
        packed, kept = np.packbits(is_there), values[is_there]
        marks.append(packed)
        numbers.append(kept)
        rows.append([key, *values.shape, kept.size, _checksum(key, values.shape, packed, kept)])
    tensors = {"marks": np.concatenate(marks), "numbers": np.concatenate(numbers)}
    return publish(folder, save(tensors, {"images": json.dumps(rows)}))


def publish(folder: Path, content: bytes) -> Path:
    """Write a shard's content to the disk under its name; return its path."""
    target = folder / f"{hashlib.sha256(content).hexdigest()}.shard"
    part = folder / f"{uuid.uuid4().hex}.part"
    try:
        with part.open("xb") as file:
            file.write(content)
            flush_and_rename(file, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"the store {folder} cannot be written: {error.strerror}") from error
    return target


def flush_and_rename(file: BufferedWriter, target: Path) -> None:
    """Give a file that has been written its name, so that it is whole under it even after a power cut."""
    file.flush()
    os.fsync(file.fileno())
    Path(file.name).replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Shard:
    """A shard that is read image by image."""

    def __init__(self, file: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.file = file
        try:
            self._content: Any = safe_open(file, "numpy")
            rows = json.loads(self._content.metadata()["images"])
            self.keys = [str(row[0]) for row in rows]
            self.shapes = [(int(row[1]), int(row[2])) for row in rows]
            self._checks = [int(row[4]) for row in rows]
            self._marks = np.cumsum([0, *((n * d + 7) // 8 for n, d in self.shapes)])
            self._numbers = np.cumsum([0, *(int(row[3]) for row in rows)])
            slices = self._content.get_slice("marks"), self._content.get_slice("numbers")
            self._slices = slices
            lengths = [one.get_shape()[0] for one in slices]
            self.dtype = np.dtype({"F32": "float32", "F16": "float16"}[slices[1].get_dtype()])
        except FileNotFoundError:
            _check_openable(file)
            raise
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise Damaged(f"{file} is damaged ({error})") from error
        if lengths != [self._marks[-1], self._numbers[-1]]:
            raise Damaged(f"{file} is damaged (its parts are of other lengths than its header says)")

    def parts(self, index: int) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """Return marks and numbers of an image, as they were written."""
        shape = self.shapes[index]
        marks = self._part(0, int(self._marks[index]), int(self._marks[index + 1]))
        numbers = self._part(1, int(self._numbers[index]), int(self._numbers[index + 1]))
        if _checksum(self.keys[index], shape, marks, numbers) != self._checks[index]:
            raise Damaged(f"image {index} of {self.file} is damaged")
        return marks, numbers

    def read(self, index: int) -> NDArray[np.float32]:
        """Descriptors (n, D) of an image."""
        shape = self.shapes[index]
        marks, numbers = self.parts(index)
        values = np.zeros(shape[0] * shape[1], np.float32)
        values[np.flatnonzero(np.unpackbits(marks, count=values.size))] = numbers
        return values.reshape(shape)

    def _part(self, tensor: int, first: int, last: int) -> NDArray[Any]:
        if first == last:  # safetensors takes it for out of bounds at the end
            return np.empty(0, (np.dtype(np.uint8), self.dtype)[tensor])
        part: NDArray[Any] = self._slices[tensor][first:last]
        return part

    def is_its_name(self) -> bool:
        """Whether the file is, byte for byte, what was written."""
        return _digest(self.file) == self.file.stem


def _check_openable(file: Path) -> None:
    """Raise InputError for a shard that is there and cannot be opened; safetensors calls that missing."""
    if not os.path.lexists(file):
        return
    try:
        file.open("rb").close()
    except OSError as error:
        if os.path.lexists(file):
            raise InputError(
                f"the shard {file} cannot be opened ({error.strerror}): change its permissions, or remove it"
            ) from error


def _checksum(key: str, shape: tuple[int, ...], marks: NDArray[Any], numbers: NDArray[Any]) -> int:
    head = zlib.crc32(f"{key} {tuple(shape)}".encode())
    return zlib.crc32(numbers.data, zlib.crc32(marks.data, head))


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
