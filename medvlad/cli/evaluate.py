"""The command evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import cloup

from medvlad.cli import bag_options, options
from medvlad.cli.answer_options import OPERATING_POINT, POSITIVE, calibration_option
from medvlad.cli.cluster_options import SCHEDULER
from medvlad.cli.console import Command
from medvlad.cli.evaluation_run import RESULT_FILES, run_evaluation
from medvlad.cli.layer_sweep import SWEEP_LAYERS, run_layer_sweep
from medvlad.cli.output import output_folder
from medvlad.cli.report_options import LEARNING_CURVE
from medvlad.cli.run_options import N_SEEDS, run_group
from medvlad.cli.settings import check_store, encodings_of, pseudonyms_of, settings_of
from medvlad.cli.shift_options import AUGMENT
from medvlad.cli.table_options import DATA_OR_URL, GROUP_BY, table_group, table_of

__all__ = ["evaluate"]


@cloup.command(
    cls=Command,
    examples=[
        "medvlad evaluate chest_xray --out results",
        "medvlad evaluate data.csv --image-root scans --preset best",
    ],
)
@DATA_OR_URL
@cloup.option_group(
    "Most used",
    cloup.option(
        "--out",
        type=options.PATH_OR_URL,
        metavar="FOLDER|URL",
        help="Folder for results and an HTML report; created if missing.  [default: only print a table]",
    ),
    options.PRESET,
    cloup.option(
        "--encode",
        metavar="NAME,...",
        help="Encodings to compare: avg, max, gem, vlad64, fisher64, bow1024, second-order. vlad64: 64 "
        "centres. avg+vlad64: both vectors concatenated.  [default: avg,vlad64]",
    ),
    options.MODEL,
    options.WEIGHTS,
    options.SCALE,
    options.PATIENT,
    options.FOLDS,
    options.STORE,
    options.ON_ERROR,
    options.ON_DAMAGE,
)
@cloup.option_group("Data", options.LAYOUT, options.UNKNOWN_PATIENTS, bag_options.POOL_BY)
@table_group()
@options.network_group(options.LAYER)
@options.encoding_group()
@cloup.option_group("Classifier", options.PENALTY, options.CLASS_WEIGHT, AUGMENT, options.MEMORY)
@cloup.option_group(
    "Evaluation",
    GROUP_BY,
    SWEEP_LAYERS,
    calibration_option("none"),
    OPERATING_POINT,
    POSITIVE,
    N_SEEDS,
    options.switch(
        "--adapt-threshold/--no-adapt-threshold",
        help="Also report metrics at a threshold found in the test images without their labels, if their "
        "scores form two clear groups. Needs two classes, neither of them rare, and a test "
        "part.  [default: no; with --preset best or fast: yes, if possible]",
    ),
    LEARNING_CURVE,
)
@cloup.option_group("Output", options.OVERWRITE, options.PICTURES, options.ANONYMISE, options.ANONYMISE_KEY)
@options.advanced_group(SCHEDULER)
@run_group()
def evaluate(
    directory: Path,
    out: Path | None,
    overwrite: bool,
    pictures: bool | None,
    anonymise: bool,
    anonymise_key: Path | None,
    learning_curve: bool,
    sweep_layers: bool,
    scheduler: str | None,
    **settings: Any,
) -> int:
    """Train classifiers and measure their accuracy on held-out images."""
    from medvlad.experiment import Experiment

    encodings, preset = encodings_of(settings), settings["preset"] or "paper"
    check_store(settings["store"], directory)
    settings["table"] = table_of(settings)
    experiment = Experiment(**settings_of(settings))
    if sweep_layers:
        for option, is_given in (("--out", out is not None), ("--learning-curve", learning_curve)):
            if is_given:
                raise click.UsageError(f"--sweep-layers only prints a table: leave {option} out")
        if scheduler is not None:
            raise click.UsageError("--sweep-layers works on this machine only: leave --scheduler out")
        return run_layer_sweep(experiment, directory, encodings, anonymise=anonymise or bool(anonymise_key))
    if learning_curve and experiment.augment != "none":
        raise click.UsageError("--learning-curve trains without shifted copies: leave --augment out")
    anonymous = anonymise or anonymise_key is not None
    with output_folder(
        out, directory, results=RESULT_FILES, overwrite=overwrite, anonymous=anonymous
    ) as output:
        names = pseudonyms_of(anonymise, anonymise_key, None if output is None else output.folder)
        shown = names is None if pictures is None else pictures
        status = run_evaluation(
            experiment,
            directory,
            encodings,
            output,
            preset,
            names=names,
            pictures=shown,
            learning_curve=learning_curve,
            scheduler=scheduler,
        )
        if names is not None and anonymise_key is not None:
            names.write(anonymise_key)
    return status
