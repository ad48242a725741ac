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
import signal
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from tqdm import tqdm

from medvlad._validate import InputError, check_n_threads, check_positive_int, import_extra
from medvlad.descriptors import Descriptors
from medvlad.evaluation import versions
from medvlad.features import CNNDescriptors, _as_sequence, import_keras
from medvlad.store import DescriptorStore, Section, image_key
from medvlad.weights import weights_source

__all__ = ["encode_distributed", "extract_distributed"]

logger = logging.getLogger(__name__)

_BATCH = 8  # images of a batch where features.batch_size does not say
_CHUNK_IMAGES = 256
_CHUNKS_A_WORKER = 8
_CODE_BYTES = 32 << 20  # of encoded images that a task gives back
_CORES_A_WORKER = 4
_CONNECT_SECONDS = 10
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
        with _connected(scheduler, n_workers) as cluster:
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
    with _connected(scheduler, n_workers) as cluster:
        if missing:
            run.extract(cluster, missing)
        run.finish()
        return run.encode(cluster, encoder)


class _Cluster(NamedTuple):
    """A client, and what is to be known of its workers."""

    client: Any
    name: str
    own: bool  # workers of this machine, started for this call
    threads: int  # of a worker


@dataclass(frozen=True)
class _Image:
    """An image on its way to a worker."""

    index: int
    key: str
    name: str
    source: Any  # array or absolute path
    content: bytes | None  # of the file, where the worker has not got it


