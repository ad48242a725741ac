"""Listing a data set, as the commands that use patients do it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medvlad.cli.console import say

if TYPE_CHECKING:
    from medvlad.datasets.folders import ImageFolder
    from medvlad.experiment import Experiment

__all__ = ["load_dataset"]


def load_dataset(experiment: Experiment, directory: Path, *, anonymise: bool) -> ImageFolder:
    """List the images in a folder.

    Show examples of the patients that file names tell, unless names must not be printed.
    """
    from medvlad.datasets.describe import examples_in_words

    dataset = experiment.load(directory)
    examples = None if anonymise else examples_in_words(dataset)
    if examples is not None:
        say(examples)
    return dataset
