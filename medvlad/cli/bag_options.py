"""Options for feature files. Like cli/options.py, this module imports no other room at import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from medvlad.cli import options
from medvlad.cli.settings import given_options

if TYPE_CHECKING:
    from medvlad.datasets.folders import ImageFolder

__all__ = ["ONE_BAG", "POOL_BY", "THUMBNAILS", "check_bag_options", "takes_bags", "uses_network"]

POOL_BY = cloup.option(
    "--pool-by",
    type=options.Choice(["patient"]),
    help="Pool the feature files of each patient.  [default: each file alone]",
)
ONE_BAG = cloup.option(
    "--one-bag", is_flag=True, help="Feature files: pool all given files, and give one prediction."
)
THUMBNAILS = cloup.option(
    "--thumbnails",
    type=options.PATH,
    metavar="FOLDER",
    help="Feature files: folder of pictures of the slides, to draw below the evidence. Their names are those "
    "of the feature files.",
)

#: Options that choose or run a network, which feature files do not need.
_OF_NETWORK = (
    "model",
    "weights",
    "layer",
    "scale",
    "mirror",
    "resize",
    "decode",
    "colour_profile",
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
    _refuse_network_options(f"{dataset.paths[0]} is a feature file")
    return False


def _refuse_network_options(why: str) -> None:
    """Raise click.UsageError if an option on the command line chooses or runs a network."""
    given = given_options(*_OF_NETWORK)
    if given:
        raise click.UsageError(f"{given[0]} is for images, and {why}: leave it out")


def takes_bags(model: Path, images: Sequence[str]) -> bool:
    """Return whether a model takes feature files. Check the file, and the names of its inputs.

    Raises
    ------
    InputError
        If `model` is not a valid model file.
    click.UsageError
        If the model was trained on images and an input is a feature file, or the other way round; or if an
        option is for images only, and the model was trained on feature files.
    """
    from medvlad.datasets.feature_files import feature_ending
    from medvlad.images.formats import is_image_name
    from medvlad.models.model_file import model_card

    of_bags = model_card(model)["features"] is None
    features = next((image for image in images if feature_ending(image) is not None), None)
    image = next((image for image in images if is_image_name(image)), None)
    if features is not None and not of_bags:
        raise click.UsageError(
            f"the model {model} was trained on images, and {features} is a feature file: give images, or a "
            "model that was trained on feature files"
        )
    if image is not None and of_bags:
        raise click.UsageError(
            f"the model {model} was trained on descriptors, and {image} is an image: give feature files of "
            "the same network, such as .h5"
        )
    if of_bags:
        _refuse_network_options(f"{model} was trained on descriptors")
    return of_bags


def check_bag_options(
    model: Path, of_bags: bool, one_bag: bool, thumbnails: Path | None, explain: Path | None
) -> None:
    """Raise click.UsageError if an option for feature files does not fit the model or the other options."""
    for option, is_given in (("--one-bag", one_bag), ("--thumbnails", thumbnails is not None)):
        if is_given and not of_bags:
            raise click.UsageError(
                f"{option} is for feature files, and {model} was trained on images: leave it out"
            )
    if thumbnails is not None and explain is None:
        raise click.UsageError("--thumbnails are drawn by --explain: add --explain FOLDER, or leave it out")
