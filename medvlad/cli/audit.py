"""The command audit: what is wrong with a data set before anything is trained on it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from medvlad._util.atomic_file import write_file
from medvlad._util.validate import check_output_file, make_output_folder
from medvlad.cli.options import PATH, anonymise_options, layout_option, pseudonyms_of

__all__ = ["audit"]


@click.command()
@click.argument("directory", metavar="DIR", type=PATH)
@layout_option
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of folds and draws.")
@click.option("--threads", type=int, help="Threads of this machine [default: all processors].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--out", type=PATH, help="Folder for audit.json and audit.html.")
@click.option(
    "--pictures/--no-pictures",
    default=None,
    help="Pictures of images in audit.html [default: yes, but with --anonymise no].",
)
@anonymise_options
def audit(
    directory: Path,
    layout: str,
    group_pattern: str | None,
    seed: int,
    threads: int | None,
    as_json: bool,
    out: Path | None,
    pictures: bool | None,
    anonymise: bool,
    anonymise_key: Path | None,
) -> int:
    """Look for leaks, copies, shortcuts and other defects of the images in DIR."""
    from medvlad.audit import audit as look
    from medvlad.audit import audit_summary
    from medvlad.experiment import Experiment
    from medvlad.report.audit import audit_page

    if out is not None:
        make_output_folder(out, "--out", directory)
        check_output_file(out / "audit.json", "audit")
    names = pseudonyms_of(anonymise, anonymise_key, out)
    dataset = Experiment(layout=layout, group_pattern=group_pattern, seed=seed).load(directory)
    found = look(dataset, random_state=seed, n_threads=threads, names=names)
    if names is not None and anonymise_key is not None:
        names.write(anonymise_key)
    text = json.dumps(found, indent=2, allow_nan=False)
    click.echo(text if as_json else audit_summary(found))
    if out is not None:
        write_file(out / "audit.json", f"{text}\n".encode(), "audit")
        shown = names is None if pictures is None else pictures
        page = audit_page(found, names=names, pictures=shown).write(out / "audit.html")
        if not as_json:
            click.echo(f"Everything: {out / 'audit.json'}; to look at: {page}")
    return 1 if found["n_read"] < found["n_images"] else 0
