"""The command compare."""

from __future__ import annotations

import json
from pathlib import Path

import click
import cloup

from medvlad.cli import options
from medvlad.cli.console import Command

__all__ = ["compare"]


def _read_encodings(
    context: click.Context, option: click.Parameter, text: str | None
) -> tuple[str | None, str | None]:
    """Read one encoding for both runs, or one for each."""
    if text is None:
        return None, None
    first, _, second = text.partition(",")
    if not first or "," in second:
        raise click.UsageError(f"--encode takes one encoding, or two separated by a comma, got {text!r}")
    return first, second or first


@cloup.command(
    cls=Command,
    examples=[
        "medvlad compare results/vgg results/resnet",
        "medvlad compare results results --encode avg,vlad64",
    ],
)
@cloup.argument("first", type=options.PATH, help="Folder of the first run (evaluate --out).")
@cloup.argument("second", type=options.PATH, help="Folder of the second run.")
@cloup.option(
    "--encode",
    metavar="NAME[,NAME]",
    callback=_read_encodings,
    help="Encoding of both runs, or one for each: avg,vlad64.  [default: the only one]",
)
@options.JSON
@cloup.option("--seed", type=int, metavar="N", default=0, help="Seed of the bootstrap.")
def compare(
    first: Path, second: Path, encode: tuple[str | None, str | None], seed: int, as_json: bool
) -> None:
    """Test if one run is better than another on the same images.

    FIRST and SECOND are folders that 'medvlad evaluate --out' has written.
    """
    from medvlad.evaluation.compare_runs import compare_runs

    found = compare_runs(first, second, encodings=encode, random_state=seed)
    if as_json:
        click.echo(json.dumps(found, indent=2, allow_nan=False))
        return
    drawn = "images" if found["n_patients"] is None else f"{found['n_patients']} patients"
    click.echo(f"{second} against {first}, {found['n_images']} images, 95 % intervals by {drawn}:")
    for name, value in found["difference"].items():
        ends = found["difference_ci95"][name]
        if value is not None and ends is not None:
            click.echo(f"{name.replace('_', ' ')} {value:+.3f} ({ends[0]:+.3f} to {ends[1]:+.3f})")
    click.echo(
        f"images that only one run classifies correctly: {found['only_second']} by the second, "
        f"{found['only_first']} by the first; McNemar's p {found['mcnemar_p']:.2g}"
    )
