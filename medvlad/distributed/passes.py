"""Run the passes over data on a Dask cluster: k-means, encoding, and every other kind of job.

::

    client:  list of images --> once for all passes over it --> workers, which keep it
             shared (centres) --> once a pass --> workers, which keep it until the pass ends
             number of a job --> a worker, which reads this slice itself --> its partial sums
             sums in the order of the jobs <-- results

No descriptor passes through the scheduler or the client. Dask keeps the last 1,000 messages to each worker,
so messages are small: a number, or a compressed job. At most three jobs for each worker are under way or wait
for their turn, so memory does not grow with the number of jobs. If a worker is killed, Dask gives its jobs to
another one. Results come in the order of the jobs, so the sums are those of one process, bit for bit.
"""

from __future__ import annotations

import logging
import math
import operator
import os
import pickle
import time
import uuid
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlad._util.object_path import ObjectPath, location
from medvlad._util.passes import Job, JobSequence
from medvlad._util.progress import progress_bar
from medvlad._util.validate import InputError
from medvlad._util.versions import versions
from medvlad.descriptors.blocks import DescriptorBlocks
from medvlad.distributed.calls import Deferred, packed
from medvlad.distributed.cluster import Cluster, connected
from medvlad.distributed.run import extract_distributed
from medvlad.distributed.tasks import results_of
from medvlad.extraction.cnn_descriptors import CNNDescriptors
from medvlad.extraction.data_set import Workers

__all__ = ["ClusterRunner", "cluster_runner", "fit_distributed", "workers_of"]

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1  # between two looks at the number of workers
_WINDOW = 3  # jobs of each worker that run, or whose results wait for their turn


class ClusterRunner:
    """A :data:`medvlad._util.passes.Runner` whose jobs run in the workers of a Dask cluster.

    A job may have two attributes: `stage`, a name for the progress bar and the log, and `n_images`. If it is
    a dataclass with a field `n_threads` that is None, workers on this machine use their share of its
    processors. It is also a :class:`medvlad._util.passes.ClusterOfWorkers`.

    Parameters
    ----------
    cluster : Cluster
        A connected cluster.
    progress : bool or None, default=None
        Show a progress bar for each pass. None: if standard error is a terminal.
    folder : Path or None, default=None
        Folder for temporary files that the workers read, such as that of the store. None: there is none.
    """

    def __init__(self, cluster: Cluster, *, progress: bool | None = None, folder: Path | None = None) -> None:
        self._cluster, self._progress, self.folder = cluster, progress, folder
        self._versions = {"medvlad": versions()["medvlad"]}
        self._sent: tuple[JobSequence[Any], Any] | None = None  # the last one, and its place in the workers

    @property
    def most_waiting(self) -> int:
        """Maximum number of results that wait for their turn, with the workers of now."""
        return _WINDOW * max(1, len(self._cluster.client.nthreads()))

    def blind_to(self, file: Path) -> str | None:
        """Return the address of a worker that does not see a file. None: all workers see it."""
        # A function of the standard library. A worker that is about to die is left out.
        seen = self._cluster.client.run(os.path.isfile, str(file), on_error="ignore")
        return next((str(address) for address, sees in seen.items() if not sees), None)

    def __call__(self, shared: Any, jobs: Sequence[Job]) -> Iterator[Any]:
        """Yield the results of a pass in the order of the jobs.

        Parameters
        ----------
        shared : object
            What all jobs need. It is sent once.
        jobs : sequence of Job
            A :class:`medvlad._util.passes.JobSequence` is kept until another one comes. If the next pass has
            the same object, it is not sent again.

        Raises
        ------
        InputError
            If a job raises it, with the name of the worker in front. Also if every worker that took a job
            died, or the cluster has no worker or another medvlad.
        """
        if not len(jobs):
            return
        stage = str(getattr(jobs[0], "stage", "jobs"))
        begin, n_images = time.perf_counter(), 0
        listed = [self._place_of(jobs)] if isinstance(jobs, JobSequence) else []
        sent = self._send("shared", shared)
        try:
            with closing(self._in_order([sent, *listed], jobs, stage)) as results:
                for n, result in results:
                    n_images += n
                    yield result
        finally:
            sent.release()
        seconds = time.perf_counter() - begin
        logger.info(
            "%s: %d images in %.1f s, %.0f images/s", stage, n_images, seconds, n_images / max(seconds, 1e-9)
        )

    def _send(self, what: str, value: Any) -> Any:
        """Send a value to a worker, from which the others get it."""
        # A task and not Dask's `scatter`: if the worker that holds it dies, Dask makes it again.
        key = f"medvlad-{what}-{uuid.uuid4().hex}"
        return self._cluster.client.submit(pickle.loads, pickle.dumps(value), key=key, pure=False)

    def _place_of(self, jobs: JobSequence[Any]) -> Any:
        """Return the place of jobs in the workers, and send them if they are not those of the last pass."""
        if self._sent is None or self._sent[0] is not jobs:
            self._sent = None
            self._sent = jobs, self._send("list", jobs)
        return self._sent[1]

    def _in_order(self, shared: Sequence[Any], jobs: Sequence[Job], stage: str) -> Generator[tuple[int, Any]]:
        """Yield the number of images of each job and its result."""
        waiting: deque[list[int]] = deque()
        sizes: dict[int, int] = {}
        done: dict[int, Any] = {}
        given = yielded = 0
        window, looked = 0, -math.inf

        def give() -> None:
            nonlocal given, window, looked
            if time.monotonic() > looked + _LOOK_SECONDS:  # asking the scheduler takes time
                window, looked = self.most_waiting, time.monotonic()
            while given < len(jobs) and given - yielded < window:
                waiting.append([given])
                given += 1

        def job_of(numbers: list[int]) -> int | bytes:
            number = numbers[0]
            if isinstance(jobs, JobSequence):
                sizes[number] = jobs.n_images_of(number)
                return number
            job = jobs[number]
            sizes[number] = int(getattr(job, "n_images", 1))
            return packed(job)

        def submit(client: Any, job: int | bytes, expected: dict[str, str]) -> Any:
            # Only functions of the standard library, so the scheduler needs no medvlad.
            threads = self._cluster.threads if self._cluster.own else None
            call = pickle.dumps(Deferred(expected, job, threads))
            key = f"medvlad-{uuid.uuid4().hex}"
            ready = client.submit(pickle.loads, call, key=f"{key}-job", pure=False)
            return client.submit(operator.call, ready, *shared, key=key, pure=False)

        give()
        tasks = results_of(self._cluster, waiting, job_of, self._versions, submit=submit)
        with progress_bar(_n_images(jobs), stage, self._progress) as bar, closing(tasks) as finished:
            for (number,), result in finished:
                if result is None:
                    raise InputError(
                        f"every worker that took part {number + 1} of {len(jobs)} of the stage {stage} died: "
                        "give the workers more memory, then run the same again"
                    )
                done[number] = result
                bar.update(sizes[number])
                while yielded in done:
                    yield sizes.pop(yielded), done.pop(yielded)
                    yielded += 1
                give()


