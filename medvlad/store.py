"""The descriptor store: what a network made of an image, on disk, so that it is never made twice.

::

    STORE/format.json                what this folder is, and its version
    STORE/SECTION/settings.json      network, layer, weights, scales, ...: one section for each choice of them
    STORE/SECTION/CONTENT.shard      descriptors of some hundred images (safetensors), named by its SHA-256
    STORE/SECTION/*.part             a shard that is being written

Images are known by the SHA-256 of their bytes, so names and folders do not matter and two copies are stored
once. A section is the hash of its settings: another layer, scale or resize filter never meets these numbers.

Descriptors behind a rectifier are mostly zeros. A shard keeps a bit a number, and numbers that are not zero:

    marks    bits, most significant first, of all numbers of all images, each image begins a byte
    numbers  float32 or float16, those whose bit is set

and in its header, for each image, its key, shape, how many numbers, and the CRC-32 of all of these.

Shards are written beside, flushed to the disk and renamed: whoever is killed loses the shard in hand and
nothing else. They never change, so any number of processes may read and write one store; an image that two of
them wrote is there twice until `gc`. A damaged image is as good as none: it is told, and extracted again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from medvlad._validate import InputError, check_choice

__all__ = ["DescriptorStore", "Section", "ShardWriter", "image_key"]

logger = logging.getLogger(__name__)

_FORMAT = {"format": "medvlad descriptor store", "version": 1}
_SHARD_IMAGES = 256
_SHARD_BYTES = 64 << 20  # of descriptors in memory
_STALE_SECONDS = 24 * 3600  # a part that old belongs to a process that is gone


class _Entry(NamedTuple):
    """Where an image's descriptors are."""

    shard: Path
    number: int


class Damaged(Exception):
    """A shard, or an image in it, is not what was written; the message says which."""


