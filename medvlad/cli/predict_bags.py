"""The command predict, if its inputs are feature files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medvlad._util.text_table import printable
from medvlad.cli.console import list_skipped

if TYPE_CHECKING:
    from medvlad.datasets.pseudonyms import Pseudonyms

__all__ = ["predict_feature_files"]


def predict_feature_files(
    model: Path,
    files: Sequence[str],
    *,
    one_bag: bool,
    on_error: str,
    as_json: bool,
    explain: Path | None,
    thumbnails: Path | None,
    names: Pseudonyms | None,
) -> int:
    """Predict feature files, print the answers, and write the evidence of tiles.

    Parameters
    ----------
    model : Path
    files : sequence of str
    one_bag : bool
        Whether all files are one bag.
    on_error : {"raise", "skip"}
    as_json : bool
    explain, thumbnails : Path or None
        See :func:`medvlad.predict.predict_bags`.
    names : Pseudonyms or None

    Returns
    -------
    int
        Exit status.
    """
    from medvlad.models.model_file import load_model, model_card
    from medvlad.predict import open_readable, predict_bags

    if model_card(model)["features"] is not None:
        raise click.UsageError(
            f"the model {model} was trained on images, and {files[0]} is a feature file: give images, or a "
            "model that was trained on feature files"
        )
    pipeline = load_model(model)
    bags, skipped = open_readable([files] if one_bag else list(files), on_error=on_error, names=names)
    predictions = predict_bags(pipeline, bags, explain=explain, thumbnails=thumbnails, names=names)
    if as_json:
        click.echo(json.dumps({"predictions": predictions, "skipped": skipped}, indent=2))
    else:
        _print_table(predictions)
    if explain is not None:
        line = _write_page(pipeline, predictions, explain, in_order=names is None)
        if not as_json:
            click.echo(line)
    return list_skipped(skipped)


def _print_table(predictions: list[dict[str, Any]]) -> None:
    names = [printable(one["image"]) for one in predictions]
    width = max(map(len, names), default=0)
    for name, one in zip(names, predictions, strict=True):
        values = "  ".join(f"{label} {value:+.3f}" for label, value in one["scores"].items())
        more = f"  [and {len(one['files']) - 1} more files]" if "files" in one else ""
        click.echo(f"{name:<{width}}  " + printable(f"{one['label']}  ({values}){more}"))


def _write_page(pipeline: Any, predictions: list[dict[str, Any]], folder: Path, *, in_order: bool) -> str:
    """Write the page of all pictures; return a line about them."""
    from medvlad.explain import is_additive
    from medvlad.report.tiles import tiles_page

    exact = is_additive(pipeline.named_steps["encode"])
    # Under pseudonyms the order of the files would tell which is which.
    shown = predictions if in_order else sorted(predictions, key=lambda one: one["image"])
    page = tiles_page(shown, folder, exact=exact)
    how = "exactly" if exact else "to first order, because a signed power cannot be split exactly"
    return f"Evidence, split over the tiles {how}: {len(predictions)} pictures and tables; report: {page}"
