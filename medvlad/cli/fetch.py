"""The command fetch."""

from __future__ import annotations

from pathlib import Path

import click
import cloup

from medvlad.cli import options
from medvlad.cli.console import Command

__all__ = ["fetch"]


@cloup.command(cls=Command, examples=["medvlad fetch --list", "medvlad fetch chest-xray --to chest_xray"])
@cloup.argument("name", required=False, help="Name of the data set.")
@cloup.option("--list", "listed", is_flag=True, help="List the data sets with size and licence.")
@cloup.option(
    "--to",
    "folder",
    type=options.PATH,
    metavar="FOLDER",
    help="Folder for the images.  [default: a folder NAME here]",
)
@cloup.option(
    "--archive",
    type=options.PATH,
    metavar="FILE",
    help="Archive that you have downloaded yourself. None: it is downloaded.",
)
@cloup.option(
    "--sha256",
    metavar="DIGEST",
    help="SHA-256 that the archive must have.  [default: that of the publisher, if there is one]",
)
def fetch(
    name: str | None, listed: bool, folder: Path | None, archive: Path | None, sha256: str | None
) -> None:
    """Download, check and unpack a published data set.

    Needs the extra 'fetch'.
    """
    from medvlad.datasets.download import REMOTE
    from medvlad.datasets.download import fetch as fetch_dataset

    if listed:
        for known, remote in REMOTE.items():
            checksum = "published" if any(file.sha256 for file in remote.files) else "none published"
            click.echo(f"{known}: {remote.title}")
            click.echo(f"  {remote.size}; licence: {remote.licence}; checksum: {checksum}")
            click.echo(f"  {remote.home}{'' if remote.files else '; by hand: ' + remote.by_hand}")
        return
    if name is None:
        raise click.UsageError("name a data set; 'medvlad fetch --list' lists them")
    got = fetch_dataset(name, folder, archive=archive, sha256=sha256)
    what = f"{len(got.dataset)} images of {len(got.dataset.class_names)} classes"
    click.echo(f"{got.root}: {what}{'' if got.is_new else ', already there'}")
    for file, digest in got.sha256.items():
        click.echo(f"SHA-256 of {file}: {digest}")
    click.echo(f"Next: medvlad evaluate {got.root} --layout {REMOTE[name].layout}")
