"""The command manifest."""

from __future__ import annotations

from pathlib import Path

import click
import cloup

from medvlad.cli import options
from medvlad.cli.console import Command, say

__all__ = ["manifest"]


@cloup.command(
    cls=Command,
    examples=[
        "medvlad manifest chest_xray -o chest_xray.csv",
        "medvlad manifest archive --patient '(case[0-9]+)_' -o archive.csv",
    ],
)
@cloup.argument(
    "directory",
    metavar="DIR",
    type=options.PATH,
    help="Folder of images: DIR/CLASS/*, DIR/train/CLASS/*, or any folder of DICOM files.",
)
@cloup.option_group(
    "Most used",
    cloup.option(
        "-o",
        "--output",
        type=options.PATH,
        metavar="TABLE",
        required=True,
        help="Table to write, .csv or .tsv.",
    ),
    cloup.option("--overwrite", is_flag=True, help="Replace an existing table."),
    options.PATIENT,
    cloup.option(
        "--labels/--no-labels",
        default=True,
        show_default=False,
        help="Write the names of class folders as labels, or leave the labels empty.  [default: labels, if "
        "DIR has class folders]",
    ),
    cloup.option(
        "--identifiers",
        is_flag=True,
        help="Write PatientID and InstitutionName of DICOM files as they are. By default patients "
        "are digests and sites are numbers.",
    ),
)
def manifest(
    directory: Path,
    output: Path,
    overwrite: bool,
    group_pattern: str | None,
    labels: bool,
    identifiers: bool,
) -> int:
    """Write a table of images from folders or DICOM headers.

    Other commands take the table instead of the folder. Add columns to it in any spreadsheet program.
    """
    from medvlad._util.validate import check_output_file
    from medvlad.datasets.manifest_writing import make_manifest

    check_output_file(output, "table")
    if output.suffix.lower() not in (".csv", ".tsv"):
        raise click.UsageError(f"--output {output} must end in .csv or .tsv")
    if output.exists() and not overwrite:
        raise click.UsageError(
            f"--output {output} exists, and you may have edited it: name another file, or use --overwrite"
        )
    table = make_manifest(directory, group_pattern=group_pattern, identifiers=identifiers, labels=labels)
    table.write(output)
    click.echo(f"wrote {len(table.rows)} rows with the columns {', '.join(table.columns)}: {output}")
    if table.no_labels is not None:
        say(f"the labels are empty: {table.no_labels}")
    if table.n_dicom and identifiers:
        say("the table contains PatientID and InstitutionName of the DICOM headers")
    elif table.n_dicom:
        say(
            "patients are digests and sites are numbers; names, dates, accession numbers and addresses of "
            "DICOM headers are left out, and ages above 90 are written as 90. Names of files are written "
            "as they are"
        )
    return 0
