"""Extraction and encoding on a Dask cluster, or in several processes of this machine.

::

    client:  images the store lacks --> chunks --> scheduler --> workers: network, kept from chunk to chunk
    store <-- shards, written by a worker that sees the store's folder, or sent to the client to be written

A task is a chunk of images, whole batches of them, and what it makes is one shard or a few. Whoever is killed
loses the chunk in hand; Dask gives it to another worker, which first looks into the store, and the same chunk
makes the same bytes under the same name. So no image is lost, and none is there twice.

Nothing has to be shared. A worker shows that it sees the store by finding a file that the client has just
put there; an image file that it does not find, or finds to be another, is sent to it.
"""

from __future__ import annotations

import logging
import os
import pickle
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from medvlad._util.progress import progress_bar
from medvlad._util.validate import InputError, check_positive_int, import_extra
from medvlad.distributed.cluster import Cluster, connected
from medvlad.distributed.worker import (
    Call,
    Encoding,
    Extraction,
    Image,
    Made,
    encode,
    probe_of,
    what_decides_bits,
)
from medvlad.extraction.cnn_descriptors import CNNDescriptors, ExtractionReport
from medvlad.extraction.weights import weights_source
from medvlad.images.dicom import is_dicom
from medvlad.images.frames import split_frame
from medvlad.images.hashed_file import image_key
from medvlad.images.nifti import NIFTI_SUFFIXES
from medvlad.images.prefetch import as_sequence

__all__ = ["encode_distributed", "extract_distributed"]

logger = logging.getLogger(__name__)

_BATCH = 8  # images of a batch where features.batch_size does not say
_CHUNK_IMAGES = 256
_CHUNKS_A_WORKER = 8
_CODE_BYTES = 32 << 20  # of encoded images that a task gives back
_NO_WORKER_SECONDS = 120
_TICK_SECONDS = 2
_STORE_SECONDS = 60  # after which a folder shared by network shows what others wrote
_NAMED_IMAGES = 8


