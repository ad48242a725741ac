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

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar, overload, runtime_checkable

__all__ = ["ClusterOfWorkers", "Job", "JobSequence", "Runner", "run_here"]


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


AnyJob = TypeVar("AnyJob", bound=Job)


class JobSequence(Sequence[AnyJob]):
    """Jobs that are made when they are asked for, so that they need little memory.

    It can be pickled, and is then much smaller than its jobs. So a runner with other processes sends it once
    a pass, and after that only the number of each job.
    """

    @abstractmethod
    def make(self, number: int) -> AnyJob:
        """Return a job by its number, from 0."""

    @abstractmethod
    def n_images_of(self, number: int) -> int:
        """Return the number of images of a job, without making it."""

    @property
    def n_images(self) -> int:
        """Number of images of all jobs, for a progress bar."""
        return sum(map(self.n_images_of, range(len(self))))

    @overload
    def __getitem__(self, index: int) -> AnyJob: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[AnyJob]: ...
    def __getitem__(self, index: int | slice) -> AnyJob | Sequence[AnyJob]:
        """Return a job, or a list of jobs."""
        numbers = range(len(self))[index]
        return self.make(numbers) if isinstance(numbers, int) else [self.make(i) for i in numbers]


#: What carries out a pass: ``runner(shared, jobs)`` yields the results in the order of the jobs. The iterator
#: raises the error that a job raises. A caller that stops early closes the iterator.
Runner: TypeAlias = Callable[[Any, Sequence[Job]], Iterator[Any]]


@runtime_checkable
class ClusterOfWorkers(Protocol):
    """A runner whose jobs run in other processes, perhaps on other machines.

    Attributes
    ----------
    folder : Path or None
        Folder for temporary files that the workers read. None: there is no particular one.
    most_waiting : int
        Maximum number of results that wait for their turn.
    """

    folder: Path | None

    @property
    def most_waiting(self) -> int: ...

    def __call__(self, shared: Any, jobs: Sequence[Job], /) -> Iterator[Any]: ...

    def blind_to(self, file: Path, /) -> str | None:
        """Return the name of a worker that does not see a file. None: all workers see it."""
        ...


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
