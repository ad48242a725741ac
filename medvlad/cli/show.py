"""The command show."""

from __future__ import annotations

import json
from pathlib import Path

import click
import cloup

from medvlad.cli import options
from medvlad.cli.console import Command

__all__ = ["show"]


@cloup.command(cls=Command)
@cloup.argument("model", type=options.PATH, help="Model file of 'medvlad train'.")
def show(model: Path) -> None:
    """Print steps, classes, versions and training of a model as JSON."""
    from medvlad.models.model_file import model_card

    click.echo(json.dumps(model_card(model), indent=2))
