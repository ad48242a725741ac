"""A Dask cluster: somebody's, by its address or client, or worker processes of this machine."""

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

_CORES_A_WORKER = 4
_CONNECT_SECONDS = 10


class Cluster(NamedTuple):
    """A client, and what is to be known of its workers."""

    client: Any
    name: str
    own: bool  # workers of this machine, started for this call
    threads: int  # of a worker


@contextmanager
def connected(scheduler: Any, n_workers: int | None) -> Iterator[Cluster]:
    """Connect to a scheduler, or start workers on this machine for as long as the context lasts."""
    distributed = import_extra("distributed", "distributed", "a run on a cluster")
    dask_config = import_extra("dask.config", "distributed", "a run on a cluster")
    if isinstance(scheduler, distributed.Client):
        yield Cluster(scheduler, f"the scheduler {scheduler.scheduler.address}", False, 1)
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
        yield Cluster(client, f"the scheduler {scheduler}", False, 1)


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
