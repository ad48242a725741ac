"""The option --sweep-layers of the command evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from medvlad.cli.dataset import load_dataset

if TYPE_CHECKING:
    from medvlad.experiment import Experiment

__all__ = ["SWEEP_LAYERS", "run_layer_sweep"]

SWEEP_LAYERS = cloup.option(
    "--sweep-layers",
    is_flag=True,
    help="Only score the last layers of the network, up to --layer, inside the training images, and print "
    "the layer to use.",
)


def run_layer_sweep(experiment: Experiment, directory: Path, encodings: list[str], *, anonymise: bool) -> int:
    """Score the last layers with average pooling and the encodings, and print a table.

    Parameters
    ----------
    experiment : Experiment
        All settings.
    directory : Path
        Folder of images.
    encodings : list of str
        Names of encodings.
    anonymise : bool
        Print no names of files or patients.

    Returns
    -------
    int
        Exit status.
    """
    from medvlad.evaluation.layer_sweep import check_for_sweep
    from medvlad.experiment.checks import check_for_layers
    from medvlad.extraction.keras_startup import start_keras

    check_for_layers(experiment)
    dataset = load_dataset(experiment, directory, anonymise=anonymise)
    experiment.check_encodings(encodings)
    check_for_sweep(dataset)
    start_keras(experiment.model)
    sweep = experiment.sweep_layers(dataset, encodings)
    click.echo(sweep.table())
    click.echo(
        f"{sweep.n_folds} folds inside {sweep.n_images} training images. "
        "+- is one standard error over the folds."
    )
    click.echo(f"Use --layer {sweep.layer} --encode {sweep.encoding}.")
    if dataset.splits is None:
        click.echo("There is no test part: the accuracy of this layer on the same images is optimistic.")
    return 0
