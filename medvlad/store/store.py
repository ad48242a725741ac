"""The descriptor store: what a network made of an image, on disk, so that it is never made twice.

::

    STORE/format.json                what this folder is, and its version
    STORE/SECTION/settings.json      network, layer, weights, scales, ...: one section for each choice of them
    STORE/SECTION/CONTENT.shard      descriptors of some hundred images (safetensors), named by its SHA-256
    STORE/SECTION/.*.part            a shard that is being written

Images are known by the SHA-256 of their bytes, so names and folders do not matter and two copies are stored
once. A section is named by the hash of its settings: another layer, scale or filter never meets
these numbers. Each shard's header holds that name, and a shard found in another section is not used. If the
settings hold "shape", every image of the section has that shape (n, D).

A shard is described in :mod:`medvlad.store.shard`, its merging in :mod:`medvlad.store.compaction`.

Shards are written beside, flushed to the disk and renamed: whoever is killed loses the shard in hand and
nothing else. They never change, so any number of processes may read and write one store; an image that two of
them wrote is there twice until `gc`. A damaged image is as good as none: it is told, and extracted again.

`gc` never leaves an image without a shard; whoever finds a shard gone looks where its images are now.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medvlad._util.atomic_file import is_abandoned, whole_file
from medvlad._util.validate import InputError, check_choice
from medvlad.descriptors.checks import check_finite
from medvlad.store import shard as shard_file
from medvlad.store.compaction import Merger, only_one
from medvlad.store.shard import DIGEST, Damaged, Shard, digests_of, publish, section_of, write_shard

__all__ = ["DescriptorStore", "Section", "ShardWriter"]

logger = logging.getLogger(__name__)

_FORMAT = {"format": "medvlad descriptor store", "version": 2}
_FIND_IMAGES = 1 << 14  # looked up at a time
_RECENT_IMAGES = 1 << 14  # added before they are sorted into the index, which takes a look at all of it

# Where an image is: the number of its shard and its own in there; and its shape (n, D).
_PLACE = np.dtype([("shard", np.int32), ("number", np.int32), ("rows", np.int32), ("width", np.int32)])


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
        # Others may be at its making: their unfinished files are nothing yet; then comes the marker.
        if self.path.is_dir():
            others = [file for file in self.path.iterdir() if file.suffix != ".part"]
            if others and not marker.exists():
                raise InputError(f"{self.path} is a folder of something else: name an empty or a new one")
        if marker.exists():
            try:
                found = json.loads(marker.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise InputError(f"{marker} cannot be read ({error}): is this a descriptor store?") from error
            if found != _FORMAT:
                raise InputError(f"{self.path} is a store of another version: {found}, this is {_FORMAT}")

    def section(self, settings: Mapping[str, Any]) -> Section:
        """Return the part of the store for these settings, JSON values all of them."""
        return Section(self.path / _section_name(settings), dict(settings), self)

    def sections(self) -> list[Section]:
        """Return every section that is there."""
        found = []
        for file in sorted(self.path.glob("*/settings.json")):
            try:
                settings = dict(json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError) as error:
                raise InputError(
                    f"{file} is damaged ({error}): remove it, a run with the same settings writes it anew"
                ) from error
            found.append(Section(file.parent, settings, self))
        return found

    def prepare(self) -> None:
        """Make the folder and say what it is."""
        _write_once(self.path / "format.json", json.dumps(_FORMAT) + "\n")


@dataclass(frozen=True)
class _Index:
    """Places of images by a digest of their keys, sorted: 32 bytes an image."""

    digests: NDArray[np.bytes_] = field(default_factory=lambda: np.empty(0, DIGEST))
    places: NDArray[np.void] = field(default_factory=lambda: np.empty(0, _PLACE))

    def joined(self, found: list[_Index]) -> _Index:
        """Return an index with the images of others besides, which are let go of; the first place counts."""
        found.insert(0, self)
        digests = np.concatenate([index.digests for index in found])
        places = np.concatenate([index.places for index in found])
        found.clear()
        order = np.argsort(digests, kind="stable")
        digests = digests[order]
        doubles = np.flatnonzero(digests[1:] == digests[:-1]) + 1
        if len(doubles):
            order, digests = np.delete(order, doubles), np.delete(digests, doubles)
        return _Index(digests, places[order])

    def without(self, digest: bytes) -> _Index:
        """Return an index without an image."""
        kept = self.digests != digest
        return _Index(self.digests[kept], self.places[kept])

    def find(self, digests: NDArray[np.bytes_]) -> NDArray[np.void]:
        """Places of images (B,); a shard of -1 for those that are not there."""
        places = np.full(len(digests), np.array((-1, -1, 0, 0), _PLACE))
        for start in range(0, len(digests) if len(self.digests) else 0, _FIND_IMAGES):
            part = digests[start : start + _FIND_IMAGES]
            found = np.minimum(np.searchsorted(self.digests, part), len(self.digests) - 1)
            known = self.digests[found] == part
            places[start : start + _FIND_IMAGES][known] = self.places[found[known]]
        return places

    def place(self, digest: bytes) -> tuple[int, int, int, int] | None:
        """As `find`, of one image, and quick."""
        at = int(np.searchsorted(self.digests, digest))
        if at == len(self.digests) or self.digests[at] != digest:
            return None
        place: tuple[int, int, int, int] = self.places[at].item()
        return place


class Section:
    """Descriptors made with one choice of settings: a mapping from image key to an array (n, D).

    It holds 32 bytes an image in memory. Any number of threads may use it at once.
    """

    def __init__(self, path: Path, settings: dict[str, Any], store: DescriptorStore) -> None:
        self.path = path
        self.settings = settings
        self._store = store
        self._lock = threading.RLock()
        self._index = _Index()
        self._recent: dict[bytes, tuple[int, int, int, int]] = {}  # added, not yet sorted into the index
        self._shards: list[Path] = []
        self._open: tuple[Path, Shard] | None = None
        self.refresh()

    def __reduce__(self) -> tuple[Any, ...]:
        return Section, (self.path, self.settings, self._store)

    def refresh(self) -> None:
        """Look for shards that others have written or replaced."""
        with self._lock:
            self._settle()
            while not self._refreshed():
                pass

    def _refreshed(self) -> bool:
        """Read the headers of new shards; whether none of them vanished meanwhile."""
        files = set(self.path.glob("*.shard"))
        if not files.issuperset(self._shards):  # another shard, passed over so far, may hold these images
            self._index, self._shards, self._open = _Index(), [], None
        shards, found = list(self._shards), list[_Index]()
        for file in sorted(files.difference(shards)):
            try:
                shard = self._checked(Shard(file))
                found.append(_indexed(len(shards), shard.keys, shard.shapes))
            except FileNotFoundError:
                return False
            except Damaged as damage:
                logger.warning("%s: its images will be extracted again", damage)
            shards.append(file)
        if found:
            self._index = self._index.joined(found)
        self._shards = shards
        return True

    @property
    def shape(self) -> tuple[int, int] | None:
        """Shape (n, D) of each image; None if the settings do not say."""
        shape = self.settings.get("shape")
        return None if shape is None else (int(shape[0]), int(shape[1]))

    def _checked(self, shard: Shard) -> Shard:
        """Return the shard; refuse one with an image that has not the section's shape."""
        wanted = self.shape
        if wanted is not None:
            for shape in set(shard.shapes) - {wanted}:
                raise Damaged(f"{shard.file} has an image of shape {shape}, and this section is of {wanted}")
        return shard

    def __len__(self) -> int:
        return len(self._settle().digests)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._place(digests_of([key])[0]) is not None

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            index, shards = self._settle(), self._shards
        for number, file in enumerate(shards):
            try:
                keys = self._checked(Shard(file)).keys
            except (Damaged, FileNotFoundError):
                continue
            places = index.find(digests_of(keys))
            here = (places["shard"] == number) & (places["number"] == np.arange(len(keys)))
            yield from (keys[i] for i in np.flatnonzero(here))

    def get(self, key: str) -> NDArray[np.float32] | None:
        """Descriptors (n, D) of an image; None where there are none, or they are damaged."""
        return self.read(digests_of([key])[0])

    def read(self, digest: bytes) -> NDArray[np.float32] | None:
        """As `get`, of the image whose key has this digest."""
        values: NDArray[np.float32] | None = self._look(digest, Shard.read)
        return values

    def places(self, digests: NDArray[np.bytes_]) -> NDArray[np.void]:
        """Shard, number, rows, width of images, shape (B,); a shard of -1 where there is no such image."""
        return self._settle().find(digests)

    def forget_damaged(self) -> None:
        """Read everything, so that what is damaged counts as missing."""
        index = self._settle()
        for position in np.argsort(index.places, order=("shard", "number")):
            self._look(index.digests[position], Shard.parts)

    def prepare(self) -> None:
        """Make the folder and say what is in it."""
        self._store.prepare()
        _write_once(self.path / "settings.json", json.dumps(self.settings, indent=1, sort_keys=True) + "\n")

    def writer(self, dtype: str = "float32") -> ShardWriter:
        """Return what adds images to this section."""
        self.prepare()
        return ShardWriter(self, check_choice(dtype, "dtype", ("float32", "float16")))

    def n_bytes(self) -> int:
        """Size on disk."""
        total = 0
        for file in self.path.glob("*.shard"):
            with suppress(FileNotFoundError):  # the gc of another process
                total += file.stat().st_size
        return total

    def verify(self) -> list[str]:
        """Read everything; return one sentence for each damaged shard or image, and for wrong settings."""
        found = []
        if self.path.name != _section_name(self.settings):
            found.append(
                f"{self.path / 'settings.json'} is not what the name of its folder says: it was changed, or "
                "the folder was renamed. Remove it; a run with the right settings writes it again"
            )
        for file in sorted(self.path.glob("*.shard")):
            try:
                shard = self._checked(Shard(file))
            except FileNotFoundError:  # the gc of another process
                continue
            except Damaged as damage:
                found.append(str(damage))
                continue
            before = len(found)
            for index in range(len(shard.keys)):
                try:
                    shard.parts(index)
                except Damaged as damage:
                    found.append(str(damage))
            if len(found) == before and not shard.is_its_name():
                found.append(f"{file} is not what its name says")
        return found

    def gc(self) -> int:
        """Remove what is damaged, double, or left by processes that are gone; join small shards.

        Good images of a shard that cannot stay as it is are on the disk in another before it goes, so being
        killed loses none. A whole shard of another section is not removed but moved to the folder of its
        section. Other processes may read and write meanwhile.

        Returns
        -------
        int
            Bytes freed.

        Raises
        ------
        InputError
            If another `gc` is at work here, or the folder cannot be read or written.
        """
        if not self.path.is_dir():
            return 0
        merger, held = Merger(self.path, self._checked), set[bytes]()
        try:
            with only_one(self.path / "gc.lock"):
                for file in sorted(self.path.glob("*.shard")):
                    merger.look_at(file, held)
                merger.flush()
                for file in self.path.glob("*.part"):
                    with suppress(FileNotFoundError):  # it has got its name
                        inode = file.stat().st_ino
                        if is_abandoned(file):
                            merger.remove(file, inode)
        except OSError as error:
            raise InputError(
                f"the store {self.path} cannot be tidied: {error.strerror or error}; no image in it is lost"
            ) from error
        self.refresh()
        return merger.freed

    def adopt(self, content: bytes) -> None:
        """Write a shard that was made elsewhere, byte for byte.

        Raises
        ------
        InputError
            If it is not a shard of this section, or the store cannot be written.
        """
        made_for = section_of(content)
        if made_for != self.path.name:
            raise InputError(
                f"a shard made elsewhere is not of the section {self.path.name} but of {made_for}: it is not "
                "put into the store. Install the same medvlad on all machines"
            )
        self.prepare()
        file = publish(self.path, content)
        with self._lock:
            self._settle()
            if file in self._shards:  # it has taken the place of a damaged one
                self._index, self._shards, self._open = _Index(), [], None
        self.refresh()

    def add(self, file: Path, images: Mapping[str, NDArray[Any]]) -> None:
        """Remember a shard that was written."""
        with self._lock:
            for i, (digest, values) in enumerate(zip(digests_of(images), images.values(), strict=True)):
                self._recent[digest] = (len(self._shards), i, len(values), values.shape[1])
            self._shards.append(file)
            self._open = None  # it may have taken the place of a damaged one
            if len(self._recent) >= _RECENT_IMAGES:
                self._settle()

    def _settle(self) -> _Index:
        """Sort what was added into the index, and return that."""
        with self._lock:
            if self._recent:
                digests = np.fromiter(self._recent, DIGEST, len(self._recent))
                places = np.array(list(self._recent.values()), _PLACE)
                self._index, self._recent = self._index.joined([_Index(digests, places)]), {}
            return self._index

    def _place(self, digest: bytes) -> tuple[int, int, int, int] | None:
        with self._lock:
            return self._recent.get(digest) or self._index.place(digest)

    def _look(self, digest: bytes, read: Callable[[Shard, int], Any]) -> Any:
        """Return what `read` makes of an image; None where there is none, or one found to be damaged."""
        while True:
            with self._lock:
                place = self._place(digest)
                if place is None:
                    return None
                file = self._shards[place[0]]
                try:
                    if self._open is None or self._open[0] != file:
                        self._open = file, self._checked(Shard(file))
                    shard = self._open[1]
                except FileNotFoundError:  # a gc has put its images elsewhere
                    self.refresh()
                    continue
                except Damaged as damage:
                    return self._forget(digest, damage)
            try:
                return read(shard, place[1])
            except Damaged as damage:
                return self._forget(digest, damage)

    def _forget(self, digest: bytes, damage: Damaged) -> None:
        logger.warning("%s: it will be extracted again", damage)
        with self._lock:
            self._index = self._settle().without(digest)


