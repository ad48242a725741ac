"""Options for tables of images, and the argument that takes a folder or a table.

As :mod:`medvlad.cli.options`, this module imports no other room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
import cloup

from medvlad.cli import options

if TYPE_CHECKING:
    from medvlad.datasets.manifest_columns import TableSettings

__all__ = ["DATA_OR_URL", "GROUP_BY", "IMAGE_COLUMN", "IMAGE_ROOT", "table_group", "table_of"]

_NAMES = (
    "image_root",
    "image_column",
    "label_column",
    "label_columns",
    "patient_column",
    "split_column",
    "site_column",
    "task",
)


def _data(type_: Any, what: str) -> Callable[[Any], Any]:
    return cloup.argument("directory", metavar="DIR|TABLE", type=type_, help=what)


DATA_OR_URL = _data(options.PATH_OR_URL, "Folder (DIR/CLASS/*, DIR/train/CLASS/*), table or URL.")

IMAGE_ROOT = cloup.option(
    "--image-root",
    type=options.TEXT_PATH_OR_URL,
    metavar="FOLDER",
    help="Folder that paths in TABLE are relative to.  [default: the folder of TABLE]",
)
GROUP_BY = cloup.option(
    "--group-by",
    type=options.Choice(["patient", "site"]),
    default="patient",
    help="What a fold keeps together: the images of a patient, or those of a site. With site, each site is "
    "tested by a classifier of all others.",
)


def _column(name: str, usual: str) -> Callable[[Any], Any]:
    return cloup.option(
        f"--{name}-column",
        metavar="NAME",
        help=f"Column of {name}s.  [default: {usual}]",
    )


IMAGE_COLUMN = _column("image", "image, path, file, ...")


def _read_names(context: click.Context, option: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Read names separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


def table_group() -> Callable[[Any], Any]:
    """Add the options of tables."""
    return cloup.option_group(
        "Table",
        IMAGE_ROOT,
        IMAGE_COLUMN,
        _column("label", "label, class, diagnosis, target"),
        cloup.option(
            "--label-columns",
            metavar="NAME,...",
            callback=_read_names,
            help="Several columns of labels, with 0 or 1, or with numbers.",
        ),
        _column("patient", "patient, patient_id, subject"),
        _column("split", "split, fold, set"),
        _column("site", "site, centre, center, hospital"),
        cloup.option(
            "--task",
            type=options.Choice(["auto", "classes", "labels", "regression"]),
            metavar="NAME",
            default="auto",
            help="What is predicted: classes, labels (any number of them an image, written as a|b "
            "or in several columns), regression (numbers), or auto for classes or labels.",
        ),
    )


def table_of(settings: dict[str, Any]) -> TableSettings:
    """Take the options of tables out of `settings`."""
    from medvlad.datasets.manifest_columns import TableSettings

    return TableSettings(**{name: settings.pop(name) for name in _NAMES if name in settings})
