"""Options for feature files. Like cli/options.py, this module imports no other room at import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import cloup
from click.core import ParameterSource

from medvlad.cli import options

if TYPE_CHECKING:
    from medvlad.datasets.folders import ImageFolder

__all__ = ["ONE_BAG", "POOL_BY", "THUMBNAILS", "has_bags", "uses_network"]

POOL_BY = cloup.option(
    "--pool-by",
    type=options.Choice(["patient"]),
    help="Pool the feature files of each patient.  [default: each file alone]",
)
ONE_BAG = cloup.option(
    "--one-bag", is_flag=True, help="Feature files: all given files are of one patient, and get one answer."
)
THUMBNAILS = cloup.option(
    "--thumbnails",
    type=options.PATH,
    metavar="FOLDER",
    help="Feature files: pictures of the slides, named like them, to draw below the evidence.",
)

#: Options that choose or run a network, which feature files do not need.
_OF_NETWORK = (
    "model",
    "weights",
    "layer",
    "scale",
    "mirror",
    "resize",
    "batch_size",
    "dtype",
    "engine",
    "store",
)


def uses_network(dataset: ImageFolder) -> bool:
    """Return whether a data set needs a network: False if its rows are feature files.

    Raises
    ------
    InputError
        If some rows are feature files and others are images.
    click.UsageError
        If an option of this command chooses a network, and the rows are feature files.
    """
    from medvlad.datasets.pooling import holds_feature_files

    if not holds_feature_files(dataset):
        return True
    context = click.get_current_context(silent=True)
    for name in _OF_NETWORK if context is not None else ():
        if context is not None and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = next(one.opts[-1] for one in context.command.params if one.name == name)
            raise click.UsageError(
                f"{option} is for images, and {dataset.paths[0]} is a feature file: leave it out"
            )
    return False


def has_bags(images: Sequence[str]) -> bool:
    """Return whether the inputs of a command are feature files.

    Raises
    ------
    click.UsageError
        If some are feature files and others are not.
    """
    from medvlad.datasets.feature_files import feature_ending

    features = [feature_ending(image) is not None for image in images]
    if any(features) and not all(features):
        raise click.UsageError(
            f"{images[features.index(True)]} is a feature file and {images[features.index(False)]} is not: "
            "give images or feature files, not both"
        )
    return bool(features) and all(features)
