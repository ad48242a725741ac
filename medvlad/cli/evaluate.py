"""The commands evaluate, train, predict and demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medvlad._util.atomic_file import write_file
from medvlad._util.validate import InputError, MissingExtraError, check_output_file, make_output_folder
from medvlad.cli.console import collected_warnings, list_skipped
from medvlad.cli.options import (
    PATH,
    anonymise_options,
    check_store,
    encodings_of,
    layout_option,
    learning_options,
    network_options,
    on_error_of,
    on_error_option,
    pseudonyms_of,
    scale_option,
    settings_of,
)
from medvlad.extraction.keras_startup import start_keras

if TYPE_CHECKING:
    from medvlad.datasets.pseudonyms import Pseudonyms
    from medvlad.experiment import Experiment

__all__ = ["demo", "evaluate", "predict", "train"]


@click.command()
@click.argument("directory", metavar="DIR", type=PATH)
@network_options
@scale_option
@learning_options
@layout_option
@click.option(
    "--encode",
    help="avg, max, gem, vlad64, vlad256, avg+vlad64, ... [default: avg,vlad64; preset best: vlad64]",
)
@click.option(
    "--folds", type=int, default=5, show_default=True, help="Cross-validation where DIR has no test part."
)
@click.option(
    "--calibration",
    type=click.Choice(["none", "platt", "isotonic"]),
    default="none",
    show_default=True,
    help="Probabilities as well, learnt inside the training images.",
)
@click.option("--positive", help="With two classes: the one to detect [default: the last].")
@click.option(
    "--adapt-threshold/--no-adapt-threshold",
    default=False,
    help="With two classes: decide besides by a threshold found in the test images, without their labels.",
)
@on_error_option
@click.option("--out", type=PATH, help="Folder for results.json.")
@click.option(
    "--pictures/--no-pictures",
    default=None,
    help="Pictures of images in the report [default: yes, but with --anonymise no].",
)
@anonymise_options
def evaluate(
    directory: Path,
    out: Path | None,
    pictures: bool | None,
    anonymise: bool,
    anonymise_key: Path | None,
    **options: Any,
) -> int:
    """Measure how well images in DIR are classified, on images not trained on."""
    from medvlad.experiment import Experiment

    encodings, preset = encodings_of(options), options["preset"] or "paper"
    check_store(options["store"], directory)
    experiment = Experiment(**settings_of(options))
    if out is not None:
        make_output_folder(out, "--out", directory)
    names = pseudonyms_of(anonymise, anonymise_key, out)
    shown = names is None if pictures is None else pictures
    status = _evaluate(experiment, directory, encodings, out, preset, names=names, pictures=shown)
    if names is not None and anonymise_key is not None:
        names.write(anonymise_key)
    return status


@click.command()
@click.argument("directory", metavar="DIR", type=PATH)
@network_options
@scale_option
@learning_options
@layout_option
@click.option("--encode", help="One of avg, max, gem, vlad64, ... [default: vlad64]")
@on_error_option
@click.option("-o", "--output", type=PATH, required=True, help="The model file to write.")
@click.option("--anonymise", is_flag=True, help="Leave the name of the folder out of the model's card.")
def train(directory: Path, output: Path, anonymise: bool, **options: Any) -> int:
    """Fit a classifier on the images of DIR (its train part, if it has one) and save it."""
    from medvlad.experiment import Experiment
    from medvlad.models.model_file import save_model

    replaced = check_output_file(output, "model").exists()
    check_store(options["store"], directory)
    given = options["encode"]
    if given is not None and "," in given:
        raise InputError(f"--encode takes one encoding here, got {given!r}: '+' between joins their vectors")
    encode = encodings_of(options)[-1] if given is None else options.pop("encode")
    experiment = Experiment(**settings_of(options))
    dataset = experiment.load(directory)
    start_keras()
    pipeline, skipped, n_images = experiment.train(dataset, encode)
    card = {
        "images": None if anonymise else directory.resolve().name,
        "n_images": n_images,
        "n_skipped": len(skipped),
        "seed": experiment.seed,
        "encode": encode,
        "C": float(pipeline.steps[-1][1].C),
        "class_weight": experiment.class_weight,
    }
    save_model(pipeline, output, card=card)
    wrote = "wrote a new" if replaced else "wrote"
    click.echo(f"trained on {n_images} images; {wrote} {output}")
    return list_skipped(skipped)


@click.command()
@click.argument("model", type=PATH)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--weights", help="Where the network's weights are on this machine.")
@on_error_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--explain", type=PATH, metavar="OUT", help="Folder for pictures of where the evidence for a label is."
)
@anonymise_options
def predict(
    model: Path,
    images: tuple[str, ...],
    weights: str | None,
    on_error: str,
    as_json: bool,
    explain: Path | None,
    anonymise: bool,
    anonymise_key: Path | None,
) -> int:
    """Classify each IMAGE with a model that `medvlad train` wrote."""
    from medvlad.explain import is_additive
    from medvlad.models.model_file import check_readable, load_model
    from medvlad.predict import predict_images
    from medvlad.report.evaluation import explain_page

    check_readable(model, of_images=True)
    start_keras()
    pipeline = load_model(model, weights=weights)
    if explain is not None:
        make_output_folder(explain, "--explain")
    names = pseudonyms_of(anonymise, anonymise_key, explain)
    predictions, skipped = predict_images(
        pipeline, images, on_error=on_error_of(on_error), explain=explain, names=names
    )
    if names is not None and anonymise_key is not None:
        names.write(anonymise_key)
    if as_json:
        click.echo(json.dumps({"predictions": predictions, "skipped": skipped}, indent=2))
    else:
        width = max((len(p["image"]) for p in predictions), default=0)
        for p in predictions:
            values = "  ".join(f"{name} {value:+.3f}" for name, value in p["scores"].items())
            click.echo(f"{p['image']:<{width}}  {p['label']}  ({values})")
    if explain is not None:
        additive = is_additive(pipeline.named_steps["encode"])
        how = "exactly" if additive else "to first order, as a signed power cannot be split"
        # Names in their order would tell what comes next to what.
        shown = predictions if names is None else sorted(predictions, key=lambda one: one["image"])
        grids = pipeline.steps[0][1].grids_
        page = explain_page(shown, explain, f"split over its places {how}", grids=grids)
        if not as_json:
            click.echo(f"Evidence, split over the image {how}: {len(predictions)} pictures, and {page}")
    return list_skipped(skipped)


@click.command()
@click.option(
    "--out",
    type=PATH,
    default="medvlad-demo",
    show_default=True,
    help="Folder for images and results.",
)
def demo(out: Path) -> int:
    """Run the whole way on images that need no download: descriptors, pooling and VLAD, SVM, accuracy."""
    from medvlad.datasets.demo import write_demo_images
    from medvlad.experiment import Experiment

    images = write_demo_images(out / "images")
    click.echo(f"Images: patches of scikit-image's photographs, in {images}. Weights: VGG16, bundled.")
    experiment = Experiment(model="vgg16", weights="bundled")
    return _evaluate(experiment, images, ["avg", "vlad16", "vlad64"], out)


def _evaluate(
    experiment: Experiment,
    directory: Path,
    encodings: list[str],
    out: Path | None,
    preset: str | None = None,
    *,
    names: Pseudonyms | None = None,
    pictures: bool = True,
) -> int:
    from medvlad.datasets.pseudonyms import anonymise_results, anonymise_warning
    from medvlad.evaluation.metrics import score_table
    from medvlad.report.evaluation import write_predictions, write_report

    if out is not None:
        make_output_folder(out, "--out", directory)
        check_output_file(out / "results.json", "results")
    with collected_warnings() as warned:
        dataset = experiment.load(directory)
        start_keras()
        evaluation = experiment.evaluate(dataset, encodings)
    report = evaluation.results
    report["dataset"]["root"] = str(directory)
    report["settings"]["preset"] = preset
    report["warnings"] = [one.getMessage() for one in warned]
    if names is not None:
        anonymise_results(report, names)
        report["warnings"] = [anonymise_warning(one.msg, one.args, dataset, names) for one in warned]
    click.echo(score_table(report["results"]))
    first = report["results"][0]
    n_train, n_test = first["n_train"], first["n_test"]
    n_groups = report["dataset"]["n_groups"]
    known = "" if n_groups is None else f" of {n_groups} patients"
    if dataset.splits is None:
        counted = (
            f"{n_test} images{known}, each tested once ({first['protocol']}, {n_train} to train in a fold)"
        )
    else:
        counted = f"{n_train} training and {n_test} test images{known} ({first['protocol']})"
    click.echo(f"{counted}; fitted on training images only. Intervals of the table: Wilson's.")
    if "positive_class" in first:
        click.echo(f"Sensitivity is that of {first['positive_class']}.")
    for found in report["results"]:
        if "adapted" in found:
            click.echo(_adapted(found))
    for pair in report["comparisons"]:
        low, high = pair["difference_ci95"]["accuracy"]
        click.echo(
            f"{pair['second']} against {pair['first']}: accuracy {pair['difference']['accuracy']:+.3f} "
            f"({low:+.3f} to {high:+.3f}, 95 %), "
            f"McNemar's p {pair['mcnemar_p']:.2g}"
        )
    if report["dataset"]["n_groups"] is None:
        click.echo("No patients are known: every image counts as one of its own.")
    if out is not None:
        path = out / "results.json"
        write_file(path, (json.dumps(report, indent=2, allow_nan=False) + "\n").encode(), "results")
        write_predictions(evaluation, out / "predictions.csv", names=names)
        click.echo(
            f"Everything, with settings, versions and seconds a stage: {path}; decisions: predictions.csv"
        )
        try:
            click.echo(f"To look at: {write_report(evaluation, out, names=names, pictures=pictures)}")
        except MissingExtraError as error:
            click.echo(f"No report.html was written: {error}")
    return list_skipped(report["skipped"])


def _adapted(found: dict[str, Any]) -> str:
    """One line on the threshold found without labels."""
    adapted = found["adapted"]
    if adapted["threshold"] is None:
        return (
            f"{found['encode']}: no threshold in the unlabelled test images: too few of them, or no two humps"
        )
    low, high = adapted["accuracy_ci95"]
    return (
        f"{found['encode']} with the threshold {adapted['threshold']:.2f} of the unlabelled test images: "
        f"accuracy {adapted['accuracy']:.3f} ({low:.3f} to {high:.3f}), "
        f"balanced {adapted['balanced_accuracy']:.3f}, sensitivity {adapted['sensitivity']:.3f}, "
        f"specificity {adapted['specificity']:.3f}"
    )
