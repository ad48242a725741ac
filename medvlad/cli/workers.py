"""The workers that --scheduler names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from medvlad.cli.bag_options import uses_network
from medvlad.cli.dataset import saying_cluster

if TYPE_CHECKING:
    from medvlad.datasets.folders import ImageFolder
    from medvlad.experiment import Experiment
    from medvlad.extraction.data_set import Workers

__all__ = ["chosen_workers"]


@contextmanager
def chosen_workers(
    scheduler: str | None, experiment: Experiment, dataset: ImageFolder
) -> Iterator[Workers | None]:
    """Return a context with the workers of --scheduler. None: the option was not given."""
    if scheduler is not None and experiment.store is None and uses_network(dataset):
        raise click.UsageError(
            f"--scheduler {scheduler} needs a store, which the workers fill and read: give --store FOLDER"
        )
    work: Any = nullcontext()
    if scheduler is not None:
        from medvlad.distributed.passes import workers_of

        work = workers_of(scheduler, experiment.store)
    with saying_cluster(), work as workers:
        yield workers
