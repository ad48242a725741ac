"""Extract or encode a chunk of images in a worker of a cluster: the worker's side."""

from __future__ import annotations

import os
import tempfile
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvlad._util.object_path import ObjectPath, location
from medvlad._util.object_storage import remove
from medvlad._util.validate import InputError
from medvlad._util.versions import versions
from medvlad.descriptors.ragged import Descriptors
from medvlad.distributed.calls import other_version, this_worker
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.damaged_images import damaged_key
from medvlad.extraction.networks.keras_network import import_keras
from medvlad.images.frames import frame_name
from medvlad.store.store import DescriptorStore, Section
from medvlad.store.writer import FLUSH_SECONDS

__all__ = [
    "Encoding",
    "Extraction",
    "Image",
    "Made",
    "encode",
    "probe_of",
    "what_decides_bits",
]

_BATCH = 8  # images, if the network's batch_size is None; a multiple of what it takes then


@dataclass(frozen=True)
class Image:
    """An image that is sent to a worker.

    Attributes
    ----------
    index : int
        Number of the image in the client's list.
    key : str
        Key of the image in the store.
    name : str
        What messages call the image.
    source : ndarray or str
        Pixels, or the absolute path of the file.
    frame : int or None
        Number of the image in its file. None: the file holds one image.
    """

    index: int
    key: str
    name: str
    source: Any
    frame: int | None


@dataclass
class Made:
    """Result of a chunk of images.

    Attributes
    ----------
    skipped : list of (int, str)
        Images that were skipped, and why.
    unseen : list of int
        Images whose files the worker did not find, or found with other content.
    shards : list of bytes
        Shards that the client must write, because the worker does not see the store.
    damaged : list of (int, str)
        Images that are damaged, and how. Their descriptors have marked keys in the shards.
    left : list of int
        Images for which there was no time. A task takes about a minute, so that little is lost with it.
    """

    skipped: list[tuple[int, str]] = field(default_factory=list)
    unseen: list[int] = field(default_factory=list)
    shards: list[bytes] = field(default_factory=list)
    damaged: list[tuple[int, str]] = field(default_factory=list)
    left: list[int] = field(default_factory=list)


def what_decides_bits(engine: str, readers: Collection[str] = ()) -> dict[str, str]:
    """Return the versions of the packages that decide the bits of descriptors.

    Parameters
    ----------
    engine : str
        Engine of the network.
    readers : collection of str
        Packages that read the formats of the images, besides pillow.
    """
    found, names = versions(), ["medvlad", "pillow", *readers]
    others = {"onnxruntime": ["onnxruntime"], "torch": ["torch", "timm"]}
    if engine in others:
        return {name: found[name] for name in [*names, *others[engine]] if name in found}
    keras_backend = str(import_keras().config.backend())
    names += ["keras", keras_backend, *(["openvino"] if engine == "openvino" else [])]
    return {name: found[name] for name in names if name in found} | {"Keras' backend": keras_backend}


@dataclass
class Probe:
    """A file in the client's store. A worker that finds it sees the store.

    Attributes
    ----------
    section : Path
        Folder of the section.
    store : Path
        Folder of the store.
    token : str
        Name of the file.
    """

    section: Path
    store: Path
    token: str


@contextmanager
def probe_of(section: Section) -> Iterator[Probe]:
    """Return a context during which a probe file lies beside the section's shards."""
    section.prepare()
    path = section.path.absolute()
    token = f"{uuid.uuid4().hex}.part"  # `store gc` removes files with this suffix
    file = path / token
    file.write_bytes(b"probe")
    try:
        yield Probe(path, path.parent, token)
    finally:
        remove(file.url) if isinstance(file, ObjectPath) else file.unlink(missing_ok=True)


class _Kept:
    """What a worker keeps between tasks: the network and the open section of the store."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.features = CNNDescriptors()
        self.seconds_per_image: float | None = None  # in the last task
        self._section: Section | None = None

    def n_in_time(self, batch: int) -> int:
        """Return how many images fit into the time between two shards, in whole batches."""
        if self.seconds_per_image is None:
            return batch  # the first batch shows how fast this worker is
        return max(1, int(FLUSH_SECONDS / max(self.seconds_per_image, 1e-6)) // batch) * batch

    def section(self, probe: Probe, settings: dict[str, Any]) -> Section | None:
        """Return the client's section, up to date. None: this worker does not see the store."""
        if not (probe.section / probe.token).exists():
            return None
        if self._section is None or self._section.path != probe.section:
            self._section = DescriptorStore(probe.store).section(settings)
        self._section.refresh()
        return self._section


def _is_url(section: Section) -> bool:
    return isinstance(section.path, ObjectPath)


def _kept() -> _Kept:
    # Stored on the worker object, so that two workers in one process stay separate.
    kept = vars(this_worker()).setdefault("medvlad", _Kept())
    assert isinstance(kept, _Kept)
    return kept


