"""A shard: one file with the descriptors of a few hundred images. It never changes.

Most numbers behind ReLU are zero. A shard is a safetensors file that keeps one bit for each number, and the
numbers that are not zero::

    marks    one bit for each number, most significant bit first; 1: not zero; each image begins a new byte
    numbers  float32 or float16; the numbers whose bit is 1

For each image, the header holds its key, its shape, the number of its non-zero numbers, and the CRC-32 of all
of these. The header also holds the name of the section, which is the name of the folder. A shard that was
copied into another section is refused. The name of the file is the SHA-256 of its content. It is written
atomically.

Shards are read with plain reads, not with the memory map of safetensors. If the disk fails or the file is cut
short, reading from a map ends the process with a signal.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.store.folder import Content, folder_at

__all__ = [
    "DIGEST",
    "SHARD_BYTES",
    "SHARD_IMAGES",
    "Damaged",
    "Foreign",
    "Shard",
    "digests_of",
    "is_its_name",
    "publish",
    "section_of",
    "write_shard",
]

SHARD_IMAGES = 256
SHARD_BYTES = 64 << 20  # size of the descriptors in memory
DIGEST = "S16"
_DTYPES = {name: np.dtype(kind) for name, kind in {"F32": "f4", "F16": "f2", "U8": "u1"}.items()}
_LARGEST = np.iinfo(np.int32).max  # largest number in the index


class Damaged(Exception):
    """A shard, or an image in it, is not what was written. The message says which one."""


class Foreign(Damaged):
    """A shard belongs to another section. `section` is the name of that section."""

    def __init__(self, message: str, section: str) -> None:
        super().__init__(message)
        self.section = section


def digests_of(keys: Collection[str | None]) -> NDArray[np.bytes_]:
    """Return a digest of 16 bytes for each key. The digest of None is empty."""
    digests = (b"" if key is None else hashlib.blake2b(key.encode(), digest_size=16).digest() for key in keys)
    return np.fromiter(digests, DIGEST, len(keys))


def write_shard(folder: Path, images: Mapping[str, NDArray[Any]]) -> Path:
    """Write a shard.

    Parameters
    ----------
    folder : Path
        Folder of the section.
    images : mapping of str to ndarray (n, D), float32 or float16
        Descriptors of each image by key.

    Returns
    -------
    Path
        File of the shard.
    """
    from safetensors.numpy import save

    marks, numbers, rows = [], [], []
    for key, values in images.items():
        is_there = values.view(f"u{values.itemsize}") != 0  # as bits, so that -0.0 is kept
        packed, kept = np.packbits(is_there), values[is_there]
        marks.append(packed)
        numbers.append(kept)
        rows.append([key, *values.shape, kept.size, _checksum(key, values.shape, packed, kept)])
    tensors = {"marks": np.concatenate(marks), "numbers": np.concatenate(numbers)}
    # One entry, because safetensors writes several in any order and the same images must give the same bytes.
    about = {"images": rows, "section": folder.name}
    return publish(folder, save(tensors, {"shard": json.dumps(about)}))


def section_of(content: bytes) -> str | None:
    """Return the section in the header of a shard's content. None: the content is not a shard."""
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return str(json.loads(header["__metadata__"]["shard"])["section"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return None


def publish(folder: Path, content: bytes) -> Path:
    """Write the content of a shard, so that readers never see a part of it. Return its path."""
    try:
        return folder_at(folder).publish(f"{hashlib.sha256(content).hexdigest()}.shard", content)
    except OSError as error:
        raise InputError(
            f"the store {folder} cannot be written: {error.strerror or error}; what is in it stays"
        ) from error


class Shard:
    """A shard that is open for reading, image by image.

    Parameters
    ----------
    file : Path
    whole : bool, default=False
        Whether all images will be read. An object is then fetched in one request.

    Attributes
    ----------
    keys : list of str
        Key of each image.
    shapes : list of (int, int)
        Shape (n, D) of each image.
    dtype : dtype
        Number format on disk.

    Raises
    ------
    Foreign
        If the header holds another section than the folder of the file.
    Damaged
        If the file is not a complete shard.
    FileNotFoundError
        If the file does not exist. An object may vanish later too, while images are read from it.
    """

    def __init__(self, file: Path, *, whole: bool = False) -> None:
        self.file = file
        try:
            self._content = folder_at(file.parent).open(file, whole=whole)
        except FileNotFoundError:
            if os.path.lexists(file):  # a broken link
                raise self._unreadable("it is a link to a file that does not exist") from None
            raise
        except OSError as error:
            raise self._unreadable(error.strerror) from error
        length = int.from_bytes(self._bytes(0, 8), "little")
        try:
            header = json.loads(self._bytes(8, length))
            about = json.loads(header["__metadata__"]["shard"])
            rows, section = about["images"], str(about["section"])
            self.keys = [str(row[0]) for row in rows]
            self.shapes = [(int(row[1]), int(row[2])) for row in rows]
            self._checks = [int(row[4]) for row in rows]
            sizes = [size for row in rows for size in (int(row[1]), int(row[2]), int(row[3]))]
            if not all(0 <= size <= _LARGEST for size in sizes):
                raise ValueError("an image has an impossible size")
            self._marks = np.cumsum([0, *((n * d + 7) // 8 for n, d in self.shapes)])
            self._numbers = np.cumsum([0, *(int(row[3]) for row in rows)])
            tensors = header["marks"], header["numbers"]
            self._dtypes = [_DTYPES[one["dtype"]] for one in tensors]
            self._begins = [8 + length + int(one["data_offsets"][0]) for one in tensors]
            lengths = [int(one["shape"][0]) for one in tensors]
            self.dtype = self._dtypes[1]
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
            raise Damaged(f"{file} is damaged ({error})") from error
        if section != file.parent.name:
            raise Foreign(f"{file} belongs to another section: {section[:64]!r}", section)
        if lengths != [self._marks[-1], self._numbers[-1]] or self._dtypes[0] != np.uint8:
            raise Damaged(f"{file} is damaged (the lengths of its parts differ from its header)")
        for begin, count, dtype in zip(self._begins, lengths, self._dtypes, strict=True):
            if not 0 <= begin <= begin + count * dtype.itemsize <= self._content.size():
                raise Damaged(f"{file} is damaged (it is cut short)")

    def parts(self, index: int) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """Return marks and numbers of an image. Raise Damaged if they are not what was written."""
        shape = self.shapes[index]
        marks = self._part(0, int(self._marks[index]), int(self._marks[index + 1]))
        numbers = self._part(1, int(self._numbers[index]), int(self._numbers[index + 1]))
        if _checksum(self.keys[index], shape, marks, numbers) != self._checks[index]:
            raise Damaged(f"image {index} of {self.file} is damaged")
        return marks, numbers

    def read(self, index: int) -> NDArray[np.float32]:
        """Return the descriptors (n, D) of an image."""
        shape = self.shapes[index]
        marks, numbers = self.parts(index)
        values = np.zeros(shape[0] * shape[1], np.float32)
        # As bool, because flatnonzero takes four times as long for uint8.
        is_there = np.unpackbits(marks, count=values.size).view(np.bool_)
        values[np.flatnonzero(is_there)] = numbers
        return values.reshape(shape)

    def _part(self, tensor: int, first: int, last: int) -> NDArray[Any]:
        dtype = self._dtypes[tensor]
        begin = self._begins[tensor] + first * dtype.itemsize
        return np.frombuffer(self._bytes(begin, (last - first) * dtype.itemsize), dtype)

    def _bytes(self, begin: int, length: int) -> bytes:
        """Read bytes. Raise Damaged if the file is too short."""
        try:
            if not 0 <= begin <= begin + length <= self._content.size():
                raise Damaged(f"{self.file} is damaged (it is cut short)")
            content = self._content.read(length, begin)
        except FileNotFoundError:  # an object that was removed
            raise
        except OSError as error:
            raise self._unreadable(error.strerror) from error
        if len(content) != length:
            raise Damaged(f"{self.file} is damaged (it is cut short)")
        return content

    def is_its_name(self) -> bool:
        """Return whether the file is, byte for byte, what was written."""
        return _is_its_name(self.file, self._content)

    def _unreadable(self, reason: str | None) -> InputError:
        return _unreadable(self.file, reason)


def is_its_name(file: Path) -> bool:
    """Return whether a shard is, byte for byte, what was written. True if the file does not exist."""
    try:
        return _is_its_name(file, folder_at(file.parent).open(file, whole=True))
    except FileNotFoundError:  # removed by the gc of another process
        return True
    except OSError as error:
        raise _unreadable(file, error.strerror) from error


def _is_its_name(file: Path, content: Content) -> bool:
    try:
        return content.digest() == file.stem
    except FileNotFoundError:  # removed by the gc of another process
        return True
    except OSError as error:
        raise _unreadable(file, error.strerror) from error


def _unreadable(file: Path, reason: str | None) -> InputError:
    """Return an error. A file that cannot be read now is not damaged: its network may be down."""
    return InputError(
        f"the shard {file} cannot be opened or read ({reason}): check its permissions and disk, or remove it"
    )


def _checksum(key: str, shape: tuple[int, ...], marks: NDArray[Any], numbers: NDArray[Any]) -> int:
    head = zlib.crc32(f"{key} {tuple(shape)}".encode())
    return zlib.crc32(numbers.data, zlib.crc32(marks.data, head))
