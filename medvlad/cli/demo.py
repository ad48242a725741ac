"""The command demo."""

from __future__ import annotations

from pathlib import Path

import click
import cloup

from medvlad.cli import options
from medvlad.cli.console import Command
from medvlad.cli.evaluation_run import run_evaluation

__all__ = ["demo"]


@cloup.command(cls=Command)
@cloup.option(
    "--out",
    type=options.PATH,
    metavar="FOLDER",
    default="medvlad-demo",
    help="Folder for images and results.",
)
def demo(out: Path) -> int:
    """Evaluate bundled images in about a minute, without any download."""
    from medvlad.datasets.demo import write_demo_images
    from medvlad.experiment import Experiment

    images = write_demo_images(out / "images")
    click.echo(f"Images: patches of scikit-image's photographs, in {images}. Weights: VGG16, bundled.")
    experiment = Experiment(model="vgg16", weights="bundled")
    return run_evaluation(experiment, images, ["avg", "vlad16", "vlad64"], out)