def _n_images(jobs: Sequence[Job]) -> int:
    """Return the number of images of all jobs."""
    if isinstance(jobs, JobSequence):
        return jobs.n_images
    return sum(getattr(job, "n_images", 1) for job in jobs)


@contextmanager
def cluster_runner(
    scheduler: Any = None, *, n_workers: int | None = None, progress: bool | None = None
) -> Iterator[ClusterRunner]:
    """Return a context with a runner for passes over data.

    Parameters
    ----------
    scheduler : str, distributed.Client or None, default=None
        Address of a Dask scheduler, or its client. None: start worker processes on this machine, which end
        with the context.
    n_workers : int or None, default=None
        Number of worker processes to start. None: one for each four processors.
    progress : bool or None, default=None
        Show a progress bar for each pass. None: if standard error is a terminal.

    Examples
    --------
    ::

        with cluster_runner("tcp://host:8786") as runner:
            vlad = VLAD(64, max_samples=None, random_state=0).fit(stored.on(runner))
            vectors = vlad.transform(stored.on(runner))

    Raises
    ------
    InputError
        If the scheduler cannot be reached.
    MissingExtraError
        If Dask is not installed.
    """
    with connected(scheduler, n_workers) as cluster:
        yield ClusterRunner(cluster, progress=progress)


def fit_distributed(
    estimator: Any, X: DescriptorBlocks, *, scheduler: Any = None, n_workers: int | None = None
) -> Any:
    """Fit a codebook on a cluster, like ``estimator.fit(X)``, bit for bit.

    Every worker must see the store, or the feature files, under the same path.

    Parameters
    ----------
    estimator : KMeansCodebook, VLAD or BagOfWords
        With ``max_samples=None``. It is fitted in place.
    X : StoredDescriptors or BagFiles
        Descriptors outside memory.
    scheduler, n_workers
        See :func:`cluster_runner`.

    Returns
    -------
    estimator

    Raises
    ------
    InputError
        If X is in memory or `max_samples` is set, or for a reason of :func:`cluster_runner` or `fit`.
    """
    if not isinstance(X, DescriptorBlocks):
        raise InputError(
            "a fit on a cluster reads descriptors from a store or from feature files, got "
            f"{type(X).__name__}: use estimator.fit for descriptors in memory"
        )
    if getattr(estimator, "max_samples", None) is not None:
        raise InputError(
            f"max_samples={estimator.max_samples} draws a subsample, which one machine clusters: use "
            "estimator.fit, or max_samples=None to use all descriptors"
        )
    with cluster_runner(scheduler, n_workers=n_workers) as runner:
        return estimator.fit(X.on(runner))


@dataclass(frozen=True)
class _Extract:
    """Extracts images with the workers of a connected client."""

    client: Any

    def __call__(self, features: CNNDescriptors, paths: Sequence[Path]) -> None:
        extract_distributed(features, paths, scheduler=self.client)


@contextmanager
def workers_of(scheduler: str, store: str | os.PathLike[str] | None = None) -> Iterator[Workers]:
    """Return a context with the workers of a scheduler, for a whole experiment.

    Parameters
    ----------
    scheduler : str
        Address of a Dask scheduler.
    store : path, URL or None, default=None
        Store of the experiment. Encoded images that the workers read are written into its folder, unless it
        lies in object storage.
    """
    place = None if store is None else location(store, "the store")
    folder = None if place is None or isinstance(place, ObjectPath) else place.absolute()
    with connected(scheduler, None) as cluster:
        yield Workers(ClusterRunner(cluster, folder=folder), _Extract(cluster.client))
