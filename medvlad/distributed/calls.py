"""How a job is sent to a worker, and how its result comes back with what the worker has counted."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from medvlad._util.counters import counting
from medvlad._util.validate import InputError, import_extra
from medvlad._util.versions import versions

__all__ = ["Call", "Counted", "Deferred", "other_version", "packed", "this_worker", "unpacked"]


def packed(job: Any) -> bytes:
    """Return a job as it is sent. Dask keeps the last 1,000 messages below 1 MB to each worker.

    Names of images and weights of rows shrink a lot. Files of images would only cost time.
    """
    content = pickle.dumps(job)
    return zlib.compress(content, 0 if getattr(job, "files", None) else 1)


def unpacked(content: bytes) -> Any:
    """Return a job in a worker."""
    return pickle.loads(zlib.decompress(content))


class Counted(NamedTuple):
    """What a task returns.

    Attributes
    ----------
    result : object
    counts : dict
        What the task has counted, see :mod:`medvlad._util.counters`.
    """

    result: Any
    counts: dict[str, Any]


class Call:
    """A job that runs when it is unpickled: unpickling returns the job's result."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return _run_job, self._arguments


class Deferred:
    """A job of a pass. Unpickling gives a function of what the jobs of the pass share.

    Parameters
    ----------
    expected : dict of str to str
        Versions that the worker must have.
    job : int or bytes
        Number of a job of the pass, or a packed :class:`medvlad._util.passes.Job`.
    threads : int or None
        Number of threads for a job whose `n_threads` is None.
    """

    def __init__(self, expected: dict[str, str], job: int | bytes, threads: int | None) -> None:
        self._arguments = expected, job, threads

    def __reduce__(self) -> tuple[Any, ...]:
        return _JobOfAPass, self._arguments


@dataclass(frozen=True)
class _JobOfAPass:
    """A job in a worker, before it runs. Dask may move it to another worker as it is."""

    expected: dict[str, str]
    job: int | bytes
    threads: int | None

    def __call__(self, shared: Any, jobs: Sequence[Any] | None = None) -> Counted:
        """Run the job, if the worker has the client's version of medvlad.

        Parameters
        ----------
        shared : object
            What all jobs need.
        jobs : sequence of Job or None
            The jobs, if they are not sent one by one.
        """
        name = this_worker().address
        if versions()["medvlad"] != self.expected["medvlad"]:
            raise InputError(other_version(name, "medvlad", versions()["medvlad"], self.expected["medvlad"]))
        if isinstance(self.job, int):
            assert jobs is not None
            job = jobs[self.job]
        else:
            job = unpacked(self.job)
        if self.threads is not None and getattr(job, "n_threads", 0) is None:
            job = replace(job, n_threads=self.threads)
        try:
            return _counted(job, shared)
        except InputError as error:
            raise InputError(f"worker {name}: {error}") from error


def _run_job(expected: dict[str, str], job: bytes) -> Counted:
    """Run a job in a worker, if the worker has the client's version of medvlad."""
    name = this_worker().address
    if versions()["medvlad"] != expected["medvlad"]:
        raise InputError(other_version(name, "medvlad", versions()["medvlad"], expected["medvlad"]))
    return _counted(unpacked(job), expected)


def _counted(job: Any, given: Any) -> Counted:
    with counting() as counters:
        result = job.run(given)
    return Counted(result, counters.as_dict())


def other_version(worker: str, what: str, there: str | None, here: str) -> str:
    """Return the message about a worker with another version of a package, or without it."""
    return (
        f"worker {worker} has {what} {there or 'not installed'}, but this machine has {here}: "
        "install the same version everywhere"
    )


def this_worker() -> Any:
    """Return Dask's worker that runs the calling task."""
    return import_extra("distributed", "distributed", "a worker").get_worker()
