"""Listing a data set, as the commands that use patients do it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medvlad.cli.console import say

if TYPE_CHECKING:
    from medvlad.datasets.folders import ImageFolder
    from medvlad.experiment import Experiment

__all__ = ["load_dataset", "saying", "saying_choices", "saying_cluster"]


def load_dataset(experiment: Experiment, directory: Path, *, anonymise: bool) -> ImageFolder:
    """List the images of a folder or a table.

    Show which columns of a table are used, and examples of the patients that file names tell, unless names
    must not be printed.
    """
    from medvlad.datasets.describe import examples_in_words

    with saying_choices():
        dataset = experiment.load(directory)
    examples = None if anonymise else examples_in_words(dataset)
    if examples is not None:
        say(examples)
    return dataset


class _Sayer(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def saying_choices() -> AbstractContextManager[None]:
    """Print on standard error which columns of a table are used, and how."""
    return saying("medvlad.datasets.manifest_columns")


def saying_cluster() -> AbstractContextManager[None]:
    """Print on standard error which Dask cluster works, and the address of its dashboard."""
    return saying("medvlad.distributed.cluster.address")


@contextmanager
def saying(name: str) -> Iterator[None]:
    """Print what the library logs under `name` on standard error."""
    log, sayer = logging.getLogger(name), _Sayer()
    before = log.level, log.propagate
    log.addHandler(sayer)
    log.setLevel(logging.INFO)
    log.propagate = False  # with --verbose the same line would appear twice
    try:
        yield
    finally:
        log.removeHandler(sayer)
        log.setLevel(before[0])
        log.propagate = before[1]
