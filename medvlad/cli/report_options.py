"""Options of reports and model cards. As :mod:`medvlad.cli.options`, this module imports no other room."""

from __future__ import annotations

import cloup

from medvlad.cli import options

__all__ = ["CARD", "LEARNING_CURVE", "RESULTS"]

LEARNING_CURVE = cloup.option(
    "--learning-curve",
    is_flag=True,
    help="Also train on halves, quarters, ... of the training patients, five times each.",
)
CARD = cloup.option(
    "--card",
    type=options.PATH,
    metavar="FOLDER",
    help="Write a folder for Hugging Face: the model, and a model card as README.md.",
)
RESULTS = cloup.option(
    "--results",
    type=options.PATH_OR_URL,
    metavar="FOLDER|URL",
    help="Folder of 'medvlad evaluate --out' or 'medvlad external --out', for the card.",
)
