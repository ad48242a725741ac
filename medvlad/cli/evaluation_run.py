"""Evaluation as the commands evaluate and demo run it: score, print a summary, write the files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from logging import LogRecord
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medvlad._util.text_table import printable
from medvlad.cli.bag_options import uses_network
from medvlad.cli.console import collected_warnings, list_damaged, list_skipped
from medvlad.cli.dataset import load_dataset
from medvlad.cli.output import Output
from medvlad.cli.targets_summary import targets_summary
from medvlad.cli.workers import chosen_workers

if TYPE_CHECKING:
    from medvlad.datasets.folders import ImageFolder
    from medvlad.datasets.pseudonyms import Pseudonyms
    from medvlad.experiment import Evaluation, Experiment

__all__ = ["RESULT_FILES", "add_origin", "run_evaluation", "write_evaluation"]

#: What an evaluation writes into its folder. In object storage the first file is put last.
RESULT_FILES = ("results.json", "predictions.csv", "report.html")


def run_evaluation(
    experiment: Experiment,
    directory: Path,
    encodings: list[str],
    out: Output | None,
    preset: str | None = None,
    *,
    names: Pseudonyms | None = None,
    pictures: bool = True,
    learning_curve: bool = False,
    scheduler: str | None = None,
) -> int:
    """Evaluate encodings of the images in a folder.

    Parameters
    ----------
    experiment : Experiment
        All settings.
    directory : Path
        Folder or table of images.
    encodings : list of str
        Names of encodings, such as "avg" and "vlad64".
    out : Output or None
        Folder for `RESULT_FILES`. None: nothing is written.
    preset : str or None
        Name of the preset, for the results. None: no preset.
    names : Pseudonyms or None
        Pseudonyms of files and patients. None: the real names are written.
    pictures : bool, default=True
        Show images in the report.
    learning_curve : bool, default=False
        Also train on subsets of the training images.
    scheduler : str or None, default=None
        Address of a Dask scheduler. None: this process does all work.

    Returns
    -------
    int
        Exit status.
    """
    from medvlad.evaluation.learning_curve import add_learning_curves, check_for_curve
    from medvlad.evaluation.metrics import fold_table
    from medvlad.extraction.auto_dtype import arithmetic_in_words
    from medvlad.extraction.keras_startup import start_keras

    with collected_warnings() as warned:
        dataset = load_dataset(experiment, directory, anonymise=names is not None)
        experiment.check_encodings(encodings)
        if learning_curve:
            check_for_curve(dataset)
        if uses_network(dataset):
            start_keras(experiment.model)
        with chosen_workers(scheduler, experiment, dataset) as workers:
            evaluation = experiment.evaluate(dataset, encodings, workers=workers)
        if learning_curve:
            add_learning_curves(
                evaluation.results,
                evaluation.descriptors,
                evaluation.dataset,
                evaluation.decided,
                random_state=experiment.seed,
            )
    report = evaluation.results
    report["settings"]["preset"] = preset
    add_origin(report, directory, dataset, warned, names)
    summary = _summary if dataset.task == "classes" else targets_summary
    table, *lines = summary(report, has_test_part=dataset.splits is not None)
    click.echo(table)
    for one in report["results"]:
        if "per_fold" in one:
            click.echo(fold_table(one))
    for line in lines:
        click.echo(printable(line))
    if experiment.dtype == "auto" and evaluation.extractor is not None:
        click.echo(arithmetic_in_words(evaluation.extractor))
    if out is not None:
        for line in write_evaluation(evaluation, out, names, pictures):
            click.echo(line)
    list_damaged(report["damaged"])
    return list_skipped(report["skipped"])


def add_origin(
    results: dict[str, Any],
    directory: Path,
    dataset: ImageFolder,
    warned: Sequence[LogRecord],
    names: Pseudonyms | None,
) -> None:
    """Add the folder and the warnings of a run to its results. With `names`, all names become pseudonyms."""
    from medvlad.datasets.pseudonyms import anonymise_results, anonymise_warning
    from medvlad.evaluation.subgroups import anonymise_subgroups

    results["dataset"]["root"] = str(directory)
    results["warnings"] = [one.getMessage() for one in warned]
    if names is not None:
        anonymise_results(results, names)
        anonymise_subgroups(results)
        results["warnings"] = [anonymise_warning(one.msg, one.args, dataset, names) for one in warned]


def write_evaluation(
    evaluation: Evaluation, out: Output, names: Pseudonyms | None, pictures: bool
) -> Iterator[str]:
    """Write the files of an evaluation, and yield a line about each step."""
    from medvlad._util.atomic_file import write_file
    from medvlad._util.validate import MissingExtraError
    from medvlad.report import write_predictions, write_report

    path, table = out.folder / "results.json", out.folder / "predictions.csv"
    write_file(path, (json.dumps(evaluation.results, indent=2, allow_nan=False) + "\n").encode(), "results")
    write_predictions(evaluation, table, names=names)
    yield out.shown(f"Results, settings, versions and times: {path}; held-out predictions: {table}")
    try:
        page = write_report(evaluation, out.folder, names=names, pictures=pictures)
        lists = out.folder / "checklist.md"
        yield out.shown(f"Report: {page}" + (f"; check-lists for a paper: {lists}" if lists.exists() else ""))
    except MissingExtraError as error:
        yield f"No report.html was written: {error}"


def _summary(report: dict[str, Any], *, has_test_part: bool) -> Iterator[str]:
    """Yield the table of metrics, and lines that explain it."""
    from medvlad.datasets.describe import patients_in_words, units_in_words
    from medvlad.evaluation.metrics import score_table
    from medvlad.experiment.seeds import seeds_in_words

    yield score_table(report["results"])
    first = report["results"][0]
    n_train, n_test, units = first["n_train"], first["n_test"], units_in_words(report["dataset"])
    patients = patients_in_words(report["dataset"])
    known = "" if patients is None else f" of {patients}"
    if has_test_part:
        counted = f"{n_train} training and {n_test} test {units}{known} ({first['protocol']})"
    else:
        protocol = str(first["protocol"])
        protocol += "" if "per_fold" in first else f", {n_train} training {units} a fold"
        counted = f"{n_test} {units}{known}, each tested once ({protocol})"
    by = f"over {units}" if first["ci95_of"] == "images" else "by patient"
    yield f"{counted}; fitted on training {units} only. Intervals are {by}."
    for one in report["results"]:
        if one["accuracy_ci95"] is None:
            yield f"{one['encode']} has no interval: {one['ci95_missing']['accuracy_ci95']}."
    if "positive_class" in first:
        yield f"Sensitivity is that of {first['positive_class']}."
    yield from (seeds_in_words(one) for one in report["results"] if "over_seeds" in one)
    yield from (line for one in report["results"] for line in _chosen(one))
    yield from (_adapted(one) for one in report["results"] if "adapted" in one)
    yield from (_operating_point(one) for one in report["results"] if "operating_point" in one)
    yield from (_compared(pair, first["ci95_of"]) for pair in report["comparisons"])
    if patients is None:
        yield (
            f"No patients were found: each {units[:-1]} counts as a separate patient. Use --patient to name "
            "them."
        )


def _compared(pair: dict[str, Any], ci95_of: str) -> str:
    """Difference of two encodings on the same images."""
    ends = pair["difference_ci95"]["accuracy"]
    interval = "no interval" if ends is None else f"95 % interval {ends[0]:+.3f} to {ends[1]:+.3f}"
    by_patient = "" if ci95_of == "images" else " by patient"
    return (
        f"{pair['second']} minus {pair['first']}: accuracy {pair['difference']['accuracy']:+.3f} "
        f"({interval}), McNemar's p{by_patient} {pair['mcnemar_p']:.2g}"
    )


def _chosen(found: dict[str, Any]) -> Iterator[str]:
    """C if cross-validation chose it, and the quality of probabilities."""
    said = []
    if found["parameters"]["classify"]["C"] == "cv":
        values = ", ".join(f"{c:g}" for c in found["C"])
        said.append(f"C = {values}, chosen inside the training images")
    if "calibration" in found:
        quality = found["calibration"]
        said.append(
            f"Brier score {quality['brier']:.3f}, calibration error "
            f"{quality['expected_calibration_error']:.3f}"
        )
    if said:
        yield f"{found['encode']}: {'; '.join(said)}."


def _operating_point(found: dict[str, Any]) -> str:
    """Metrics with the threshold that was chosen inside the training images."""
    at = found["operating_point"]
    thresholds = ", ".join(f"{value:+.2f}" for value in at["threshold"])
    values = ", ".join(
        f"{name.replace('_', ' ')} {'-' if at[name] is None else format(at[name], '.3f')}"
        for name in ("accuracy", "balanced_accuracy", "sensitivity", "specificity")
    )
    return (
        f"{found['encode']} at {at['target']} of the training images (threshold {thresholds} of "
        f"{at['threshold_of']}): {values}."
    )


def _adapted(found: dict[str, Any]) -> str:
    """Metrics with the threshold that was found without labels."""
    adapted = found["adapted"]
    if adapted["threshold"] is None:
        return f"{found['encode']}: no threshold found in the unlabelled test images: {adapted['reason']}"
    ends = adapted["accuracy_ci95"]
    interval = "" if ends is None else f" ({ends[0]:.3f} to {ends[1]:.3f})"
    values = ", ".join(
        f"{name} {'-' if adapted[key] is None else format(adapted[key], '.3f')}"
        for name, key in (
            ("balanced", "balanced_accuracy"),
            ("sensitivity", "sensitivity"),
            ("specificity", "specificity"),
        )
    )
    return (
        f"{found['encode']} with the threshold {adapted['threshold']:.2f} of {adapted['threshold_of']}, "
        f"found in the unlabelled test images: accuracy {adapted['accuracy']:.3f}{interval}, {values}. "
        f"It is right only if {adapted['assumption']}."
    )
