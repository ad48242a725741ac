"""The command audit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from medvlad.cli import options
from medvlad.cli.console import Command, say
from medvlad.cli.dataset import load_dataset
from medvlad.cli.output import output_folder
from medvlad.cli.run_options import run_group
from medvlad.cli.settings import check_replaced, check_store, given_options, pseudonyms_of
from medvlad.cli.table_options import DATA_OR_URL, table_group, table_of

if TYPE_CHECKING:
    from medvlad.audit.decisions import Decisions
    from medvlad.audit.run import Audit
    from medvlad.extraction.cnn_descriptors import CNNDescriptors

__all__ = ["audit"]

_RESULTS = ("audit.json", "audit.html", "audit_decisions.html")


@cloup.command(
    cls=Command,
    examples=[
        "medvlad audit chest_xray --out audit",
        "medvlad audit chest_xray --model efficientnet-lite2 --weights bundled --repair repaired.csv",
    ],
)
@DATA_OR_URL
@cloup.option_group(
    "Most used",
    cloup.option(
        "--out",
        type=options.PATH_OR_URL,
        metavar="FOLDER|URL",
        help="Folder for the reports.",
    ),
    options.JSON,
    options.LAYOUT,
    options.PATIENT,
    options.UNKNOWN_PATIENTS,
    cloup.option(
        "--model",
        metavar="NAME",
        help="Network that also finds other views of one scene, and wrong labels: a name of "
        "keras.applications, efficientnet-lite2, onnx:FILE or timm:NAME.  [default: none, pixels only]",
    ),
    options.WEIGHTS,
    options.STORE,
    cloup.option(
        "--repair",
        type=options.PATH,
        metavar="TABLE",
        help="Write a table (.csv or .tsv) in which related images stay together, with parts or folds.",
    ),
    cloup.option(
        "--decisions",
        type=options.PATH,
        metavar="FILE",
        help="Decisions that audit_decisions.html saved, for --repair and for the same page again.",
    ),
)
@table_group()
@cloup.option_group("Network", options.LAYER, options.DTYPE)
@cloup.option_group("Output", options.OVERWRITE, options.PICTURES, options.ANONYMISE, options.ANONYMISE_KEY)
@cloup.option_group("Advanced", options.SEED, options.THREADS)
@run_group()
def audit(
    directory: Path,
    layout: str,
    group_pattern: str | None,
    unknown_patients: str,
    model: str | None,
    weights: str,
    layer: str | None,
    dtype: str,
    store: str | None,
    repair: Path | None,
    decisions: Path | None,
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
    """Find leaks, wrong labels, shortcuts and other defects of images."""
    from medvlad._util.atomic_file import write_file
    from medvlad.audit import audit_summary, run_audit
    from medvlad.audit.decisions import read_decisions
    from medvlad.audit.repair import check_decisions, check_repair
    from medvlad.experiment import Experiment
    from medvlad.report.audit import audit_page
    from medvlad.report.decisions import decision_page, has_questions

    hidden = anonymise or anonymise_key is not None
    if decisions is not None and hidden:
        raise click.UsageError("--decisions holds names of images: leave it or --anonymise out")
    if decisions is not None and repair is None and out is None:
        raise click.UsageError("--decisions is for --repair and for the page in --out: give one of them")
    if repair is not None:
        _check_repair_table(repair, directory, decisions, hidden=hidden, overwrite=overwrite)
    with output_folder(out, directory, results=_RESULTS, overwrite=overwrite, anonymous=hidden) as output:
        names = pseudonyms_of(anonymise, anonymise_key, None if output is None else output.folder)
        answers = None if decisions is None else read_decisions(decisions)
        network = _network(model, weights, layer, dtype, store, directory, threads)
        table = table_of(columns)
        experiment = Experiment(
            layout=layout,
            group_pattern=group_pattern,
            unknown_patients=unknown_patients,
            seed=seed,
            table=table,
        )
        dataset = load_dataset(experiment, directory, anonymise=names is not None)
        root = _root(directory, table.image_root)
        if repair is not None:
            check_repair(dataset, root, answers)
        elif answers is not None:
            check_decisions(dataset, answers)
        done = run_audit(
            dataset, network=network, random_state=seed, n_threads=threads, names=names, decisions=answers
        )
        found = done.found
        if names is not None and anonymise_key is not None:
            names.write(anonymise_key)
        text = json.dumps(found, indent=2, allow_nan=False)
        click.echo(text if as_json else audit_summary(found))
        if output is not None:
            write_file(output.folder / "audit.json", f"{text}\n".encode(), "audit")
            shown = names is None if pictures is None else pictures
            page = audit_page(found, names=names, pictures=shown).write(output.folder / "audit.html")
            if not as_json:
                click.echo(output.shown(f"All findings: {output.folder / 'audit.json'}; report: {page}"))
            (output.folder / "audit_decisions.html").unlink(missing_ok=True)
            if names is None and has_questions(found):
                asked = decision_page(found, decisions=answers, pictures=shown)
                asked.write(output.folder / "audit_decisions.html")
                say(
                    output.shown(
                        f"questions about pairs and labels: {output.folder / 'audit_decisions.html'}"
                    )
                )
        if repair is not None:
            _write_repair(done, repair, root, answers, seed)
    return 1 if found["n_read"] < found["n_images"] else 0


def _check_repair_table(
    path: Path, directory: Path, decisions: Path | None, *, hidden: bool, overwrite: bool
) -> None:
    from medvlad._util.object_path import ObjectPath
    from medvlad._util.validate import check_output_file

    if isinstance(directory, ObjectPath):
        raise click.UsageError(f"--repair needs images on this machine, got {directory}: copy or mount them")
    if hidden:
        raise click.UsageError("--repair writes names of images: leave it or --anonymise out")
    if path.suffix.lower() not in (".csv", ".tsv"):
        raise click.UsageError(f"--repair {path} must end in .csv or .tsv")
    for name in (directory, decisions):
        if name is not None and path.exists() and name.exists() and path.samefile(name):
            raise click.UsageError(f"--repair {path} is one of the inputs: choose another name")
    check_output_file(path, "table")
    check_replaced(path, "--repair", overwrite=overwrite)


def _network(
    model: str | None,
    weights: str,
    layer: str | None,
    dtype: str,
    store: str | None,
    directory: Path,
    threads: int | None,
) -> CNNDescriptors | None:
    """Return the network. None: the audit looks at pixels only."""
    from medvlad.extraction.cnn_descriptors import CNNDescriptors
    from medvlad.extraction.keras_startup import start_keras
    from medvlad.extraction.parameters import check_parameters

    if model is None:
        without_use = given_options("weights", "layer", "dtype", "store")
        if without_use:
            raise click.UsageError(f"{without_use[0]} is for a network: name one with --model")
        return None
    check_store(store, directory)
    network = CNNDescriptors(
        model,
        layer,
        weights=weights,
        dtype=dtype,  # type: ignore[arg-type]
        store=store,
        output="host" if store is None else "store",
        n_threads=threads,
    )
    check_parameters(network)
    start_keras(model)
    return network


def _root(directory: Path, image_root: str | None) -> Path:
    """Return the folder that the paths of a table are relative to."""
    if image_root:
        return Path(image_root)
    return directory if directory.is_dir() else directory.parent


def _write_repair(done: Audit, path: Path, root: Path, answers: Decisions | None, seed: int) -> None:
    from medvlad.audit.repair import repaired

    repair = repaired(done, root, answers, random_state=seed)
    repair.table.write(path)
    lines = [f"{repair.n_grouped} images are in {repair.n_groups} groups that stay together"]
    if done.dataset.splits is not None:
        lines.append(f"{repair.n_moved} images moved to the other part")
    elif repair.n_folds == 0:
        lines.append("no folds, because a class has a single group")
    else:
        replaced = " replace those of the table" if done.dataset.folds is not None else ""
        lines.append(f"{repair.n_folds} folds{replaced}")
    if repair.n_left_out:
        lines.append(f"{repair.n_left_out} images with a wrong label are left out")
    say(f"repaired: {'; '.join(lines)}")
    say(f"use it: medvlad evaluate {path} --image-root {root}")