@dataclass
class Extraction:
    """Job: extract a chunk of images.

    Attributes
    ----------
    parameters : dict
        Parameters of the network (CNNDescriptors).
    ranges : dict or None
        Activation ranges of an int8 network.
    settings : dict
        Settings of the store's section.
    probe : Probe
        Shows whether the worker sees the store.
    quiet : bool
        Whether Keras and pydicom must not log.
    images : list of Image
        The chunk.
    files : dict of str to bytes
        Content of image files by path, for workers that do not see the files.
    """

    parameters: dict[str, Any]
    ranges: dict[str, float] | None
    settings: dict[str, Any]
    probe: Probe
    quiet: bool
    images: list[Image]
    files: dict[str, bytes]

    def run(self, expected: dict[str, str]) -> Made:
        """Extract the images that the store lacks. Called in a worker."""
        kept = _kept()
        with kept.lock:  # threads of one worker share one network
            if self.quiet:
                from medvlad.extraction.keras_startup import start_keras
                from medvlad.images.dicom import quiet_pydicom

                quiet_pydicom()
                start_keras(self.parameters["model"])
            for name, found in expected.items():
                there = what_decides_bits(self.parameters["engine"], expected).get(name)
                if there != found:
                    raise InputError(other_version(this_worker().address, name, there, found))
            section = kept.section(self.probe, self.settings)
            # Not `key in section`: the client also asks again for damaged entries.
            images = [image for image in self.images if section is None or section.get(image.key) is None]
            n = kept.n_in_time(self.parameters["batch_size"] or _BATCH)
            with tempfile.TemporaryDirectory(prefix="medvlad-", dir=this_worker().local_directory) as folder:
                made = self._extract(kept, images[:n], Path(folder))
            made.left = [image.index for image in images[n:]]
            if section is not None and (_is_url(section) or os.access(section.path, os.W_OK)):
                for content in made.shards:
                    section.adopt(content)
                made.shards = []
            return made

    def _extract(self, kept: _Kept, images: list[Image], folder: Path) -> Made:
        """Extract into a temporary store in `folder`, and return its shards."""
        made = Made()
        given: list[tuple[Image, Any]] = []
        for image in images:
            if not isinstance(image.source, str):
                given.append((image, image.source))
                continue
            file = location(image.source, "the image")
            if image.source in self.files:
                number = list(self.files).index(image.source)
                file = folder / f"{number}-{file.name}"
                if not file.exists():
                    file.write_bytes(self.files[image.source])
            if file.is_file():
                given.append((image, file if image.frame is None else frame_name(file, image.frame)))
            else:
                made.unseen.append(image.index)
        if not given:
            return made
        self._prepare(kept, folder / "store")
        began = time.monotonic()
        try:
            report = kept.features.extract_with_report([source for _, source in given])
        except InputError as error:
            raise InputError(self._renamed(str(error), given)) from error
        kept.seconds_per_image = (time.monotonic() - began) / len(given)
        told = set()
        for position, reason in report.skipped:
            image = given[position][0]
            told.add(image.key)
            made.skipped.append((image.index, self._renamed(reason, given)))
        (section,) = DescriptorStore(folder / "store").sections()
        for position, reason in report.damaged:
            image = given[position][0]
            # Otherwise the worker's file has other content than the client's, which may be sound.
            if image.key in section or damaged_key(image.key) in section:
                told.add(image.key)
                made.damaged.append((image.index, self._renamed(reason, given)))
        made.unseen += [i.index for i, _ in given if i.key not in section and i.key not in told]
        made.shards = [file.read_bytes() for file in sorted(section.path.glob("*.shard"))]
        return made

    def _prepare(self, kept: _Kept, store: Path) -> None:
        """Build the client's network, unless the last task has built it already."""
        for _ in range(2):
            kept.features.set_params(**self.parameters | {"store": store})
            try:
                if self.ranges is not None:
                    kept.features.ranges_ = self.ranges
                kept.features.build()
            except InputError as error:
                raise InputError(f"worker {this_worker().address}: {error}") from error
            if kept.features.store_section().settings == self.settings:
                return
            kept.features = CNNDescriptors()  # the weights file may have changed since the last task
        raise InputError(
            f"worker {this_worker().address} has other weights for {self.parameters['model']} "
            f"({self.parameters['weights']}) than this machine: use the same weights file everywhere"
        )

    @staticmethod
    def _renamed(reason: str, given: Sequence[tuple[Image, Any]]) -> str:
        """Replace an image's position in the chunk, or its temporary file, by the client's name for it."""
        for position, (image, source) in enumerate(given):
            if isinstance(source, np.ndarray):
                for end in (":", " "):
                    if f"image {position}{end}" in reason:
                        return reason.replace(f"image {position}{end}", f"{image.name}{end}")
            elif str(source) in reason:
                return reason.replace(str(source), image.name)
        return reason


@dataclass
class Encoding:
    """Job: encode a chunk of images from the store.

    Attributes
    ----------
    encoder : estimator
        Fitted encoder.
    settings : dict
        Settings of the store's section.
    probe : Probe
        Shows whether the worker sees the store.
    keys : list of str or None
        Keys of the images. None: an image without descriptors.
    n_threads : int
        Number of threads, unless the encoder sets it.
    """

    encoder: Any
    settings: dict[str, Any]
    probe: Probe
    keys: list[str | None]
    n_threads: int

    def run(self, expected: dict[str, str]) -> NDArray[np.float32] | None:
        """Encode the chunk. None: this worker does not see the store."""
        kept = _kept()
        with kept.lock:
            section = kept.section(self.probe, self.settings)
            if section is None:
                return None
            encoder = self.encoder
            if "n_threads" in encoder.get_params() and encoder.n_threads is None:
                encoder.n_threads = self.n_threads
            return encode(encoder, section, self.keys)


def encode(encoder: Any, section: Section, keys: Sequence[str | None]) -> NDArray[np.float32]:
    """Encode images from the store. The key None stands for an image without descriptors."""
    arrays = []
    for key in keys:
        values = np.empty((0, encoder.n_features_in_), np.float32) if key is None else section.get(key)
        if values is None:
            raise InputError(
                f"an image in {section.path} is damaged: "
                "remove it with 'medvlad store gc', then run the same again"
            )
        arrays.append(values)
    encoded: NDArray[np.float32] = encoder.transform(Descriptors.from_list(arrays))
    return encoded
