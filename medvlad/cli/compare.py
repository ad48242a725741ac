"""The command compare: two runs on the same images."""

from __future__ import annotations

import json
from pathlib import Path

import click

from medvlad._util.validate import InputError
from medvlad.cli.options import PATH

__all__ = ["compare"]


@click.command()
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@click.option("--encode", help="Encoding of both, or of each: avg,vlad64 [default: the only one].")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(first: Path, second: Path, encode: str | None, seed: int, as_json: bool) -> None:
    """Say whether the run in SECOND is better than that in FIRST (folders of evaluate --out)."""
    from medvlad.evaluation.compare_runs import compare_runs

    encodings: tuple[str | None, str | None] = (None, None)
    if encode is not None:
        one, _, other = encode.partition(",")
        if not one or other.count(","):
            raise InputError(f"--encode takes one encoding, or two with a comma between, got {encode!r}")
        encodings = one, other or one
    found = compare_runs(first, second, encodings=encodings, random_state=seed)
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
        f"right alone: {found['only_second']} and {found['only_first']} images, McNemar's p "
        f"{found['mcnemar_p']:.2g}"
    )
