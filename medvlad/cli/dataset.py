"""Listing a data set, as the commands that use patients do it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medvlad.cli.console import say

if TYPE_CHECKING:
    from medvlad.datasets.folders import ImageFolder
    from medvlad.experiment import Experiment

__all__ = ["load_dataset", "saying_choices"]


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


@contextmanager
def saying_choices() -> Iterator[None]:
    """Print on standard error which columns of a table are used, and how."""
    log, sayer = logging.getLogger("medvlad.datasets.manifest_columns"), _Sayer()
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
