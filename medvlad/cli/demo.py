"""The command demo."""

from __future__ import annotations

from pathlib import Path

import click
import cloup

from medvlad.cli import options
from medvlad.cli.console import Command
from medvlad.cli.evaluation_run import RESULT_FILES, run_evaluation

__all__ = ["demo"]


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
    """Evaluate bundled images in about a minute, without any download."""
    from medvlad._util.validate import make_output_folder
    from medvlad.datasets.demo import write_demo_images
    from medvlad.experiment import Experiment

    make_output_folder(out, "--out", results=RESULT_FILES, overwrite=overwrite)
    images = write_demo_images(out / "images")
    click.echo(f"Images: patches of scikit-image's photographs, in {images}. Weights: VGG16, bundled.")
    experiment = Experiment(model="vgg16", weights="bundled")
    return run_evaluation(experiment, images, ["avg", "vlad16", "vlad64"], out)
