"""The command demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from medvlad.cli import options
from medvlad.cli.console import Command
from medvlad.cli.evaluation_run import RESULT_FILES, run_evaluation
from medvlad.cli.output import output_folder

if TYPE_CHECKING:
    from medvlad.experiment import Experiment

__all__ = ["ENCODINGS", "demo", "demo_experiment"]

ENCODINGS = ["avg", "vlad8", "vlad16"]


def demo_experiment() -> Experiment:
    """Return the settings of the demo."""
    from medvlad.encoders.recipe import Recipe
    from medvlad.experiment import Experiment

    recipe = Recipe(descriptor_norm=True, power=0.5)
    return Experiment(model="efficientnet-lite2", layer="block14", weights="bundled", recipe=recipe, C=10.0)


@cloup.command(cls=Command)
@cloup.option(
    "--out",
    type=options.PATH,
    metavar="FOLDER",
    default="medvlad-demo",
    help="Folder for images and results.",
)
@options.OVERWRITE
def demo(out: Path, overwrite: bool) -> int:
    """Compare encodings of simulated images, without any download."""
    from medvlad.datasets.demo import write_demo_images

    with output_folder(out, results=RESULT_FILES, overwrite=overwrite) as output:
        images = write_demo_images(out / "images")
        click.echo(
            f"Images: simulated fields of tissue, in {images}. Classes differ only in where lymphocytes lie. "
            "Weights: EfficientNet-Lite2, bundled."
        )
        return run_evaluation(demo_experiment(), images, ENCODINGS, output)
