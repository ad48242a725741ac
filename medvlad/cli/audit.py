"""The command audit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import cloup

from medvlad.cli import options
from medvlad.cli.console import Command
from medvlad.cli.dataset import load_dataset
from medvlad.cli.run_options import run_group
from medvlad.cli.settings import pseudonyms_of
from medvlad.cli.table_options import DATA, table_group, table_of

__all__ = ["audit"]


@cloup.command(
    cls=Command,
    examples=[
        "medvlad audit chest_xray --out audit",
        "medvlad audit chest_xray --patient '(person[0-9]+)_' --json",
    ],
)
@DATA
@cloup.option_group(
    "Most used",
    cloup.option("--out", type=options.PATH, metavar="FOLDER", help="Folder for audit.json and audit.html."),
    options.JSON,
    options.LAYOUT,
    options.PATIENT,
    options.UNKNOWN_PATIENTS,
)
@table_group()
@cloup.option_group("Output", options.OVERWRITE, options.PICTURES, options.ANONYMISE, options.ANONYMISE_KEY)
@cloup.option_group("Advanced", options.SEED, options.THREADS)
@run_group()
def audit(
    directory: Path,
    layout: str,
    group_pattern: str | None,
    unknown_patients: str,
    seed: int,
    threads: int | None,
    as_json: bool,
    out: Path | None,
    overwrite: bool,
    pictures: bool | None,
    anonymise: bool,
    anonymise_key: Path | None,
    **columns: Any,
) -> int:
    """Find leaks, copies, shortcuts and other defects of images."""
    from medvlad._util.atomic_file import write_file
    from medvlad._util.validate import check_output_file, make_output_folder
    from medvlad.audit import audit as audit_images
    from medvlad.audit import audit_summary
    from medvlad.experiment import Experiment
    from medvlad.report.audit import audit_page

    if out is not None:
        # With pseudonyms the folder must be empty, whatever --overwrite says.
        replaced = overwrite or anonymise or anonymise_key is not None
        make_output_folder(out, "--out", directory, results=["audit.json", "audit.html"], overwrite=replaced)
        check_output_file(out / "audit.json", "audit")
    names = pseudonyms_of(anonymise, anonymise_key, out)
    experiment = Experiment(
        layout=layout,
        group_pattern=group_pattern,
        unknown_patients=unknown_patients,
        seed=seed,
        table=table_of(columns),
    )
    dataset = load_dataset(experiment, directory, anonymise=names is not None)
    found = audit_images(dataset, random_state=seed, n_threads=threads, names=names)
    if names is not None and anonymise_key is not None:
        names.write(anonymise_key)
    text = json.dumps(found, indent=2, allow_nan=False)
    click.echo(text if as_json else audit_summary(found))
    if out is not None:
        write_file(out / "audit.json", f"{text}\n".encode(), "audit")
        shown = names is None if pictures is None else pictures
        page = audit_page(found, names=names, pictures=shown).write(out / "audit.html")
        if not as_json:
            click.echo(f"All findings: {out / 'audit.json'}; report: {page}")
    return 1 if found["n_read"] < found["n_images"] else 0
