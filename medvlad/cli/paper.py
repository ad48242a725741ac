"""The command paper: the tables of Farhat & Sicre."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from medvlad._util.atomic_file import write_file
from medvlad._util.validate import check_output_file, make_output_folder
from medvlad.cli.console import list_skipped
from medvlad.cli.options import (
    PATH,
    learning_options,
    network_options,
    numbers,
    on_error_option,
    pseudonyms_of,
    settings_of,
)
from medvlad.extraction.keras_startup import start_keras

__all__ = ["paper"]

_SETS = ("mini-mit", "chest-xray", "kvasir-v2")


@click.command()
@click.option("--mini-mit", type=PATH, metavar="DIR", help="MIT Indoor-67, of which three classes are taken.")
@click.option("--chest-xray", type=PATH, metavar="DIR", help="Paediatric chest X-rays, train and test.")
@click.option("--kvasir-v2", type=PATH, metavar="DIR", help="Kvasir v2.")
@click.option("--like-mini-mit", type=PATH, metavar="DIR", help="Other images in Mini MIT's place.")
@click.option("--like-chest-xray", type=PATH, metavar="DIR", help="Other images in chest X-ray's place.")
@click.option("--like-kvasir-v2", type=PATH, metavar="DIR", help="Other images in Kvasir v2's place.")
@click.option(
    "--scale",
    default="0,1,2",
    show_default=True,
    help="Columns of the first table: scale s is an input of 224 + 320 s pixels.",
)
@click.option(
    "--vlad-scale",
    default="0",
    show_default=True,
    help="Scales whose descriptors go into VLAD together; the paper does not say.",
)
@network_options
@learning_options
@click.option(
    "--folds", type=int, default=5, show_default=True, help="Cross-validation where there is no test part."
)
@on_error_option
@click.option("--out", type=PATH, help="Folder for paper.json and paper.html.")
@click.option("--anonymise", is_flag=True, help="Digests for names of files, no names of folders.")
def paper(scale: str, vlad_scale: str, out: Path | None, anonymise: bool, **options: Any) -> int:
    """Fill the two tables of the paper, cell by cell, for the data sets that are at hand."""
    from medvlad.datasets.pseudonyms import anonymise_results
    from medvlad.experiment import Experiment
    from medvlad.report.paper import Role, paper_page, paper_tables, paper_text

    roles = []
    for name in _SETS:
        for stands_in, prefix in ((False, ""), (True, "like_")):
            root = options.pop(prefix + name.replace("-", "_"))
            if root is not None:
                roles.append(Role(name, root, stands_in, anonymous=anonymise))
    if out is not None:
        make_output_folder(out, "--out", *(role.root for role in roles))
        check_output_file(out / "paper.json", "results")
    names = pseudonyms_of(anonymise, None, out)
    options["scale"] = vlad_scale
    experiment = Experiment(**settings_of(options))
    start_keras()
    found = paper_tables(
        roles, experiment, scales=numbers(scale, "--scale"), vlad_scales=numbers(vlad_scale, "--vlad-scale")
    )
    if names is not None:
        for run in found["runs"]:
            anonymise_results(run, names)
    click.echo(paper_text(found))
    settings = found["runs"][0]["settings"]
    if settings["model"] != "vgg19":
        click.echo(f"Of {settings['model']}, not of the paper's VGG19.")
    if any(role.stands_in for role in roles):
        click.echo("A set that is 'for' another is a stand-in: other images than the paper's.")
    if out is not None:
        path = out / "paper.json"
        write_file(path, (json.dumps(found, indent=2, allow_nan=False) + "\n").encode(), "results")
        page = paper_page(found).write(out / "paper.html")
        click.echo(f"Everything, with settings and versions: {path}; to look at: {page}")
    skipped = {one["image"]: one for run in found["runs"] for one in run["skipped"]}
    return list_skipped(list(skipped.values()))
