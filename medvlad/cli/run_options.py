"""Options of long commands: --n-seeds, and for those who watch them --log-json and --metrics.

Like cli/options.py, this module imports no other room. The commands do not get the values of the last two:
:mod:`medvlad.cli.console` acts on them before and around a command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import cloup

from medvlad.cli.paths import PATH

__all__ = ["LOG_JSON", "N_SEEDS", "label_run", "run_group", "watched"]

LOG_JSON = "--log-json"
_FILE, _LABELS = "file of metrics", "labels of metrics"  # keys of click's Context.meta

N_SEEDS = cloup.option(
    "--n-seeds",
    type=int,
    metavar="N",
    default=1,
    show_default=False,
    help="Repeat the evaluation with N seeds, from --seed on, and report mean and spread.  [default: 1]",
)


def _keep(context: click.Context, option: click.Parameter, path: Path | None) -> None:
    if path is not None:
        from medvlad._util.validate import check_output_file

        check_output_file(path, "metrics")
        context.meta[_FILE] = path


def run_group() -> Callable[[Any], Any]:
    """Add the options of a long command for those who watch it."""
    return cloup.option_group(
        "Monitoring",
        cloup.option(
            LOG_JSON,
            is_flag=True,
            expose_value=False,
            help="Write each message on standard error as a line of JSON: time, level, logger, message.",
        ),
        cloup.option(
            "--metrics",
            type=PATH,
            metavar="FILE",
            expose_value=False,
            callback=_keep,
            help="File for counters and times as OpenMetrics text, written every minute and at the end.",
        ),
    )


def label_run(**labels: str) -> None:
    """Add labels to the metrics of the running command. They must not name files, classes or patients."""
    click.get_current_context().meta.setdefault(_LABELS, {}).update(labels)


@contextmanager
def watched(context: click.Context) -> Iterator[None]:
    """Write the metrics of the command that the block runs, if a file for them is given."""
    path = context.meta.get(_FILE)
    if path is None:
        yield
        return
    from medvlad.cli.metrics_file import writing_metrics

    labels = context.meta.setdefault(_LABELS, {})
    labels["command"] = str(context.info_name)
    with writing_metrics(path, labels):
        yield
