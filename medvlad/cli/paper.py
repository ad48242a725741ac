"""The command paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import cloup

from medvlad.cli import options
from medvlad.cli.console import Command, list_damaged, list_skipped
from medvlad.cli.run_options import N_SEEDS
from medvlad.cli.settings import pseudonyms_of, settings_of

__all__ = ["paper"]

_SETS = ("mini-mit", "chest-xray", "kvasir-v2")


@cloup.command(
    cls=Command,
    examples=[
        "medvlad paper --chest-xray chest_xray --out paper",
        "medvlad paper --like-mini-mit rooms --scale 0,1 --store descriptors",
    ],
)
@cloup.option_group(
    "Data",
    cloup.option(
        "--mini-mit", type=options.PATH, metavar="DIR", help="MIT Indoor-67; three classes are used."
    ),
    cloup.option(
        "--chest-xray", type=options.PATH, metavar="DIR", help="Paediatric chest X-rays, train and test."
    ),
    cloup.option("--kvasir-v2", type=options.PATH, metavar="DIR", help="Kvasir v2."),
    cloup.option(
        "--like-mini-mit", type=options.PATH, metavar="DIR", help="Other images in place of Mini MIT."
    ),
    cloup.option(
        "--like-chest-xray",
        type=options.PATH,
        metavar="DIR",
        help="Other images in place of the chest X-rays.",
    ),
    cloup.option(
        "--like-kvasir-v2", type=options.PATH, metavar="DIR", help="Other images in place of Kvasir v2."
    ),
    options.UNKNOWN_PATIENTS,
    options.ON_ERROR,
    options.ON_DAMAGE,
)
@cloup.option_group(
    "Output",
    cloup.option("--out", type=options.PATH, metavar="FOLDER", help="Folder for paper.json and paper.html."),
    options.OVERWRITE,
    cloup.option(
        "--anonymise",
        is_flag=True,
        help="Replace names of files by random digests, and leave out folder names.",
    ),
)
@cloup.option_group(
    "Scales",
    cloup.option(
        "--scale",
        metavar="S,...",
        default="0,1,2",
        callback=options.read_scales,
        help="Columns of the first table. Scale s is an input of 224 + 320 s pixels.",
    ),
    cloup.option(
        "--vlad-scale",
        metavar="S,...",
        default="0",
        callback=options.read_scales,
        help="Scales whose descriptors VLAD pools. The paper does not state them.",
    ),
)
@options.network_group(options.MODEL, options.LAYER, options.WEIGHTS, options.STORE)
@options.encoding_group()
@cloup.option_group("Classifier", options.PRESET, options.PENALTY, options.CLASS_WEIGHT)
@cloup.option_group("Evaluation", options.FOLDS, N_SEEDS)
@options.advanced_group()
def paper(
    scale: tuple[int, ...],
    vlad_scale: tuple[int, ...],
    out: Path | None,
    overwrite: bool,
    anonymise: bool,
    **settings: Any,
) -> int:
    """Reproduce the two tables of the paper by Farhat and Sicre.

    Each data set that you name fills its cells of the tables. 'medvlad fetch' downloads them.
    """
    from medvlad._util.atomic_file import write_file
    from medvlad._util.validate import check_output_file, make_output_folder
    from medvlad.datasets.pseudonyms import anonymise_results
    from medvlad.experiment import Experiment
    from medvlad.extraction.keras_startup import start_keras
    from medvlad.report.paper import Role, paper_page, paper_tables, paper_text

    roles = []
    for name in _SETS:
        for stands_in, prefix in ((False, ""), (True, "like_")):
            root = settings.pop(prefix + name.replace("-", "_"))
            if root is not None:
                roles.append(Role(name, root, stands_in, anonymous=anonymise))
    if out is not None:
        make_output_folder(
            out,
            "--out",
            *(role.root for role in roles),
            results=["paper.json", "paper.html"],
            overwrite=overwrite or anonymise,
        )
        check_output_file(out / "paper.json", "results")
    names = pseudonyms_of(anonymise, None, out)
    settings["scale"] = vlad_scale
    experiment = Experiment(**settings_of(settings))
    start_keras(experiment.model)
    found = paper_tables(roles, experiment, scales=scale, vlad_scales=vlad_scale)
    if names is not None:
        for run in found["runs"]:
            anonymise_results(run, names)
    click.echo(paper_text(found))
    model = found["runs"][0]["settings"]["model"]
    if model != "vgg19":
        click.echo(f"The network is {model}, not the paper's VGG19.")
    if any(role.stands_in for role in roles):
        click.echo("A set that is 'for' another is a stand-in: other images than the paper's.")
    if out is not None:
        path = out / "paper.json"
        write_file(path, (json.dumps(found, indent=2, allow_nan=False) + "\n").encode(), "results")
        page = paper_page(found).write(out / "paper.html")
        click.echo(f"Results, settings and versions: {path}; report: {page}")
    list_damaged(list({one["image"]: one for run in found["runs"] for one in run["damaged"]}.values()))
    skipped = {one["image"]: one for run in found["runs"] for one in run["skipped"]}
    return list_skipped(list(skipped.values()))
