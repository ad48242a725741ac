"""Connect to a Dask cluster by its address or client, or start worker processes on this machine."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

from medvlad._util.validate import InputError, check_n_threads, import_extra

__all__ = ["Cluster", "connected"]

logger = logging.getLogger(__name__)
_address_log = logging.getLogger(f"{__name__}.address")  # apart, because commands always print it

_CORES_PER_WORKER = 4
_CONNECT_SECONDS = 10


class Cluster(NamedTuple):
    """A Dask client and facts about its workers.

    Attributes
    ----------
    client : distributed.Client
        Connected client.
    name : str
        What messages call the cluster.
    own : bool
        Whether the workers were started on this machine for this call.
    threads : int
        Number of threads of each worker.
    """

    client: Any
    name: str
    own: bool
    threads: int


@contextmanager
def connected(scheduler: Any, n_workers: int | None) -> Iterator[Cluster]:
    """Return a context that connects to a scheduler, or starts workers and stops them at its end.

    Parameters
    ----------
    scheduler : str, distributed.Client or None
        Address or client of a scheduler. None: start workers on this machine.
    n_workers : int or None
        Number of workers to start. None: one for each four processors.

    Raises
    ------
    InputError
        If the scheduler cannot be reached.
    MissingExtraError
        If Dask is not installed.
    """
    distributed = import_extra("distributed", "distributed", "a run on a cluster")
    dask_config = import_extra("dask.config", "distributed", "a run on a cluster")
    with ExitStack() as stack:
        # Tasks carry image files, or the list of images, and Dask warns about large tasks.
        stack.enter_context(dask_config.set({"distributed.admin.large-graph-warning-threshold": "10GB"}))
        if isinstance(scheduler, distributed.Client):
            yield Cluster(scheduler, f"the scheduler {scheduler.scheduler.address}", False, 1)
            return
        stack.enter_context(_quiet_dask())
        # Dask keeps the last messages to each worker for developers. Jobs may be large, so few are kept.
        stack.enter_context(dask_config.set({"distributed.admin.low-level-log-length": 50}))
        if scheduler is None:
            cores = check_n_threads(None)
            n_workers = n_workers or max(1, cores // _CORES_PER_WORKER)
            # torch, and TensorFlow on single images, round differently with one thread than with several.
            threads = max(min(2, cores), cores // n_workers)
            cluster = stack.enter_context(_own_workers(distributed, dask_config, n_workers, threads))
            client = stack.enter_context(distributed.Client(cluster, set_as_default=False))
            logger.info("dashboard: %s", client.dashboard_link)
            yield Cluster(client, "the cluster on this machine", True, threads)
            return
        try:
            client = distributed.Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"there is no Dask scheduler at {scheduler!r} ({error}): give the address that "
                "'dask scheduler' prints, such as tcp://host:8786"
            ) from error
        stack.enter_context(client)
        _log_address(client, f"the scheduler {scheduler}")
        yield Cluster(client, f"the scheduler {scheduler}", False, 1)


def _log_address(client: Any, name: str) -> None:
    """Log the number of workers and the address of the dashboard."""
    services = client.scheduler_info().get("services", {})
    shown = f"dashboard: {client.dashboard_link}" if "dashboard" in services else "it has no dashboard"
    _address_log.info("%s has %d workers; %s", name, len(client.nthreads()), shown)


def _own_workers(distributed: Any, dask_config: Any, n_workers: int, threads: int) -> Any:
    """Start a scheduler and `n_workers` worker processes on this machine."""
    # One failure is allowed: an image that kills its worker is tried twice, and twice more on its own.
    with dask_config.set({"distributed.scheduler.allowed-failures": 1}), _signals_blocked():
        return distributed.LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs=False if _verbose() else logging.CRITICAL,
            env=_thread_environment(threads),
        )


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Return a context in which new threads and processes do not get signals to stop.

    A terminal or a batch system sends such signals to all processes. The main thread stops the workers, so
    that they can finish what they write.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # a later start would unblock the signals in its thread
    stopping = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _thread_environment(threads: int) -> dict[str, str]:
    """Return the variables that set the threads of TensorFlow, torch and JAX. The user's values stay."""
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "NPROC")
    return {name: os.environ.get(name, str(threads)) for name in names}


def _verbose() -> bool:
    return logger.isEnabledFor(logging.INFO)


@contextmanager
def _quiet_dask() -> Iterator[None]:
    """Return a context without Dask's log messages on standard error, unless medvlad logs as well.

    Dask logs every worker that comes or goes.
    """
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