def extract_distributed(
    features: CNNDescriptors,
    X: Any,
    *,
    scheduler: Any = None,
    n_workers: int | None = None,
    chunk: int | None = None,
) -> int:
    """Make sure that the store holds the descriptors of each image, as ``features.extract(X)``, on a cluster.

    The numbers are those of `extract` to the bit where the workers have the same hardware. Stopped at any
    moment, it goes on from there when called again, here or on one machine.

    Parameters
    ----------
    features : CNNDescriptors
        With a `store`. Its `skipped_` lists afterwards what was skipped.
    X : sequence of paths and arrays, or array (B, H, W, 3)
    scheduler : str or distributed.Client, optional
        Address of a Dask scheduler, such as "tcp://host:8786", or a client of one; None: worker processes of
        this machine, which end with the call.
    n_workers : int, optional
        Worker processes, where no scheduler is given; None: one for each four processors.
    chunk : int, optional
        Images a task, rounded up to whole batches; None: as many as give each worker eight
        tasks, at most 256.

    Returns
    -------
    int
        Images that the store has gained.

    Raises
    ------
    InputError
        As `extract`; or if the scheduler cannot be reached, stays without workers, a worker has other
        versions or weights than this process, or an image ends every worker that takes it.
    MissingExtraError
        If Dask or Keras is not installed.

    Notes
    -----
    Weights that are a file must be there under the same path on every machine. In a script without a
    scheduler, call it under ``if __name__ == "__main__":``, as the worker processes import the script.
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
    """Encode each image on a cluster, as ``encoder.transform(features.transform(X))`` and to the same bits.

    What the store lacks is extracted first. Workers that see the store's folder read descriptors from it,
    chunk by chunk; for the others the client encodes, which costs less than sending descriptors. So memory
    holds the result and a few chunks.

    Parameters
    ----------
    encoder : VLAD or GlobalPool
        Fitted.
    features, X, scheduler, n_workers, chunk
        See :func:`extract_distributed`.

    Returns
    -------
    ndarray of float32, shape (B, K * D), or (B, D) for GlobalPool
        Zeros for the images in ``features.skipped_``.

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
    """The client's side of one call."""

    def __init__(
        self, features: CNNDescriptors, X: Any, scheduler: Any, n_workers: int | None, chunk: int | None
    ) -> None:
        if features.store is None:
            raise InputError("a run on a cluster needs a store: CNNDescriptors(..., store='FOLDER')")
        if scheduler is not None and n_workers is not None:
            raise InputError("give a scheduler, whose workers are there already, or n_workers, not both")
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
        self._section.forget_damaged(self._keys)
        self._before = len(self._section)
        self._send_files = False

    def _key_of(self, index: int) -> str | None:
        try:
            return image_key(self._images[index], self._digests)
        except InputError as error:
            self._skip(index, str(error))
            return None

    def _skip(self, index: int, reason: str) -> None:
        if self._features.on_error == "raise":
            raise InputError(reason)
        self._skipped[index] = reason

    def missing(self) -> list[int]:
        """Return the first image of each key that the store lacks."""
        first: dict[str, int] = {}
        for index, key in enumerate(self._keys):
            if key is not None and key not in self._section:
                first.setdefault(key, index)
        return list(first.values())

    def extract(self, cluster: Cluster, missing: list[int]) -> None:
        """Bring the descriptors of `missing` into the store."""
        batch = self._features.batch_size or _BATCH
        workers = max(1, len(cluster.client.nthreads()))
        wanted = self._chunk or min(-(-len(missing) // (_CHUNKS_A_WORKER * workers)), _CHUNK_IMAGES)
        chunks = deque(_cut(missing, -(-wanted // batch) * batch, batch))
        suspects: list[int] = []
        with (
            progress_bar(len(missing), "descriptors", self._features.progress) as bar,
            probe_of(self._section) as probe,
        ):

            def job(indices: list[int]) -> Extraction:
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

            def take(indices: list[int], made: Made) -> None:
                for content in made.shards:
                    self._section.adopt(content)
                for index, reason in sorted(made.skipped):
                    self._skip(index, reason)
                again = self._resend(made.unseen)
                if again:
                    chunks.append(again)
                bar.update(len(indices) - len(again))

            for indices, made in self._results(cluster, chunks, job):
                if made is None:
                    suspects += indices
                else:
                    take(indices, made)
            # Whatever was on a worker when it died is suspected; alone on the cluster the guilty one shows.
            for piece in _cut(sorted(suspects), batch, batch):
                chunks.append(piece)
                for indices, made in self._results(cluster, chunks, job):
                    if made is None:
                        raise InputError(self._poison(indices))
                    take(indices, made)

    def finish(self) -> int:
        """See that nothing is lost, list what was skipped, return how many images the store has gained."""
        reasons = {self._keys[i]: reason for i, reason in self._skipped.items() if self._keys[i] is not None}
        for index, key in enumerate(self._keys):
            if key in reasons:  # a copy of one that cannot be read
                self._skipped.setdefault(index, reasons[key])
                self._keys[index] = None
        deadline = time.monotonic() + _STORE_SECONDS
        self._section = self._features.store_section()
        while (lacking := len(self.missing())) and time.monotonic() < deadline:
            time.sleep(0.5)
            self._section.refresh()
        if lacking:
            raise InputError(
                f"{lacking} images that workers have extracted are not in the store {self._features.store}: "
                "look whether its disk is full, and run the same again"
            )
        n_extracted = len(self._section) - self._before
        self._features.report_ = ExtractionReport(sorted(self._skipped.items()), n_extracted)
        return n_extracted

    def encode(self, cluster: Cluster, encoder: Any) -> NDArray[np.float32]:
        """Encode all images from the store."""
        encoded = np.zeros((len(self._keys), encoder._n_features_out), np.float32)
        wanted = self._chunk or min(_CHUNK_IMAGES, max(1, _CODE_BYTES // encoded[:1].nbytes))
        chunks = deque(_cut(list(range(len(self._keys))), wanted, 1))
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
        """Return what a worker must know of `features`; paths hold wherever it was started."""
        parameters: dict[str, Any] = self._features.get_params()
        source = weights_source(self._features.weights)
        is_file = source not in ("imagenet", "bundled")
        return parameters | {
            "weights": _absolute(source) if is_file else source,
            "engine": self._features.engine_,
            "n_threads": self._features.n_threads or (cluster.threads if cluster.own else None),
            "on_error": "skip",
            "progress": False,
        }

    def _image(self, index: int) -> Image:
        source, key = self._images[index], self._keys[index]
        assert key is not None
        if not isinstance(source, str | os.PathLike):
            return Image(index, key, f"image {index}", np.asarray(source), None)
        file, frame = split_frame(source)
        return Image(index, key, str(Path(source)), _absolute(file), frame)

    def _contents(self, images: list[Image]) -> dict[str, bytes]:
        """Return what is in the files, each once, where workers do not see them."""
        contents: dict[str, bytes] = {}
        if self._send_files:
            for image in images:
                if isinstance(image.source, str) and image.source not in contents:
                    with suppress(OSError):  # gone: the worker misses it, and `_resend` finds out
                        file, _ = split_frame(self._images[image.index])
                        contents[image.source] = file.read_bytes()
        return contents

    def _resend(self, unseen: list[int]) -> list[int]:
        """Return those of the files that a worker has not found that are here, to be sent from now on."""
        found = []
        self._digests.clear()
        for index in unseen:
            key = self._key_of(index)
            if key is not None and key != self._keys[index]:
                raise InputError(f"{self._images[index]} has changed during the run: run the same again")
            if key is not None:
                found.append(index)
        self._send_files = self._send_files or bool(found)
        return found

    def _poison(self, indices: list[int]) -> str:
        names = [str(self._image(i).name) for i in indices[:_NAMED_IMAGES]]
        more = f" and {len(indices) - len(names)} more" if len(indices) > len(names) else ""
        return (
            f"every worker that took these {len(indices)} images died: {', '.join(names)}{more}; leave the "
            "bad one out or give workers more memory, and run the same again: the others are in the store"
        )

    def _results(
        self, cluster: Cluster, chunks: deque[list[int]], job: Callable[[list[int]], Any]
    ) -> Iterator[tuple[list[int], Any]]:
        """Yield chunks with their results as they are done; None: all workers that took it died.

        `chunks` may grow meanwhile. No more than two a worker are on their way, which bounds memory.
        """
        distributed = import_extra("distributed", "distributed", "a run on a cluster")
        running: dict[Any, list[int]] = {}
        last_seen = time.monotonic()
        try:
            while chunks or running:
                n_workers = len(cluster.client.nthreads())
                if n_workers:
                    last_seen = time.monotonic()
                elif time.monotonic() - last_seen > _NO_WORKER_SECONDS:
                    raise InputError(
                        f"{cluster.name} has had no worker for {_NO_WORKER_SECONDS} s: start some "
                        "('dask worker ADDRESS'), and run the same again"
                    )
                while chunks and len(running) < max(1, 2 * n_workers):
                    indices = chunks.popleft()
                    running[self._submit(cluster.client, job(indices))] = indices
                try:
                    with cluster.client.as_current():
                        done = distributed.wait(list(running), _TICK_SECONDS, "FIRST_COMPLETED").done
                except TimeoutError:
                    continue
                for future in done:
                    indices = running.pop(future)
                    yield indices, self._result(distributed, cluster, future)
        except (distributed.CancelledError, distributed.comm.CommClosedError) as error:
            raise InputError(
                f"{cluster.name} is gone or has cancelled the run: what was extracted is in "
                f"{self._features.store}, the same command goes on"
            ) from error
        finally:
            if running and cluster.client.status == "running":
                cluster.client.cancel(list(running))

    def _submit(self, client: Any, job: Any) -> Any:
        # A function of the standard library, so that a scheduler needs no medvlad.
        call = pickle.dumps(Call(self._versions, pickle.dumps(job)))
        return client.submit(pickle.loads, call, key=f"medvlad-{uuid.uuid4().hex}", pure=False)

    def _result(self, distributed: Any, cluster: Cluster, future: Any) -> Any:
        try:
            return future.result()
        except distributed.KilledWorker as error:
            logger.info("%s", error)
            return None
        except ModuleNotFoundError as error:
            if not str(error.name).startswith("medvlad"):
                raise
            raise InputError(
                f"a worker of {cluster.name} has no medvlad, or an old one ({error}): "
                f"install medvlad {self._versions['medvlad']} on all"
            ) from error


def _readers(images: Any) -> list[str]:
    """Name the packages that decide what pixels these files have, besides those that do so for all."""
    files = [split_frame(image)[0] for image in images if isinstance(image, str | os.PathLike)]
    readers = []
    if any(file.name.lower().endswith(NIFTI_SUFFIXES) for file in files):
        readers.append("nibabel")
    if any(is_dicom(file) for file in set(files)):
        readers.append("pydicom")
    return readers


def _absolute(path: str | os.PathLike[str]) -> str:
    return str(Path(path).absolute())


def _cut(indices: list[int], size: int, least: int) -> list[list[int]]:
    """Cut into chunks of `size`; a rest smaller than `least` joins the last."""
    chunks = [indices[at : at + size] for at in range(0, len(indices), size)]
    if len(chunks) > 1 and len(chunks[-1]) < least:
        rest = chunks.pop()
        chunks[-1] += rest
    return chunks
