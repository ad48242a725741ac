"""The command external."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import cloup

from medvlad._util.text_table import printable
from medvlad.cli import bag_options, options
from medvlad.cli.answer_options import POSITIVE
from medvlad.cli.console import Command, collected_warnings, list_damaged, list_skipped
from medvlad.cli.dataset import load_dataset
from medvlad.cli.evaluation_run import RESULT_FILES, add_origin, write_evaluation
from medvlad.cli.model_network import check_weights_of, start_if_needed
from medvlad.cli.output import output_folder
from medvlad.cli.run_options import run_group
from medvlad.cli.settings import check_store, on_error_of, pseudonyms_of
from medvlad.cli.table_options import DATA_OR_URL, table_group, table_of

__all__ = ["external"]


@cloup.command(
    cls=Command,
    examples=[
        "medvlad external xray.model other_hospital",
        "medvlad external xray.model other_hospital --out external",
        "medvlad external slides.model slides.csv --image-root features --pool-by patient",
    ],
)
@cloup.argument("model", type=options.PATH_OR_URL, help="Model file of 'medvlad train'.")
@DATA_OR_URL
@cloup.option_group(
    "Most used",
    cloup.option(
        "--out",
        type=options.PATH_OR_URL,
        metavar="FOLDER|URL",
        help="Folder for results and an HTML report.",
    ),
    POSITIVE,
    options.WEIGHTS_OF_MODEL,
    options.PATIENT,
    options.STORE,
    options.ON_ERROR,
    options.ON_DAMAGE,
    options.JSON,
)
@cloup.option_group("Data", options.LAYOUT, options.UNKNOWN_PATIENTS, bag_options.POOL_BY)
@table_group()
@cloup.option_group("Output", options.OVERWRITE, options.PICTURES, options.ANONYMISE, options.ANONYMISE_KEY)
@cloup.option_group("Advanced", options.SEED)
@run_group()
def external(
    model: Path,
    directory: Path,
    out: Path | None,
    positive: str | None,
    weights: str | None,
    group_pattern: str | None,
    store: str | None,
    on_error: str,
    on_damage: str,
    as_json: bool,
    layout: str,
    unknown_patients: str,
    pool_by: str | None,
    overwrite: bool,
    pictures: bool | None,
    anonymise: bool,
    anonymise_key: Path | None,
    seed: int,
    **columns: Any,
) -> int:
    """Test a trained model on labelled images from elsewhere.

    All images are used, also those of a training part. Nothing is fitted. A
    model of feature files takes feature files.
    """
    from medvlad.experiment import Experiment
    from medvlad.external import check_classes, check_task, check_wanted, needing_classes, validate
    from medvlad.models.model_file import load_model, model_card, task_of_file

    check_wanted(columns["task"])
    check_task(task_of_file(model))
    check_weights_of(model, weights)
    check_store(store, directory)
    anonymous = anonymise or anonymise_key is not None
    with output_folder(
        out, directory, results=RESULT_FILES, overwrite=overwrite, anonymous=anonymous
    ) as output:
        names = pseudonyms_of(anonymise, anonymise_key, None if output is None else output.folder)
        experiment = Experiment(
            layout=layout,
            group_pattern=group_pattern,
            unknown_patients=unknown_patients,
            pool_by=pool_by,
            positive=positive,
            seed=seed,
            table=table_of(columns),
        )
        header = model_card(model)
        with collected_warnings() as warned:
            with needing_classes():
                dataset = load_dataset(experiment, directory, anonymise=names is not None)
            bag_options.uses_network(dataset)
            bag_options.takes_bags(model, [str(dataset.paths[0])])
            check_classes(dataset, [str(name) for name in header["classes"]])
            start_if_needed(model)
            evaluation = validate(
                load_model(model, weights=weights),
                dataset,
                name=str(header["card"].get("encode", "model")),
                positive=positive,
                on_error=on_error_of(on_error),
                on_damage=on_error_of(on_damage),
                store=store,
                random_state=seed,
            )
        results = evaluation.results
        results["external"]["model"] = model.name
        add_origin(results, directory, dataset, warned, names)
        if names is not None and anonymise_key is not None:
            names.write(anonymise_key)
        if as_json:
            click.echo(json.dumps(results, indent=2, allow_nan=False))
        else:
            _print(results)
        if output is not None:
            shown = names is None if pictures is None else pictures
            for line in write_evaluation(evaluation, output, names, shown):
                if not as_json:
                    click.echo(line)
    list_damaged(results["damaged"])
    return list_skipped(results["skipped"])


def _print(results: dict[str, Any]) -> None:
    """Print the metrics, and the shares of the classes."""
    from medvlad._util.text_table import text_table
    from medvlad.report.external import external_lines, share_rows

    for line in external_lines(results):
        click.echo(printable(line))
    header, rows = share_rows(results)
    if rows:
        click.echo("\n" + text_table(header, rows))