def image_key(image: Any) -> str:
    """SHA-256 of an image: of the file's bytes, or of the pixels with their shape and dtype.

    Parameters
    ----------
    image : path or ndarray

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    digest = hashlib.sha256()
    if isinstance(image, str | os.PathLike):
        try:
            with Path(image).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"{image} cannot be read: {error.strerror}") from error
    pixels = np.asarray(image)
    digest.update(f"{pixels.dtype.str} {pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


class DescriptorStore:
    """A folder of descriptors.

    Parameters
    ----------
    path : path
        Made when something is written.

    Raises
    ------
    InputError
        If the path is a file, or a folder of something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        marker = self.path / "format.json"
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is not a folder: name one for the descriptor store")
        if marker.exists():
            try:
                found = json.loads(marker.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise InputError(f"{marker} cannot be read ({error}): is this a descriptor store?") from error
            if found != _FORMAT:
                raise InputError(f"{self.path} is a store of another version: {found}, this is {_FORMAT}")
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise InputError(f"{self.path} is a folder of something else: name an empty or a new one")

    def section(self, settings: Mapping[str, Any]) -> Section:
        """Return the part of the store for these settings, JSON values all of them."""
        text = json.dumps(dict(settings), sort_keys=True)
        return Section(self.path / hashlib.sha256(text.encode()).hexdigest()[:16], dict(settings), self)

    def sections(self) -> list[Section]:
        """Return every section that is there."""
        found = []
        for file in sorted(self.path.glob("*/settings.json")):
            found.append(Section(file.parent, json.loads(file.read_text(encoding="utf-8")), self))
        return found

    def prepare(self) -> None:
        """Make the folder and say what it is."""
        self.path.mkdir(parents=True, exist_ok=True)
        _write_once(self.path / "format.json", json.dumps(_FORMAT) + "\n")


class Section:
    """Descriptors made with one choice of settings: a mapping from image key to an array (n, D)."""

    def __init__(self, path: Path, settings: dict[str, Any], store: DescriptorStore) -> None:
        self.path = path
        self.settings = settings
        self._store = store
        self._entries: dict[str, _Entry] = {}
        self._known: set[Path] = set()
        self._open: tuple[Path, _Shard] | None = None
        self.refresh()

    def refresh(self) -> None:
        """Look for shards that others have written."""
        for file in sorted(self.path.glob("*.shard")):
            if file in self._known:
                continue
            self._known.add(file)
            try:
                keys = _Shard(file).keys
            except Damaged as damage:
                logger.warning("%s: its images will be extracted again", damage)
                continue
            for index, key in enumerate(keys):
                self._entries.setdefault(key, _Entry(file, index))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def get(self, key: str) -> NDArray[np.float32] | None:
        """Descriptors (n, D) of an image; None where there are none, or they are damaged."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        try:
            return self._shard(entry.shard).read(entry.number)
        except Damaged as damage:
            logger.warning("%s: it will be extracted again", damage)
            del self._entries[key]
            return None

    def forget_damaged(self) -> None:
        """Read everything, so that what is damaged counts as missing."""
        for key in list(self._entries):
            self.get(key)

    def prepare(self) -> None:
        """Make the folder and say what is in it."""
        self._store.prepare()
        self.path.mkdir(exist_ok=True)
        _write_once(self.path / "settings.json", json.dumps(self.settings, indent=1, sort_keys=True) + "\n")

    def writer(self, dtype: str = "float32") -> ShardWriter:
        """Return what adds images to this section."""
        self.prepare()
        return ShardWriter(self, check_choice(dtype, "dtype", ("float32", "float16")))

    def n_bytes(self) -> int:
        """Size on disk."""
        return sum(file.stat().st_size for file in self.path.glob("*.shard"))

    def verify(self) -> list[str]:
        """Read everything; return one sentence for each damaged shard or image."""
        found = []
        for file in sorted(self.path.glob("*.shard")):
            try:
                shard = _Shard(file)
            except Damaged as damage:
                found.append(str(damage))
                continue
            before = len(found)
            for index in range(len(shard.keys)):
                try:
                    shard.read(index)
                except Damaged as damage:
                    found.append(str(damage))
            if len(found) == before and _digest(file) != file.stem:
                found.append(f"{file} is not what its name says")
        return found

    def gc(self) -> int:
        """Remove damaged shards, shards whose images others hold, and parts of processes that are gone.

        Returns
        -------
        int
            Bytes freed.
        """
        freed, held = 0, set[str]()
        for file in sorted(self.path.glob("*.shard")):
            try:
                shard = _Shard(file)
                for index in range(len(shard.keys)):
                    shard.read(index)
                useless = held.issuperset(shard.keys)
                held.update(shard.keys)
            except Damaged:
                useless = True
            if useless:
                freed += file.stat().st_size
                file.unlink()
        for file in self.path.glob("*.part"):
            if time.time() - file.stat().st_mtime > _STALE_SECONDS:
                freed += file.stat().st_size
                file.unlink()
        return freed

    def adopt(self, content: bytes) -> None:
        """Write a shard that was made elsewhere, byte for byte.

        Raises
        ------
        InputError
            If the store cannot be written.
        """
        self.prepare()
        part = self.path / f"{uuid.uuid4().hex}.part"
        try:
            file = _publish(part, content)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise InputError(f"the store {self.path} cannot be written: {error.strerror}") from error
        # It may have taken the place of a damaged shard of the same name.
        self._known.discard(file)
        self._open = None
        self.refresh()

    def add(self, file: Path, keys: list[str]) -> None:
        """Remember a shard that was written."""
        self._known.add(file)
        for index, key in enumerate(keys):
            self._entries[key] = _Entry(file, index)

    def _shard(self, file: Path) -> _Shard:
        if self._open is None or self._open[0] != file:
            self._open = file, _Shard(file)
        return self._open[1]


class ShardWriter:
    """Collects images and writes a shard whenever there are enough; the rest on leaving the context."""

    def __init__(self, section: Section, dtype: str) -> None:
        self._section, self._dtype = section, np.dtype(dtype)
        self._images: dict[str, NDArray[np.float32]] = {}
        self._bytes = 0

    def add(self, key: str, values: NDArray[np.float32]) -> None:
        """Take descriptors (n, D) of an image."""
        if key in self._images or key in self._section:
            return
        self._images[key] = np.array(values, self._dtype)
        self._bytes += self._images[key].nbytes
        if len(self._images) >= _SHARD_IMAGES or self._bytes >= _SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what has been collected."""
        if not self._images:
            return
        part = self._section.path / f"{uuid.uuid4().hex}.part"
        try:
            file = _write_shard(part, self._images)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise InputError(f"the store {self._section.path} cannot be written: {error.strerror}") from error
        self._section.add(file, list(self._images))
        self._images, self._bytes = {}, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()


def _write_shard(part: Path, images: Mapping[str, NDArray[Any]]) -> Path:
    """Write a shard and return its path, beside `part`."""
    from safetensors.numpy import save

    marks, numbers, rows = [], [], []
    for key, values in images.items():
        is_there = values.view(f"u{values.itemsize}") != 0  # not even -0.0 is lost
        packed, kept = np.packbits(is_there), values[is_there]
        marks.append(packed)
        numbers.append(kept)
        rows.append([key, *values.shape, kept.size, _checksum(key, values.shape, packed, kept)])
    tensors = {"marks": np.concatenate(marks), "numbers": np.concatenate(numbers)}
    return _publish(part, save(tensors, {"images": json.dumps(rows)}))


def _publish(part: Path, content: bytes) -> Path:
    """Write a shard's content to the disk and give it its name, beside `part`; return its path."""
    with part.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    target = part.with_name(f"{hashlib.sha256(content).hexdigest()}.shard")
    part.replace(target)
    folder = os.open(part.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too, survives a power cut
    finally:
        os.close(folder)
    return target


class _Shard:
    """A shard that is read image by image."""

    def __init__(self, file: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self._file = file
        try:
            self._content: Any = safe_open(file, "numpy")
            rows = json.loads(self._content.metadata()["images"])
            self.keys = [str(row[0]) for row in rows]
            self._shapes = [(int(row[1]), int(row[2])) for row in rows]
            self._checks = [int(row[4]) for row in rows]
            self._marks = np.cumsum([0, *((n * d + 7) // 8 for n, d in self._shapes)])
            self._numbers = np.cumsum([0, *(int(row[3]) for row in rows)])
            slices = self._content.get_slice("marks"), self._content.get_slice("numbers")
            self._slices = slices
            lengths = [one.get_shape()[0] for one in slices]
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise Damaged(f"{file} is damaged ({error})") from error
        if lengths != [self._marks[-1], self._numbers[-1]]:
            raise Damaged(f"{file} is damaged (its parts are of other lengths than its header says)")

    def read(self, index: int) -> NDArray[np.float32]:
        """Descriptors (n, D) of an image."""
        shape = self._shapes[index]
        marks = self._slices[0][int(self._marks[index]) : int(self._marks[index + 1])]
        numbers = self._slices[1][int(self._numbers[index]) : int(self._numbers[index + 1])]
        if _checksum(self.keys[index], shape, marks, numbers) != self._checks[index]:
            raise Damaged(f"image {index} of {self._file} is damaged")
        values = np.zeros(shape[0] * shape[1], np.float32)
        values[np.unpackbits(marks, count=values.size).view(bool)] = numbers
        return values.reshape(shape)


def _checksum(key: str, shape: tuple[int, ...], marks: NDArray[Any], numbers: NDArray[Any]) -> int:
    head = zlib.crc32(f"{key} {tuple(shape)}".encode())
    return zlib.crc32(numbers.data, zlib.crc32(marks.data, head))


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _write_once(file: Path, text: str) -> None:
    """Write a small file in one step, unless it is there."""
    if file.exists():
        return
    part = file.with_name(f"{uuid.uuid4().hex}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
