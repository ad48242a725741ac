"""Run chunks of images as tasks on a cluster, and yield their results as they finish.

A task is a pickled job. Only two tasks per worker are submitted at a time, which bounds the memory of the
client and of the scheduler.
"""

from __future__ import annotations

import logging
import pickle
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Generator
from typing import Any

from medvlad._util.counters import add_counts
from medvlad._util.validate import InputError, import_extra
from medvlad.distributed.calls import Call, Counted, packed
from medvlad.distributed.cluster import Cluster

__all__ = ["cut", "results_of"]

logger = logging.getLogger(__name__)

_NO_WORKER_SECONDS = 120
_TICK_SECONDS = 2
_TASKS_PER_WORKER = 2


def cut(indices: list[int], size: int, least: int) -> list[list[int]]:
    """Cut a list into chunks of `size`. A remainder smaller than `least` joins the last chunk."""
    chunks = [indices[at : at + size] for at in range(0, len(indices), size)]
    if len(chunks) > 1 and len(chunks[-1]) < least:
        remainder = chunks.pop()
        chunks[-1] += remainder
    return chunks


def results_of(
    cluster: Cluster,
    chunks: deque[list[int]],
    job: Callable[[list[int]], Any],
    versions: dict[str, str],
    store: Any = None,
    submit: Callable[[Any, Any, dict[str, str]], Any] | None = None,
    counted_here: Collection[str] = (),
) -> Generator[tuple[list[int], Any]]:
    """Run one job per chunk and yield each chunk with its result, in the order in which they finish.

    What the workers count is added to the counters of the caller, once for each result that is yielded.

    Parameters
    ----------
    cluster : Cluster
        Where the jobs run.
    chunks : deque of list of int
        Image numbers of each job. The caller may append to it while it iterates.
    job : callable
        Makes the job of a chunk. The job's ``run(versions)`` is called in a worker.
    versions : dict of str to str
        Versions that the workers must have.
    store : path-like or None, default=None
        Folder of the store that keeps what is finished, for messages. None: nothing is kept.
    submit : callable or None, default=None
        Called with client, job and `versions`; returns the future of the task, whose result is a
        :class:`medvlad.distributed.calls.Counted`. None: run the job.
    counted_here : collection of str, default=()
        Counters that the caller keeps itself.

    Yields
    ------
    list of int
        The chunk.
    Any
        Result of its job. None: every worker that took the chunk died.

    Raises
    ------
    InputError
        If the cluster has no worker for two minutes, is gone, or its workers have no medvlad.
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
                    f"{cluster.name} has had no worker for {_NO_WORKER_SECONDS} s: start workers with "
                    "'dask worker ADDRESS', then run the same again"
                )
            while chunks and len(running) < max(1, _TASKS_PER_WORKER * n_workers):
                indices = chunks.popleft()
                running[(submit or _submit)(cluster.client, job(indices), versions)] = indices
            try:
                with cluster.client.as_current():
                    done = distributed.wait(list(running), _TICK_SECONDS, "FIRST_COMPLETED").done
            except TimeoutError:
                continue
            for future in done:
                indices = running.pop(future)
                found = _result(distributed, cluster, future, versions)
                if found is not None:
                    add_counts(found.counts, counted_here)
                yield indices, None if found is None else found.result
    except (distributed.CancelledError, distributed.comm.CommClosedError) as error:
        kept = "" if store is None else f"the finished images are in {store}; "
        again = "run the same again" if store is None else "run the same again to continue"
        raise InputError(f"{cluster.name} is gone or has cancelled the run: {kept}{again}") from error
    finally:
        if running and cluster.client.status == "running":
            cluster.client.cancel(list(running))


def _submit(client: Any, job: Any, versions: dict[str, str]) -> Any:
    # pickle.loads belongs to the standard library, so the scheduler needs no medvlad.
    call = pickle.dumps(Call(versions, packed(job)))
    return client.submit(pickle.loads, call, key=f"medvlad-{uuid.uuid4().hex}", pure=False)


def _result(distributed: Any, cluster: Cluster, future: Any, versions: dict[str, str]) -> Counted | None:
    """Return a task's result, or None if every worker that took it died."""
    try:
        found: Counted = future.result()
        return found
    except distributed.KilledWorker as error:
        logger.info("%s", error)
        return None
    except (ModuleNotFoundError, AttributeError) as error:
        # Unpickling finds no such module, or no such name in the module of an older version.
        is_old = str(error).startswith("Can't get attribute") and "<module 'medvlad" in str(error)
        if not (is_old or str(error.name).startswith("medvlad")):
            raise
        raise InputError(
            f"a worker of {cluster.name} has no medvlad or an old version ({error}): "
            f"install medvlad {versions['medvlad']} on every worker"
        ) from error
