"""The command fetch: the paper's data sets from their homes."""

from __future__ import annotations

from pathlib import Path

import click

from medvlad._util.validate import InputError
from medvlad.cli.options import PATH

__all__ = ["fetch"]


@click.command()
@click.argument("name", required=False)
@click.option("--list", "listed", is_flag=True, help="Say what can be fetched.")
@click.option("--to", "folder", type=PATH, help="Where it is wanted [default: a folder NAME here].")
@click.option("--archive", type=PATH, help="The archive, downloaded otherwise.")
@click.option("--sha256", help="What the archive's must be.")
def fetch(
    name: str | None, listed: bool, folder: Path | None, archive: Path | None, sha256: str | None
) -> None:
    """Download the data set NAME, check and unpack it (extra 'fetch')."""
    from medvlad.datasets.download import REMOTE
    from medvlad.datasets.download import fetch as get

    if listed:
        for known, remote in REMOTE.items():
            stated = "stated" if any(file.sha256 for file in remote.files) else "none stated"
            click.echo(
                f"{known}: {remote.title}\n  {remote.size}; licence: {remote.licence}; checksum: {stated}"
            )
            click.echo(f"  {remote.home}{'' if remote.files else '; by hand: ' + remote.by_hand}")
        return
    if name is None:
        raise InputError("name a data set; medvlad fetch --list says which there are")
    got = get(name, folder, archive=archive, sha256=sha256)
    what = f"{len(got.dataset)} images of {len(got.dataset.class_names)} classes"
    click.echo(f"{got.root}: {what}{'' if got.is_new else ', already there'}")
    for file, digest in got.sha256.items():
        click.echo(f"SHA-256 of {file}: {digest}")
    click.echo(f"Next: medvlad evaluate {got.root} --layout {REMOTE[name].layout}")
