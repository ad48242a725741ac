"""The command predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import cloup

from medvlad._util.text_table import printable
from medvlad.cli import bag_options, options
from medvlad.cli.console import Command, list_damaged, list_skipped
from medvlad.cli.predict_bags import predict_feature_files
from medvlad.cli.settings import on_error_of, pseudonyms_of

__all__ = ["predict"]


@cloup.command(
    cls=Command,
    examples=[
        "medvlad predict xray.model new/*.png",
        "medvlad predict xray.model new/*.png --json --explain maps",
    ],
)
@cloup.argument("model", type=options.PATH, help="Model file of 'medvlad train'.")
@cloup.argument(
    "images",
    metavar="IMAGE...",
    type=options.TEXT_PATH,
    nargs=-1,
    required=True,
    help="Image files, or feature files.",
)
@cloup.option_group(
    "Most used",
    cloup.option(
        "--explain",
        type=options.PATH,
        metavar="FOLDER",
        help="Folder for one picture an image that shows the evidence for its label.",
    ),
    options.JSON,
    options.ON_ERROR,
    options.ON_DAMAGE,
    options.WEIGHTS_OF_MODEL,
)
@cloup.option_group("Feature files", bag_options.ONE_BAG, bag_options.THUMBNAILS)
@cloup.option_group("Output", options.OVERWRITE, options.ANONYMISE_PREDICTIONS, options.ANONYMISE_KEY)
def predict(
    model: Path,
    images: tuple[str, ...],
    weights: str | None,
    on_error: str,
    on_damage: str,
    as_json: bool,
    explain: Path | None,
    overwrite: bool,
    anonymise: bool,
    anonymise_key: Path | None,
    one_bag: bool,
    thumbnails: Path | None,
) -> int:
    """Classify images with a trained model.

    Prints the label of each IMAGE and the decision value of each class. The label
    is the class with the largest value.
    """
    from medvlad._util.validate import make_output_folder
    from medvlad.extraction.keras_startup import start_keras
    from medvlad.extraction.weights import check_weights
    from medvlad.models.model_file import check_readable, load_model
    from medvlad.predict import check_images, predict_images

    of_bags = bag_options.has_bags(images)
    check_readable(model, of_images=not of_bags)
    if on_error == "stop" and not of_bags:
        check_images(images)
    if weights is not None:
        check_weights(weights)
    if explain is not None:
        replaced = overwrite or anonymise or anonymise_key is not None
        make_output_folder(explain, "--explain", results=["explain.html"], overwrite=replaced)
    names = pseudonyms_of(anonymise, anonymise_key, explain)
    if of_bags:
        status = predict_feature_files(
            model,
            images,
            one_bag=one_bag,
            on_error=on_error_of(on_error),
            as_json=as_json,
            explain=explain,
            thumbnails=thumbnails,
            names=names,
        )
        if names is not None and anonymise_key is not None:
            names.write(anonymise_key)
        return status
    start_keras()
    pipeline = load_model(model, weights=weights)
    predictions, skipped = predict_images(
        pipeline,
        images,
        on_error=on_error_of(on_error),
        on_damage=on_error_of(on_damage),
        explain=explain,
        names=names,
    )
    if names is not None and anonymise_key is not None:
        names.write(anonymise_key)
    if as_json:
        click.echo(json.dumps({"predictions": predictions, "skipped": skipped}, indent=2))
    else:
        _print_table(predictions)
    if explain is not None:
        # Under pseudonyms the order of the images would tell which is which.
        shown = predictions if names is None else sorted(predictions, key=lambda one: one["image"])
        line = _write_evidence(pipeline, shown, explain)
        if not as_json:
            click.echo(line)
    list_damaged(
        [{"image": one["image"], "reason": one["damaged"]} for one in predictions if "damaged" in one]
    )
    return list_skipped(skipped)


def _print_table(predictions: list[dict[str, Any]]) -> None:
    names = [printable(one["image"]) for one in predictions]
    width = max(map(len, names), default=0)
    for name, one in zip(names, predictions, strict=True):
        values = "  ".join(f"{label} {value:+.3f}" for label, value in one["scores"].items())
        click.echo(f"{name:<{width}}  " + printable(f"{one['label']}  ({values})"))


def _write_evidence(pipeline: Any, predictions: list[dict[str, Any]], folder: Path) -> str:
    """Write the page of all pictures; return a line about them."""
    from medvlad.explain import is_additive
    from medvlad.report.evaluation import explain_page

    additive = is_additive(pipeline.named_steps["encode"])
    how = "exactly" if additive else "to first order, because a signed power cannot be split exactly"
    page = explain_page(
        predictions, folder, f"split over its places {how}", grids=pipeline.steps[0][1].grids_
    )
    return f"Evidence, split over the image {how}: {len(predictions)} pictures; report: {page}"
