"""The command evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cloup

from medvlad.cli import options
from medvlad.cli.answer_options import OPERATING_POINT, POSITIVE, calibration_option
from medvlad.cli.console import Command
from medvlad.cli.evaluation_run import RESULT_FILES, run_evaluation
from medvlad.cli.settings import check_store, encodings_of, pseudonyms_of, settings_of

__all__ = ["evaluate"]


@cloup.command(
    cls=Command,
    examples=[
        "medvlad evaluate chest_xray --out results",
        "medvlad evaluate chest_xray --preset best --patient '(person[0-9]+)_'",
    ],
)
@options.DIRECTORY
@cloup.option_group(
    "Most used",
    cloup.option(
        "--out",
        type=options.PATH,
        metavar="FOLDER",
        help="Folder for results and an HTML report; created if missing.  [default: only print a table]",
    ),
    options.PRESET,
    cloup.option(
        "--encode",
        metavar="NAME,...",
        help="Encodings to compare: avg, max, gem, vlad64, fisher64, bow1024, second-order. vlad64: 64 "
        "centres. avg+vlad64: both vectors concatenated.  [default: avg,vlad64; with --preset best: vlad64]",
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
@cloup.option_group("Data", options.LAYOUT, options.UNKNOWN_PATIENTS)
@options.network_group(options.LAYER)
@options.encoding_group()
@cloup.option_group("Classifier", options.PENALTY, options.CLASS_WEIGHT)
@cloup.option_group(
    "Evaluation",
    calibration_option("none", "[default: none; with --preset best: platt]"),
    OPERATING_POINT,
    POSITIVE,
    options.switch(
        "--adapt-threshold/--no-adapt-threshold",
        help="Also report metrics at a threshold found in the test images without their labels, if their "
        "scores form two clear groups. Needs two classes, neither of them rare, and a test "
        "part.  [default: no; with --preset best: yes if possible]",
    ),
)
@cloup.option_group("Output", options.OVERWRITE, options.PICTURES, options.ANONYMISE, options.ANONYMISE_KEY)
@options.advanced_group()
def evaluate(
    directory: Path,
    out: Path | None,
    overwrite: bool,
    pictures: bool | None,
    anonymise: bool,
    anonymise_key: Path | None,
    **settings: Any,
) -> int:
    """Train classifiers and measure their accuracy on held-out images."""
    from medvlad._util.validate import make_output_folder
    from medvlad.experiment import Experiment

    encodings, preset = encodings_of(settings), settings["preset"] or "paper"
    check_store(settings["store"], directory)
    experiment = Experiment(**settings_of(settings))
    if out is not None:
        keeps = not (overwrite or anonymise or anonymise_key)  # pseudonyms need an empty folder anyway
        make_output_folder(out, "--out", directory, results=RESULT_FILES, overwrite=not keeps)
    names = pseudonyms_of(anonymise, anonymise_key, out)
    shown = names is None if pictures is None else pictures
    status = run_evaluation(experiment, directory, encodings, out, preset, names=names, pictures=shown)
    if names is not None and anonymise_key is not None:
        names.write(anonymise_key)
    return status
