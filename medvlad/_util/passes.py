"""Passes over data that do not fit into memory: one job per slice of the data, one pass per set of jobs.

::

    shared (centres, weights)  -+-> job 0 -> result 0 -+
                                +-> job 1 -> result 1 -+-> in the order of the jobs
                                +-> job 2 -> result 2 -+

The caller adds the results up in the order of the jobs, in float64. The cut of the data into jobs depends on
the data alone, never on the number of workers or threads, or on the memory. So every runner gives the same
sum, bit for bit: :func:`run_here` in this process, that of :func:`medvlad.distributed.cluster_runner` on a
Dask cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

__all__ = ["Job", "Runner", "run_here"]


class Job(Protocol):
    """One slice of the data and the work on it.

    A job can be pickled: it names its source (paths and a range), and reads the data when it runs. A class of
    jobs is a frozen dataclass at the top of a module.
    """

    def run(self, shared: Any, /) -> Any:
        """Return the partial result of this slice. It depends on the slice and on `shared` only.

        Parameters
        ----------
        shared : object
            What all jobs of a pass need, such as the centres. A job does not change it.
        """
        ...


#: What carries out a pass: ``runner(shared, jobs)`` yields the results in the order of the jobs. The iterator
#: raises the error that a job raises. A caller that stops early closes the iterator.
Runner: TypeAlias = Callable[[Any, Sequence[Job]], Iterator[Any]]


def run_here(shared: Any, jobs: Sequence[Job]) -> Iterator[Any]:
    """Run jobs one after another in this process.

    Parameters
    ----------
    shared : object
        What all jobs need. It can be pickled, because other runners send it to other processes.
    jobs : sequence of Job

    Yields
    ------
    object
        Result of each job, in the order of the jobs. A job starts when its result is asked for, so memory
        holds one result.
    """
    for job in jobs:
        yield job.run(shared)