@dataclass
class _Made:
    """What became of a chunk."""

    skipped: list[tuple[int, str]] = field(default_factory=list)
    unseen: list[int] = field(default_factory=list)  # files that must be sent
    shards: list[bytes] = field(default_factory=list)  # that the client must write


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
        self._features, self._images = features, _as_sequence(X)
        features.fit()
        self._versions = _what_decides_bits()
        self._section = features._section()
        self._section.forget_damaged()
        self._before = len(self._section)
        self._skipped: dict[int, str] = {}
        self._keys = [self._key_of(i) for i in range(len(self._images))]
        self._send_files = False

    def _key_of(self, index: int) -> str | None:
        try:
            return image_key(self._images[index])
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

    def extract(self, cluster: _Cluster, missing: list[int]) -> None:
        """Bring the descriptors of `missing` into the store."""
        batch = self._features.batch_size or _BATCH
        workers = max(1, len(cluster.client.nthreads()))
        wanted = self._chunk or min(-(-len(missing) // (_CHUNKS_A_WORKER * workers)), _CHUNK_IMAGES)
        chunks = deque(_cut(missing, -(-wanted // batch) * batch, batch))
        suspects: list[int] = []
        progress = self._features.progress
        hidden = None if progress is None else not progress
        with (
            tqdm(total=len(missing), unit="image", desc="descriptors", disable=hidden) as bar,
            _probe(self._section) as probe,
        ):

            def job(indices: list[int]) -> _Extraction:
                images = [self._image(i) for i in indices]
                return _Extraction(self._parameters(), self._section.settings, probe, cluster.own, images)

            def take(indices: list[int], made: _Made) -> None:
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
        self._section = self._features._section()
        while (lacking := len(self.missing())) and time.monotonic() < deadline:
            time.sleep(0.5)
            self._section.refresh()
        if lacking:
            raise InputError(
                f"{lacking} images that workers have extracted are not in the store {self._features.store}: "
                "look whether its disk is full, and run the same again"
            )
        self._features.skipped_ = sorted(self._skipped.items())
        return len(self._section) - self._before

    def encode(self, cluster: _Cluster, encoder: Any) -> NDArray[np.float32]:
        """Encode all images from the store."""
        encoded = np.zeros((len(self._keys), encoder._n_features_out), np.float32)
        wanted = self._chunk or min(_CHUNK_IMAGES, max(1, _CODE_BYTES // encoded[:1].nbytes))
        chunks = deque(_cut(list(range(len(self._keys))), wanted, 1))
        with _probe(self._section) as probe:

            def job(indices: list[int]) -> _Encoding:
                keys = [self._keys[i] for i in indices]
                return _Encoding(encoder, self._section.settings, probe, keys, cluster.threads)

            for indices, part in self._results(cluster, chunks, job):
                if part is None:
                    part = _encode(encoder, self._section, [self._keys[i] for i in indices])
                encoded[indices] = part
        return encoded

    def _parameters(self) -> dict[str, Any]:
        """Return what a worker must know of `features`; paths hold wherever it was started."""
        parameters: dict[str, Any] = self._features.get_params()
        source = weights_source(self._features.weights)
        is_file = source not in ("imagenet", "bundled")
        return parameters | {
            "weights": _absolute(source) if is_file else source,
            "on_error": "skip",
            "progress": False,
        }

    def _image(self, index: int) -> _Image:
        source, key = self._images[index], self._keys[index]
        assert key is not None
        if not isinstance(source, str | os.PathLike):
            return _Image(index, key, f"image {index}", np.asarray(source), None)
        content = None
        if self._send_files:
            with suppress(OSError):  # gone: the worker misses it, and `_resend` finds out
                content = Path(source).read_bytes()
        return _Image(index, key, str(Path(source)), _absolute(source), content)

    def _resend(self, unseen: list[int]) -> list[int]:
        """Return those of the files that a worker has not found that are here, to be sent from now on."""
        found = []
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
        self, cluster: _Cluster, chunks: deque[list[int]], job: Callable[[list[int]], Any]
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
        call = pickle.dumps(_Call(self._versions, pickle.dumps(job)))
        return client.submit(pickle.loads, call, key=f"medvlad-{uuid.uuid4().hex}", pure=False)

    def _result(self, distributed: Any, cluster: _Cluster, future: Any) -> Any:
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


class _Call:
    """What unpickles as the result of a job, run where it is unpickled."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return _run_job, self._arguments


def _run_job(expected: dict[str, str], job: bytes) -> Any:
    """Run a job in a worker, if it has what the client has."""
    name = _worker().address
    if versions()["medvlad"] != expected["medvlad"]:
        raise InputError(_other_version(name, "medvlad", versions()["medvlad"], expected["medvlad"]))
    return pickle.loads(job).run(expected)


def _other_version(worker: str, what: str, there: str | None, here: str) -> str:
    return f"worker {worker} has {what} {there or 'not installed'}, here is {here}: install the same on all"


def _what_decides_bits() -> dict[str, str]:
    """Versions of what turns a file into numbers."""
    found, engine = versions(), str(import_keras().config.backend())
    names = ("medvlad", "pillow", "keras", engine)
    return {name: found[name] for name in names if name in found} | {"Keras' backend": engine}


@dataclass
class _Probe:
    """The file by which a worker knows the client's store."""

    section: Path
    store: Path
    token: str


@contextmanager
def _probe(section: Section) -> Iterator[_Probe]:
    section.prepare()
    path = section.path.absolute()
    token = f"{uuid.uuid4().hex}.part"  # an ending that `store gc` clears away
    (path / token).touch()
    try:
        yield _Probe(path, path.parent, token)
    finally:
        (path / token).unlink(missing_ok=True)


class _Kept:
    """What a worker keeps from task to task: the network, and what it knows of the store."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.features = CNNDescriptors()
        self._section: Section | None = None

    def section(self, probe: _Probe, settings: dict[str, Any]) -> Section | None:
        """Return the client's section with all that is in it, None where this worker does not see it."""
        if not (probe.section / probe.token).exists():
            return None
        if self._section is None or self._section.path != probe.section:
            self._section = DescriptorStore(probe.store).section(settings)
        self._section.refresh()
        return self._section


def _worker() -> Any:
    return import_extra("distributed", "distributed", "a worker").get_worker()


def _kept() -> _Kept:
    # On the worker object: it ends with it, and two workers of one process stay apart.
    kept = vars(_worker()).setdefault("medvlad", _Kept())
    assert isinstance(kept, _Kept)
    return kept


@dataclass
class _Extraction:
    """A chunk of images to go through the network."""

    parameters: dict[str, Any]
    settings: dict[str, Any]
    probe: _Probe
    quiet: bool
    images: list[_Image]

    def run(self, expected: dict[str, str]) -> _Made:
        """Extract what the store lacks; in a worker."""
        kept = _kept()
        with kept.lock:  # a process with several Dask threads has one network
            if self.quiet:
                from medvlad.cli import _start_keras

                _start_keras()
            for name, found in expected.items():
                there = _what_decides_bits().get(name)
                if there != found:
                    raise InputError(_other_version(_worker().address, name, there, found))
            section = kept.section(self.probe, self.settings)
            # Not `in`: what is there may be damaged, which is why the client asks.
            images = [image for image in self.images if section is None or section.get(image.key) is None]
            with tempfile.TemporaryDirectory(prefix="medvlad-", dir=_worker().local_directory) as folder:
                made = self._extract(kept, images, Path(folder))
            if section is not None and os.access(section.path, os.W_OK):
                for content in made.shards:
                    section.adopt(content)
                made.shards = []
            return made

    def _extract(self, kept: _Kept, images: list[_Image], folder: Path) -> _Made:
        """Extract into a store of the worker's own; its shards are the result."""
        made = _Made()
        given: list[tuple[_Image, Any]] = []
        for image in images:
            if image.content is not None:
                path = folder / f"{image.index}{Path(image.source).suffix}"
                path.write_bytes(image.content)
                given.append((image, path))
            elif isinstance(image.source, str) and not Path(image.source).is_file():
                made.unseen.append(image.index)
            else:
                given.append((image, image.source))
        if not given:
            return made
        self._prepare(kept, folder / "store")
        try:
            kept.features.extract([source for _, source in given])
        except InputError as error:
            raise InputError(self._renamed(str(error), given)) from error
        told = set()
        for position, reason in kept.features.skipped_:
            image = given[position][0]
            told.add(image.key)
            made.skipped.append((image.index, self._renamed(reason, given)))
        (section,) = DescriptorStore(folder / "store").sections()
        made.unseen += [i.index for i, _ in given if i.key not in section and i.key not in told]
        made.shards = [file.read_bytes() for file in sorted(section.path.glob("*.shard"))]
        return made

    def _prepare(self, kept: _Kept, store: Path) -> None:
        """Have the client's network ready, built only where the last one was another."""
        for _ in range(2):
            kept.features.set_params(**self.parameters | {"store": store})
            try:
                kept.features.fit()
            except InputError as error:
                raise InputError(f"worker {_worker().address}: {error}") from error
            if kept.features._section().settings == self.settings:
                return
            kept.features = CNNDescriptors()  # the file of weights may have changed since it was read
        raise InputError(
            f"worker {_worker().address} has other weights for {self.parameters['model']} "
            f"({self.parameters['weights']}) than this machine: give all the same"
        )

    @staticmethod
    def _renamed(reason: str, given: Sequence[tuple[_Image, Any]]) -> str:
        """Call an image as the client does, not by its place in a chunk or by a temporary file."""
        for position, (image, source) in enumerate(given):
            if isinstance(source, np.ndarray):
                for end in (":", " "):
                    if f"image {position}{end}" in reason:
                        return reason.replace(f"image {position}{end}", f"{image.name}{end}")
            elif str(source) in reason:
                return reason.replace(str(source), image.name)
        return reason


@dataclass
class _Encoding:
    """A chunk of images to be encoded from the store."""

    encoder: Any
    settings: dict[str, Any]
    probe: _Probe
    keys: list[str | None]
    n_threads: int

    def run(self, expected: dict[str, str]) -> NDArray[np.float32] | None:
        """Encode; None where this worker does not see the store."""
        kept = _kept()
        with kept.lock:
            section = kept.section(self.probe, self.settings)
            if section is None:
                return None
            encoder = self.encoder
            if "n_threads" in encoder.get_params() and encoder.n_threads is None:
                encoder.n_threads = self.n_threads
            return _encode(encoder, section, self.keys)


def _encode(encoder: Any, section: Section, keys: Sequence[str | None]) -> NDArray[np.float32]:
    """Encode images (B,) from the store; None is an image without descriptors."""
    arrays = []
    for key in keys:
        values = np.empty((0, encoder.n_features_in_), np.float32) if key is None else section.get(key)
        if values is None:
            raise InputError(
                f"an image in {section.path} is damaged: "
                "'medvlad store gc' removes it, then run the same again"
            )
        arrays.append(values)
    encoded: NDArray[np.float32] = encoder.transform(Descriptors.from_list(arrays))
    return encoded


def _absolute(path: str | os.PathLike[str]) -> str:
    return str(Path(path).absolute())


def _cut(indices: list[int], size: int, least: int) -> list[list[int]]:
    """Cut into chunks of `size`; a rest smaller than `least` joins the last."""
    chunks = [indices[at : at + size] for at in range(0, len(indices), size)]
    if len(chunks) > 1 and len(chunks[-1]) < least:
        rest = chunks.pop()
        chunks[-1] += rest
    return chunks


@contextmanager
def _connected(scheduler: Any, n_workers: int | None) -> Iterator[_Cluster]:
    """Connect to a scheduler, or start workers on this machine for as long as the context lasts."""
    distributed = import_extra("distributed", "distributed", "a run on a cluster")
    dask_config = import_extra("dask.config", "distributed", "a run on a cluster")
    if isinstance(scheduler, distributed.Client):
        yield _Cluster(scheduler, f"the scheduler {scheduler.scheduler.address}", False, 1)
        return
    with ExitStack() as stack:
        stack.enter_context(_quiet_dask())
        # Files of images travel in tasks where workers do not see them.
        stack.enter_context(dask_config.set({"distributed.admin.large-graph-warning-threshold": "10GB"}))
        if scheduler is None:
            cores = check_n_threads(None)
            n_workers = n_workers or max(1, cores // _CORES_A_WORKER)
            # With one thread alone, torch (and TensorFlow on single images) rounds otherwise than with more.
            threads = max(min(2, cores), cores // n_workers)
            # An image that kills is tried twice, and twice more by itself.
            with dask_config.set({"distributed.scheduler.allowed-failures": 1}), _deaf_to_interrupts():
                cluster = distributed.LocalCluster(
                    n_workers=n_workers,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address="127.0.0.1:0",
                    memory_limit=0,
                    silence_logs=False if _verbose() else logging.CRITICAL,
                    env=_thread_environment(threads),
                )
            stack.enter_context(cluster)
            client = stack.enter_context(distributed.Client(cluster, set_as_default=False))
            yield _Cluster(client, "the cluster on this machine", True, threads)
            return
        try:
            client = distributed.Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"there is no Dask scheduler at {scheduler!r} ({error}): give the address that "
                "'dask scheduler' prints, such as tcp://host:8786"
            ) from error
        stack.enter_context(client)
        yield _Cluster(client, f"the scheduler {scheduler}", False, 1)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let threads and processes started here, and theirs, not see Ctrl-C: this thread ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # started later, it would open the ears of the thread that starts it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _thread_environment(threads: int) -> dict[str, str]:
    """How TensorFlow, torch and JAX are told how many threads to use; what the user has set stays."""
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "NPROC")
    return {name: os.environ.get(name, str(threads)) for name in names}


def _verbose() -> bool:
    return logger.isEnabledFor(logging.INFO)


@contextmanager
def _quiet_dask() -> Iterator[None]:
    """Keep what Dask logs of workers that come and go off standard error, unless medvlad logs as well."""
    if _verbose():
        yield
        return
    roots = ("distributed", "tornado", "asyncio")
    names = {*roots, *(n for n in list(logging.root.manager.loggerDict) if n.split(".")[0] in roots)}
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
