"""The command train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from medvlad.cli import bag_options, options
from medvlad.cli.answer_options import OPERATING_POINT, POSITIVE, calibration_option
from medvlad.cli.cluster_options import SCHEDULER
from medvlad.cli.console import Command, list_damaged, list_skipped
from medvlad.cli.dataset import load_dataset
from medvlad.cli.run_options import run_group
from medvlad.cli.settings import check_replaced, check_store, encodings_of, settings_of
from medvlad.cli.shift_options import AUGMENT
from medvlad.cli.similar_options import KEEP_SIMILAR, TrainingImages
from medvlad.cli.table_options import DATA_OR_URL, table_group, table_of
from medvlad.cli.workers import chosen_workers

if TYPE_CHECKING:
    from medvlad.classifier.image_classifier import ImageClassifier
    from medvlad.evaluation.choice import Choice

__all__ = ["train"]


@cloup.command(
    cls=Command,
    examples=[
        "medvlad train chest_xray -o xray.model",
        "medvlad train chest_xray --preset best --store descriptors -o xray.model",
    ],
)
@DATA_OR_URL
@cloup.option_group(
    "Most used",
    cloup.option(
        "-o",
        "--output",
        type=options.PATH_OR_URL,
        metavar="MODEL",
        required=True,
        help="Model file to write.",
    ),
    options.PRESET,
    cloup.option(
        "--encode",
        metavar="NAME,...",
        help="Encoding: avg, max, gem, vlad64, ... Of several, the first within one standard "
        "error of the best.  "
        "[default: avg,vlad64]",
    ),
    options.MODEL,
    options.WEIGHTS,
    options.SCALE,
    options.PENALTY,
    options.CLASS_WEIGHT,
    options.MEMORY,
    calibration_option("auto"),
    options.STORE,
    options.ON_ERROR,
    options.ON_DAMAGE,
)
@cloup.option_group("Data", options.LAYOUT, options.PATIENT, options.UNKNOWN_PATIENTS, bag_options.POOL_BY)
@table_group()
@cloup.option_group("Decisions", AUGMENT, OPERATING_POINT, POSITIVE)
@options.network_group(options.LAYER)
@options.encoding_group()
@cloup.option_group(
    "Output",
    cloup.option(
        "--anonymise",
        is_flag=True,
        help="Leave folders out of the model file, and file names and patients out of MODEL.cases. If the "
        "network is a file, predict then needs --weights FILE.",
    ),
    KEEP_SIMILAR,
    options.OVERWRITE_FILE,
)
@options.advanced_group(SCHEDULER)
@run_group()
def train(
    directory: Path,
    output: Path,
    anonymise: bool,
    similar: bool | None,
    overwrite: bool,
    scheduler: str | None,
    **settings: Any,
) -> int:
    """Train a classifier on images and save it.

    If the data has parts train and test, only train is used.
    """
    from medvlad._util.object_path import check_output, outside
    from medvlad.datasets.describe import units_of
    from medvlad.experiment import Experiment
    from medvlad.extraction.auto_dtype import arithmetic_in_words
    from medvlad.extraction.keras_startup import start_keras
    from medvlad.models.model_file import is_model_file

    check_output(output, "model", may_replace=is_model_file)
    replaced = check_replaced(output, "--output", overwrite=overwrite)
    outside(output, "--output", directory)
    check_store(settings["store"], directory)
    encodings = encodings_of(settings)
    settings["table"] = table_of(settings)
    experiment = Experiment(**settings_of(settings))
    dataset = load_dataset(experiment, directory, anonymise=anonymise)
    experiment.check_encodings(encodings)
    if bag_options.uses_network(dataset):
        start_keras(experiment.model)
    if similar and dataset.task != "classes":
        has = "labels" if dataset.task == "labels" else "numbers"
        raise click.UsageError(
            f"--similar is for data sets with one class an image, and this one has {has}: leave it out"
        )
    wanted = similar if dataset.task == "classes" else False  # similar cases have one class
    training = TrainingImages(wanted, anonymise=anonymise, pattern=experiment.group_pattern)
    with chosen_workers(scheduler, experiment, dataset) as workers:
        classifier, skipped, n_images = experiment.train_best(
            dataset, encodings, keep=training.keep, workers=workers
        )
    choice = classifier.choice_
    damaged = getattr(classifier.pipeline_[0], "damaged_", [])  # a model of feature files has no network
    card: dict[str, Any] = {
        "images": None if anonymise else directory.resolve().name,
        "n_images": n_images,
        "n_skipped": len(skipped),
        "n_damaged": len(damaged),
        "seed": experiment.seed,
        "class_weight": experiment.class_weight,
        "calibration": getattr(getattr(classifier.pipeline_[-1], "calibration_", None), "method", None),
        "threshold": experiment.threshold,
    }
    if len(choice.balanced_accuracy) > 1:
        card[f"inner_{choice.metric.replace(' ', '_')}"] = choice.balanced_accuracy
    classifier.save(output, card=card, anonymise=anonymise)
    companion, left_out = training.write(output)
    if len(choice.balanced_accuracy) > 1:
        click.echo(_why(choice))
    wrote = "replaced" if replaced else "wrote"
    click.echo(f"trained on {n_images} {units_of(dataset)}; {wrote} {output}{companion}")
    if experiment.dtype == "auto" and bag_options.uses_network(dataset):
        click.echo(arithmetic_in_words(classifier.pipeline_[0]))
    if left_out:
        click.echo(left_out)
    if experiment.threshold is not None:
        click.echo(_operating_point(classifier, experiment.threshold, experiment.positive))
    list_damaged([{"image": "", "reason": reason} for _, reason in damaged])
    return list_skipped(skipped)


def _operating_point(classifier: ImageClassifier, target: str, positive: str | None) -> str:
    """Return a line with the threshold, and the rates of the held-out training images that chose it."""
    from medvlad.evaluation.calibrated_training import positive_index

    first, second = classifier.classes_
    svm = classifier.pipeline_[-1]
    index = positive_index(classifier.classes_, positive)
    own = svm.held_out_labels_ == index

    def rates(threshold: float) -> str:
        right = svm.decide(svm.held_out_decision_, threshold) == svm.held_out_labels_
        return f"{right[own].mean():.3f} and {right[~own].mean():.3f}"

    return (
        f"{second} is decided above {svm.threshold_:+.3f}, {first} below ({target}). Sensitivity for "
        f"{classifier.classes_[index]} and specificity, in {len(own)} held-out training images: "
        f"{rates(svm.threshold_)}; without this option {rates(0.0)}. These images chose the threshold, so "
        "test it in others"
    )


def _why(choice: Choice) -> str:
    """Return a line that says which encoding was chosen and why."""
    means = ", ".join(f"{name} {mean:.3f}" for name, mean in choice.balanced_accuracy.items())
    return (
        f"encoding {choice.encoding}, the first within one standard error of the best: {choice.metric} "
        f"{means} ({choice.n_folds}-fold cross-validation inside the training images)"
    )
