"""Extract and encode on a Dask cluster, or in several processes of this machine: the client's side.

::

    client:  images that the store lacks --> chunks --> scheduler --> workers, which keep the network
    store <-- shards: a worker writes them if it sees the store's folder, otherwise the client does

A task is a chunk of images, in whole batches, and its result is one or a few shards. A worker stops after
about a minute, and the client gives the remaining images out again. If a worker is killed, only this minute
is lost. Dask gives the chunk to another worker, which first looks into the store. So no image is lost, and no
image is stored twice.

Workers need no shared folders. The client puts a file into the store's folder, and a worker that finds this
file sees the store. If a worker does not find an image file, or finds a different one, the client sends the
file.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from medvlad._util.counters import OUTCOMES, count
from medvlad._util.object_path import ObjectPath, location
from medvlad._util.object_storage import StorageFailure
from medvlad._util.progress import progress_bar
from medvlad._util.validate import InputError, check_positive_int, import_extra
from medvlad.distributed.cluster import Cluster, connected
from medvlad.distributed.tasks import cut, results_of
from medvlad.distributed.worker import (
    Encoding,
    Extraction,
    Image,
    Made,
    Probe,
    encode,
    probe_of,
    what_decides_bits,
)
from medvlad.extraction.cnn_descriptors import CNNDescriptors, ExtractionReport
from medvlad.extraction.damaged_images import DamagedImages
from medvlad.extraction.image_transformer import log_damage
from medvlad.images.dicom import is_dicom
from medvlad.images.frames import split_frame
from medvlad.images.hashed_file import image_key
from medvlad.images.nifti import NIFTI_SUFFIXES
from medvlad.images.prefetch import as_sequence

__all__ = ["encode_distributed", "extract_distributed"]

_BATCH = 8  # images per batch if features.batch_size is None
_CHUNK_IMAGES = 256  # maximum number of images per task
_CHUNKS_PER_WORKER = 8
_CODE_BYTES = 32 << 20  # maximum size of the encoded images that a task returns
_STORE_SECONDS = 60  # network file systems may show new files of other machines late
_NAMED_IMAGES = 8  # maximum number of images that an error message names


def extract_distributed(
    features: CNNDescriptors,
    X: Any,
    *,
    scheduler: Any = None,
    n_workers: int | None = None,
    chunk: int | None = None,
) -> int:
    """Extract on a cluster the images that the store lacks, like ``features.extract(X)``.

    The numbers are equal to those of `extract`, bit for bit, if the workers have the same hardware. If it is
    stopped, call it again to continue, on a cluster or on one machine.

    Parameters
    ----------
    features : CNNDescriptors
        Network with a `store`. Its attribute `skipped_` is set to the skipped images.
    X : sequence of paths and arrays, or array (B, H, W, 3)
        Images.
    scheduler : str or distributed.Client, optional
        Address of a Dask scheduler, such as "tcp://host:8786", or its client. None: start worker processes on
        this machine, which end with the call.
    n_workers : int, optional
        Number of worker processes to start. None: one for each four processors. Not allowed with `scheduler`.
    chunk : int, optional
        Number of images per task, rounded up to whole batches. None: eight tasks per worker, with at most 256
        images each.

    Returns
    -------
    int
        Number of images that were added to the store.

    Raises
    ------
    InputError
        As `extract`. Also if the scheduler cannot be reached or has no workers, a worker has other versions
        or weights than this process, or an image kills every worker that takes it.
    MissingExtraError
        If Dask or Keras is not installed.

    Notes
    -----
    A file with weights must have the same path on every machine. A script that starts its own workers must
    make the call under ``if __name__ == "__main__":``, because the worker processes import the script.
    """
    run = _Run(features, X, scheduler, n_workers, chunk)
    missing = run.missing()
    if missing:
        with connected(scheduler, n_workers) as cluster:
            run.extract(cluster, missing)
    return run.finish()


def encode_distributed(
    encoder: Any,
    features: CNNDescriptors,
    X: Any,
    *,
    scheduler: Any = None,
    n_workers: int | None = None,
    chunk: int | None = None,
) -> NDArray[np.float32]:
    """Encode images on a cluster, like ``encoder.transform(features.transform(X))``, bit for bit.

    Images that the store lacks are extracted first. Workers that see the store's folder read the descriptors
    from it, chunk by chunk. For the other workers the client encodes, because sending descriptors costs more.
    Memory holds the result and a few chunks.

    Parameters
    ----------
    encoder : VLAD or GlobalPool
        Fitted encoder.
    features, X, scheduler, n_workers, chunk
        See :func:`extract_distributed`.

    Returns
    -------
    ndarray of float32, shape (B, K * D), or (B, D) for GlobalPool
        Encoded images. Images in ``features.skipped_`` are zeros.

    Raises
    ------
    InputError, MissingExtraError
        As :func:`extract_distributed`.
    NotFittedError
        If `encoder` is not fitted.
    """
    check_is_fitted(encoder)
    run = _Run(features, X, scheduler, n_workers, chunk)
    missing = run.missing()
    with connected(scheduler, n_workers) as cluster:
        if missing:
            run.extract(cluster, missing)
        run.finish()
        return run.encode(cluster, encoder)


class _Run:
    """One call of `extract_distributed` or `encode_distributed`."""

    def __init__(
        self, features: CNNDescriptors, X: Any, scheduler: Any, n_workers: int | None, chunk: int | None
    ) -> None:
        if features.store is None:
            raise InputError("a run on a cluster needs a store: use CNNDescriptors(..., store='FOLDER')")
        if scheduler is not None and n_workers is not None:
            raise InputError(
                f"n_workers={n_workers} starts workers on this machine, but scheduler={scheduler!r} has its "
                "own: give only one of them"
            )
        if n_workers is not None:
            check_positive_int(n_workers, "n_workers")
        self._chunk = None if chunk is None else check_positive_int(chunk, "chunk")
        import_extra("distributed", "distributed", "a run on a cluster")
        self._features, self._images = features, as_sequence(X)
        features.build()
        self._versions = what_decides_bits(features.engine_, _readers(self._images))
        self._ranges: dict[str, float] | None = getattr(features, "ranges_", None)
        self._section = features.store_section()
        self._skipped: dict[int, str] = {}
        self._digests: dict[Path, str] = {}
        self._keys = [self._key_of(i) for i in range(len(self._images))]
        self._damaged = DamagedImages(self._keys, features.on_damage)
        self._damaged.look_up(self._images, self._section)
        self._section.forget_damaged(self._keys)
        self._before = len(self._section)
        self._send_files = False

    def _key_of(self, index: int) -> str | None:
        """Return an image's key in the store. None: the image cannot be read and is skipped."""
        try:
            return image_key(self._images[index], self._digests)
        except StorageFailure:
            raise
        except InputError as error:
            self._skip(index, str(error))
            return None

    def _skip(self, index: int, reason: str) -> None:
        """Record a skipped image, or raise its error if ``features.on_error`` says so."""
        if self._features.on_error == "raise":
            raise InputError(reason)
        self._skipped[index] = reason

    def missing(self) -> list[int]:
        """Return the images that the store lacks. Identical images are listed once."""
        first: dict[str, int] = {}
        for index, key in enumerate(self._keys):
            if key is not None and key not in self._section:
                first.setdefault(key, index)
        return list(first.values())

    def extract(self, cluster: Cluster, missing: list[int]) -> None:
        """Extract the images `missing` into the store."""
        batch = self._features.batch_size or _BATCH
        workers = max(1, len(cluster.client.nthreads()))
        wanted = self._chunk or min(-(-len(missing) // (_CHUNKS_PER_WORKER * workers)), _CHUNK_IMAGES)
        chunks = deque(cut(missing, -(-wanted // batch) * batch, batch))
        suspects: list[int] = []
        with (
            progress_bar(len(missing), "descriptors", self._features.progress) as bar,
            probe_of(self._section) as probe,
        ):

            def take(indices: list[int], made: Made) -> None:
                again = self._take(made)
                count("images_extracted", len(indices) - len(again) - len(made.skipped))
                if again:
                    chunks.append(again)
                bar.update(len(indices) - len(again))

            def results() -> Iterator[tuple[list[int], Any]]:
                return self._results(cluster, chunks, lambda indices: self._job(cluster, probe, indices))

            for indices, made in results():
                if made is None:
                    count("retries", len(indices))
                    suspects += indices
                else:
                    take(indices, made)
            # Every image that was on a worker when it died is a suspect. Run the suspects batch by batch, so
            # that nothing else is on the cluster when the harmful one kills its worker again.
            for piece in cut(sorted(suspects), batch, batch):
                chunks.append(piece)
                for indices, made in results():
                    if made is None:
                        raise InputError(self._poison(indices))
                    take(indices, made)

    def _job(self, cluster: Cluster, probe: Probe, indices: list[int]) -> Extraction:
        images = [self._image(i) for i in indices]
        return Extraction(
            self._parameters(cluster),
            self._ranges,
            self._section.settings,
            probe,
            cluster.own,
            images,
            self._contents(images),
        )

    def _take(self, made: Made) -> list[int]:
        """Put a chunk's shards into the store. Return the images that are to be given out again."""
        for content in made.shards:
            self._section.adopt(content)
        for index, reason in sorted(made.skipped):
            self._skip(index, reason)
        self._damaged.add({key: reason for i, reason in made.damaged if (key := self._keys[i]) is not None})
        return self._resend(made.unseen) + made.left

    def finish(self) -> int:
        """Check that the store is complete, set `skipped_`, and return the number of images added."""
        reasons = {self._keys[i]: reason for i, reason in self._skipped.items() if self._keys[i] is not None}
        for index, key in enumerate(self._keys):
            if key in reasons:  # identical to an image that cannot be read
                self._skipped.setdefault(index, reasons[key])
                self._keys[index] = None
        deadline = time.monotonic() + _STORE_SECONDS
        self._section = self._features.store_section()
        while (lacking := len(self.missing())) and time.monotonic() < deadline:
            time.sleep(0.5)
            self._section.refresh()
        if lacking:
            raise InputError(
                f"the workers extracted {lacking} images that are not in the store {self._features.store}: "
                "check that its disk is not full, then run the same again"
            )
        n_extracted = len(self._section) - self._before
        skipped, damaged = self._skipped | self._damaged.skipped, self._damaged.used
        n_stored = len(set(self._keys) - {None})
        report = ExtractionReport(sorted(skipped.items()), n_extracted, sorted(damaged.items()), n_stored)
        self._features.report_ = report
        count("failures", len(skipped))
        count("images_damaged", len(damaged))
        count("images_from_store", max(0, len(self._images) - len(skipped) - n_extracted))
        log_damage(report, len(self._images))
        return n_extracted

    def encode(self, cluster: Cluster, encoder: Any) -> NDArray[np.float32]:
        """Encode all images from the store."""
        encoded = np.zeros((len(self._keys), encoder._n_features_out), np.float32)
        wanted = self._chunk or min(_CHUNK_IMAGES, max(1, _CODE_BYTES // encoded[:1].nbytes))
        chunks = deque(cut(list(range(len(self._keys))), wanted, 1))
        with probe_of(self._section) as probe:

            def job(indices: list[int]) -> Encoding:
                keys = [self._keys[i] for i in indices]
                return Encoding(encoder, self._section.settings, probe, keys, cluster.threads)

            for indices, part in self._results(cluster, chunks, job):
                if part is None:
                    part = encode(encoder, self._section, [self._keys[i] for i in indices])
                encoded[indices] = part
        return encoded

    def _parameters(self, cluster: Cluster) -> dict[str, Any]:
        """Return the parameters of the workers' network. Paths are absolute."""
        parameters: dict[str, Any] = self._features.get_params()
        network = self._features.network_
        if network.kind == "module":
            raise InputError(
                f"the object {network.model} cannot be sent to workers: export it with torch.onnx.export and "
                "use model='onnx:FILE'"
            )
        if network.kind == "onnx":
            parameters["model"] = f"onnx:{_absolute(network.source)}"
        is_file = network.kind != "onnx" and network.source not in ("imagenet", "bundled", "random")
        return parameters | {
            "weights": _absolute(network.source) if is_file else parameters["weights"],
            "engine": self._features.engine_,
            "dtype": self._features.dtype_,
            "n_threads": self._features.n_threads or (cluster.threads if cluster.own else None),
            "on_error": "skip",
            "on_damage": "warn",  # the client decides
            "progress": False,
        }

    def _image(self, index: int) -> Image:
        """Return an image as it is sent to a worker."""
        source, key = self._images[index], self._keys[index]
        assert key is not None
        if not isinstance(source, str | os.PathLike):
            return Image(index, key, f"image {index}", np.asarray(source), None)
        file, frame = split_frame(source)
        return Image(index, key, str(location(source, "the image")), _absolute(file), frame)

    def _contents(self, images: list[Image]) -> dict[str, bytes]:
        """Return the content of each image file by its path, if workers do not see the files."""
        contents: dict[str, bytes] = {}
        if self._send_files:
            for image in images:
                if isinstance(image.source, str) and image.source not in contents:
                    with suppress(OSError):  # a file that is gone: the worker reports it as unseen
                        file, _ = split_frame(self._images[image.index])
                        contents[image.source] = file.read_bytes()
        return contents

    def _resend(self, unseen: list[int]) -> list[int]:
        """Return those images that a worker did not find and the client does. Files are sent from now on."""
        found = []
        self._digests.clear()
        for index in unseen:
            key = self._key_of(index)
            if key is not None and key != self._keys[index]:
                raise InputError(f"{self._images[index]} changed during the run: run the same again")
            if key is not None:
                found.append(index)
        self._send_files = self._send_files or bool(found)
        return found

    def _poison(self, indices: list[int]) -> str:
        """Return the message about images that killed every worker that took them."""
        names = [str(self._image(i).name) for i in indices[:_NAMED_IMAGES]]
        more = f" and {len(indices) - len(names)} more" if len(indices) > len(names) else ""
        return (
            f"every worker that took these {len(indices)} images died: {', '.join(names)}{more}; remove the "
            "harmful image or give the workers more memory, then run the same again: the other images are "
            "in the store"
        )

    def _results(
        self, cluster: Cluster, chunks: deque[list[int]], job: Callable[[list[int]], Any]
    ) -> Iterator[tuple[list[int], Any]]:
        return results_of(cluster, chunks, job, self._versions, self._features.store, counted_here=OUTCOMES)


def _readers(images: Any) -> list[str]:
    """Return the packages that read these files, besides those that read all images."""
    files = [split_frame(image)[0] for image in images if isinstance(image, str | os.PathLike)]
    readers = []
    if any(file.name.lower().endswith(NIFTI_SUFFIXES) for file in files):
        readers.append("nibabel")
    if any(is_dicom(file) for file in set(files)):
        readers.append("pydicom")
    return readers


def _absolute(path: str | os.PathLike[str]) -> str:
    """Return the path as workers find it: absolute, or a whole URL."""
    found = location(path, "the file")
    return found.url if isinstance(found, ObjectPath) else str(found.absolute())