class ShardWriter:
    """Collects images and writes a shard whenever there are enough; the rest on leaving the context."""

    def __init__(self, section: Section, dtype: str) -> None:
        self._section, self._dtype = section, np.dtype(dtype)
        self._images: dict[str, NDArray[np.float32]] = {}
        self._bytes = 0

    def add(self, key: str, values: NDArray[np.float32]) -> None:
        """Take descriptors (n, D) of an image.

        Raises
        ------
        InputError
            If they are not finite numbers, or beyond the dtype of this writer, or not of the section's shape.
        """
        if self._section.shape not in (None, np.shape(values)):
            raise InputError(
                f"descriptors of the image {key} have shape {np.shape(values)}, and the section "
                f"{self._section.path} is of {self._section.shape}"
            )
        if key in self._images or key in self._section:
            return
        with np.errstate(over="ignore"):
            kept = np.array(values, self._dtype)
        check_finite(kept, name=f"descriptors of the image {key} as {self._dtype}")
        self._images[key] = kept
        self._bytes += self._images[key].nbytes
        if len(self._images) >= shard_file.SHARD_IMAGES or self._bytes >= shard_file.SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what has been collected."""
        if not self._images:
            return
        self._section.add(write_shard(self._section.path, self._images), self._images)
        self._images, self._bytes = {}, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()


def _section_name(settings: Mapping[str, Any]) -> str:
    """Return the name of a section's folder: the first 16 digits of the hash of its settings."""
    text = json.dumps(dict(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _indexed(shard: int, keys: Collection[str], shapes: Sequence[tuple[int, int]]) -> _Index:
    """Index of the images of a shard, in their order."""
    rows = [(shard, number, *shape) for number, shape in enumerate(shapes)]
    return _Index(digests_of(keys), np.array(rows, _PLACE))


def _write_once(file: Path, text: str) -> None:
    """Write a small file in one step, unless it is there."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            with whole_file(file) as content:
                content.write(text.encode())
    except OSError as error:
        raise InputError(
            f"the store {file.parent} cannot be written: {error.strerror or error}; what is in it stays"
        ) from error
