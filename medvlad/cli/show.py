"""The command show."""

from __future__ import annotations

import json
from pathlib import Path

import click
import cloup

from medvlad.cli import options
from medvlad.cli.console import Command
from medvlad.cli.report_options import CARD, RESULTS

__all__ = ["show"]


@cloup.command(
    cls=Command,
    examples=["medvlad show xray.model", "medvlad show xray.model --card hub --results results"],
)
@cloup.argument("model", type=options.PATH_OR_URL, help="Model file of 'medvlad train'.")
@CARD
@RESULTS
@options.OVERWRITE
def show(model: Path, card: Path | None, results: Path | None, overwrite: bool) -> None:
    """Print steps, classes, versions and training of a model as JSON.

    With --card, write a model card instead.
    """
    from medvlad.models.model_file import model_card

    header = model_card(model)
    if card is None:
        if results is not None:
            raise click.UsageError("--results is for the model card: add --card FOLDER")
        click.echo(json.dumps(header, indent=2))
        return
    from medvlad._util.validate import make_output_folder
    from medvlad.report.model_card import CARD_FILE, read_results, write_model_card

    measured = None if results is None else read_results(results)
    make_output_folder(card, "--card", results=[CARD_FILE], overwrite=overwrite)
    written = write_model_card(header, model, card, results=measured)
    click.echo(f"Model card: {written}. Answer the questions in brackets before you publish it.")
