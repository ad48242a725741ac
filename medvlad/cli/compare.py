"""The command compare: two runs on the same images."""

from __future__ import annotations

import json
from pathlib import Path

import click

from medvlad._validate import InputError
from medvlad.cli.options import PATH

__all__ = ["compare"]


@click.command()
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@click.option("--encode", help="Encodings of both, such as avg,vlad64 [default: the only one of each].")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(first: Path, second: Path, encode: str | None, seed: int, as_json: bool) -> None:
    """Say whether the run in SECOND is better than that in FIRST (folders of evaluate --out)."""
    from medvlad.comparison import compare_runs

    encodings: tuple[str | None, str | None] = (None, None)
    if encode is not None:
        one, _, other = encode.partition(",")
        if not one or not other:
            raise InputError(f"--encode takes two encodings with a comma between, got {encode!r}")
        encodings = one, other
    found = compare_runs(first, second, encodings=encodings, random_state=seed)
    if as_json:
        click.echo(json.dumps(found, indent=2, allow_nan=False))
        return
    low, high = found["difference_ci95"]["accuracy"]
    drawn = "images" if found["n_patients"] is None else f"{found['n_patients']} patients"
    click.echo(
        f"{second} against {first}, {found['n_images']} images: accuracy {found['difference']:+.3f} "
        f"({low:+.3f} to {high:+.3f}, 95 %, by {drawn})"
    )
    for name in ("balanced_accuracy", "auc"):
        ends = found["difference_ci95"][name]
        if ends is not None:
            click.echo(f"{name.replace('_', ' ')}: {ends[0]:+.3f} to {ends[1]:+.3f}")
    click.echo(
        f"right alone: {found['only_second']} and {found['only_first']} images, McNemar's p "
        f"{found['mcnemar_p']:.2g}"
    )
