"""The command similar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import cloup

from medvlad._util.text_table import printable
from medvlad.cli import options
from medvlad.cli.bag_options import takes_bags
from medvlad.cli.console import Command, list_damaged, list_skipped
from medvlad.cli.dataset import saying_choices
from medvlad.cli.model_network import check_one_class, check_weights_of, start_if_needed
from medvlad.cli.predict import IMAGES
from medvlad.cli.settings import on_error_of, pseudonyms_of
from medvlad.cli.similar_options import TOP
from medvlad.cli.table_options import IMAGE_COLUMN, IMAGE_ROOT

__all__ = ["similar"]

_KEYS = ("image", "similar", "same_patient")


@cloup.command(
    cls=Command,
    examples=["medvlad similar xray.model new.png", "medvlad similar xray.model new/ --top 3 --json"],
)
@cloup.argument(
    "model", type=options.PATH_OR_URL, help="Model file of 'medvlad train', with MODEL.cases beside it."
)
@IMAGES
@cloup.option_group(
    "Most used",
    TOP,
    options.JSON,
    options.STORE,
    options.ON_ERROR,
    options.ON_DAMAGE,
    options.WEIGHTS_OF_MODEL,
)
@cloup.option_group("Table", IMAGE_ROOT, IMAGE_COLUMN)
@cloup.option_group("Output", options.ANONYMISE_NAMES, options.ANONYMISE_KEY)
def similar(
    model: Path,
    images: tuple[str, ...],
    top: int,
    as_json: bool,
    store: str | None,
    on_error: str,
    on_damage: str,
    weights: str | None,
    image_root: str | None,
    image_column: str | None,
    anonymise: bool,
    anonymise_key: Path | None,
) -> int:
    """Find the training images that are most similar.

    The distance is Euclidean, between encoded images.
    """
    from medvlad._util.validate import check_positive_int
    from medvlad.datasets.image_inputs import check_inputs, list_inputs
    from medvlad.models.cases_file import load_cases
    from medvlad.models.model_file import load_model
    from medvlad.predict import SimilarTo, iter_predictions

    check_positive_int(top, "top")
    takes_bags(model, images)
    check_one_class(model, "'medvlad similar'")
    table: dict[str, Any] = {"image_root": image_root, "image_column": image_column}
    with saying_choices():
        check_inputs(images, **table, must_exist=on_error == "stop")
    check_weights_of(model, weights)
    similar_to = SimilarTo(load_cases(model), top)
    names = pseudonyms_of(anonymise, anonymise_key)
    start_if_needed(model)
    found: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    damaged: list[dict[str, str]] = []
    for one in iter_predictions(
        load_model(model, weights=weights),
        list_inputs(images, **table),
        on_error=on_error_of(on_error),
        on_damage=on_error_of(on_damage),
        names=names,
        store=store,
        similar=similar_to,
    ):
        if one.skipped is not None:
            skipped.append(one.skipped)
            continue
        assert one.prediction is not None
        said: dict[str, Any] = {name: one.prediction[name] for name in _KEYS if name in one.prediction}
        if "damaged" in one.prediction:
            damaged.append({"image": said["image"], "reason": one.prediction["damaged"]})
        if as_json:
            found.append(said)
        else:
            _print(said)
    if names is not None and anonymise_key is not None:
        names.write(anonymise_key)
    if as_json:
        click.echo(json.dumps({"images": found, "skipped": skipped}, indent=2))
    list_damaged(damaged)
    return list_skipped(skipped)


def _print(said: dict[str, Any]) -> None:
    same = said.get("same_patient")
    note = f"  ({same} training images are of the same patient)" if same else ""
    click.echo(printable(said["image"]) + note)
    for case in said["similar"]:
        cells = "".join(f" {one['cell']}" for one in case.get("cells", ()))
        cells = f"  cells{cells}" if cells else ""
        click.echo(printable(f"  {case['distance']:.4f}  {case['label']}  {case['image']}{cells}"))
