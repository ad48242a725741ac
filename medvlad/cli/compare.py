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
@cloup.argument("first", type=options.PATH_OR_URL, help="Folder of the first run (evaluate --out).")
@cloup.argument("second", type=options.PATH_OR_URL, help="Folder of the second run.")
@cloup.option(
    "--encode",
    metavar="NAME[,NAME]",
    callback=_read_encodings,
    help="Encoding of both runs, or one for each: avg,vlad64.  [default: the only one]",
)
@options.JSON
def compare(first: Path, second: Path, encode: tuple[str | None, str | None], as_json: bool) -> None:
    """Test if one run is better than another on the same images.

    FIRST and SECOND are folders that 'medvlad evaluate --out' has written.
    """
    from medvlad.datasets.describe import patients_in_words
    from medvlad.evaluation.compare_runs import compare_runs

    found = compare_runs(first, second, encodings=encode)
    if as_json:
        click.echo(json.dumps(found, indent=2, allow_nan=False))
        return
    counts = {"n_groups": found["n_patients"], "n_known_patients": found["n_known_patients"]}
    patients = patients_in_words(counts)
    drawn = "over images" if patients is None else f"by patient ({patients})"
    click.echo(f"{second} against {first}, {found['n_images']} images, 95 % intervals {drawn}:")
    for name, value in found["difference"].items():
        if value is None:
            continue
        ends = found["difference_ci95"][name]
        reason = found["difference_ci95_missing"].get(name)
        interval = f"no interval: {reason}" if ends is None else f"{ends[0]:+.3f} to {ends[1]:+.3f}"
        click.echo(f"{name.replace('_', ' ')} {value:+.3f} ({interval})")
    by_patient = "" if patients is None else " by patient"
    click.echo(
        f"images that only one run classifies correctly: {found['only_second']} by the second, "
        f"{found['only_first']} by the first; McNemar's p{by_patient} {found['mcnemar_p']:.2g}"
    )
