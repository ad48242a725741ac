"""The command predict."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import click
import cloup

from medvlad._util.urls import is_url
from medvlad.cli import bag_options, options
from medvlad.cli.answer_options import answer_group, check_wanted, decide_again, tell_shift
from medvlad.cli.answer_writer import FORMATS, AnswerWriter, ReaderGone, format_of
from medvlad.cli.console import Command, list_damaged, list_skipped
from medvlad.cli.dataset import saying_choices
from medvlad.cli.model_network import check_one_class, check_weights_of, start_if_needed
from medvlad.cli.predict_bags import write_tiles
from medvlad.cli.run_options import run_group
from medvlad.cli.settings import check_replaced, on_error_of, pseudonyms_of
from medvlad.cli.similar_options import SIMILAR
from medvlad.cli.streams import forget_output
from medvlad.cli.table_options import IMAGE_COLUMN, IMAGE_ROOT
from medvlad.cli.watching import (
    check_watch,
    default_format,
    folder_watch,
    predicted_in_service,
    until_reader_ends,
)

__all__ = ["IMAGES", "predict"]


def _images(required: bool) -> options.Decorator:
    return cloup.argument(
        "images",
        metavar="IMAGE...",
        type=options.INPUTS,
        nargs=-1,
        required=required,
        help="Images, feature files, folders, tables (CSV, ...), lists (@FILE), or - for names on "
        "standard input.",
    )


IMAGES = _images(required=True)
_IMAGES_OR_WATCH = _images(required=False)

_STANDARD_INPUT = "-"
_READER_GONE = 128 + int(getattr(signal, "SIGPIPE", 13))


@cloup.command(
    cls=Command,
    examples=[
        "medvlad predict xray.model new/*.png",
        "medvlad predict xray.model new/*.png --json --explain maps",
    ],
)
@cloup.argument("model", type=options.PATH_OR_URL, help="Model file of 'medvlad train'.")
@_IMAGES_OR_WATCH
@cloup.option_group(
    "Most used",
    cloup.option(
        "--format",
        "format_",
        type=options.Choice(list(FORMATS)),
        help="Format. All but json are written image by image.  [default: by --out, else table; jsonl for "
        "- and --watch]",
    ),
    options.JSON,
    cloup.option(
        "-o", "--out", type=options.PATH_OR_URL, metavar="FILE|URL", help="File for the predictions."
    ),
    cloup.option(
        "--explain",
        type=options.PATH,
        metavar="FOLDER",
        help="Folder for an evidence map of each image, which shows what led to its label.",
    ),
    SIMILAR,
    options.STORE,
    cloup.option(
        "--on-error",
        type=options.Choice(["stop", "skip"]),
        help="Stop at an unreadable image, or skip and list it.  [default: stop; skip for - and --watch]",
    ),
    options.ON_DAMAGE,
    options.WEIGHTS_OF_MODEL,
)
@answer_group()
@cloup.option_group(
    "Service",
    cloup.option(
        "--watch",
        type=options.PATH_OR_URL,
        metavar="DIR|URL",
        help="Classify the images that are in a folder or below a URL and those that arrive, until a signal "
        "comes. With --out, a restart continues.",
    ),
    cloup.option(
        "--settle",
        type=click.FloatRange(min=0.0),
        metavar="SECONDS",
        default=5.0,
        help="Time without a change after which a file of --watch is complete. With a URL: time between two "
        "listings.",
    ),
)
@cloup.option_group(
    "Table",
    IMAGE_ROOT,
    IMAGE_COLUMN,
)
@cloup.option_group("Feature files", bag_options.ONE_BAG, bag_options.THUMBNAILS)
@cloup.option_group("Output", options.OVERWRITE, options.ANONYMISE_PREDICTIONS, options.ANONYMISE_KEY)
@run_group()
def predict(
    model: Path,
    images: tuple[str, ...],
    weights: str | None,
    on_error: str | None,
    on_damage: str,
    as_json: bool,
    format_: str | None,
    out: Path | None,
    explain: Path | None,
    similar: int | None,
    store: str | None,
    coverage: float | None,
    abstain: bool,
    adapt_threshold: bool,
    watch: Path | None,
    settle: float,
    image_root: str | None,
    image_column: str | None,
    overwrite: bool,
    anonymise: bool,
    anonymise_key: Path | None,
    one_bag: bool,
    thumbnails: Path | None,
) -> int:
    """Classify images with a trained model.

    Prints the label of each IMAGE, its probability, and the decision value of
    each class.
    """
    from medvlad._util.object_path import failures_of_one_object
    from medvlad._util.validate import check_positive_int, make_output_folder
    from medvlad.datasets.image_inputs import check_inputs, list_inputs
    from medvlad.decisions import Answering, check_answers
    from medvlad.models.cases_file import load_cases
    from medvlad.models.model_file import load_model
    from medvlad.predict import SimilarTo, iter_predictions, predict_images

    check_wanted(coverage, adapt_threshold, explain)
    arriving = watch is not None or _STANDARD_INPUT in images
    format_ = format_of(format_, as_json, out, default_format(arriving, out))
    check_watch(
        watch,
        images,
        format_,
        out,
        explain=explain,
        adapt_threshold=adapt_threshold,
        one_bag=one_bag,
        anonymise=anonymise,
        anonymise_key=anonymise_key,
    )
    on_error = on_error or ("skip" if arriving else "stop")
    of_bags = bag_options.takes_bags(model, images)
    bag_options.check_bag_options(model, of_bags, one_bag, thumbnails, explain)
    for option, value in (("--explain", explain), ("--similar", similar)):
        if value is not None:
            check_one_class(model, option)
    table: dict[str, Any] = {"image_root": image_root, "image_column": image_column}
    with saying_choices():
        check_inputs(images, **table, must_exist=on_error == "stop")
    check_weights_of(model, weights)
    if explain is not None:
        replaced = overwrite or anonymise or anonymise_key is not None
        make_output_folder(explain, "--explain", results=["explain.html"], overwrite=replaced)
    _check_out(out, [*images, model], overwrite or watch is not None)
    watched = (
        None
        if watch is None
        else folder_watch(watch, out, settle=settle, of_features=of_bags, overwrite=overwrite)
    )
    similar_to = (
        None if similar is None else SimilarTo(load_cases(model), check_positive_int(similar, "similar"))
    )
    start_if_needed(model)
    pipeline = load_model(model, weights=weights)
    check_answers(
        pipeline[-1], coverage=coverage, abstain=abstain, threshold=0.0 if adapt_threshold else None
    )
    answering = Answering(coverage=coverage, abstain=abstain)
    names = pseudonyms_of(anonymise, anonymise_key, explain)
    settings: dict[str, Any] = {
        "on_error": on_error_of(on_error),
        "on_damage": on_error_of(on_damage),
        "names": names,
        "store": store,
        "similar": similar_to,
        "answers": answering,
    }
    at_once = explain is None and not adapt_threshold and not one_bag and format_ != "json"
    if watched is None:
        named = list_inputs(images, **table, pauses=arriving and at_once)
        inputs: Iterable[Any] = chain([next(named)], named)  # without any name, nothing is written
    else:
        inputs = watched
    if one_bag:
        inputs = [tuple(inputs)]
    elif arriving and watched is None:
        inputs = until_reader_ends(inputs, to_output=out is None)
    n_skipped = 0
    known = [] if names is not None else _single(images)
    by_name = arriving and watched is None  # another program names each image, and reads why it failed
    with (
        failures_of_one_object(by_name),
        AnswerWriter(format_, out, known, append=watched is not None) as writer,
    ):
        try:
            if adapt_threshold:  # which needs all scores before the first label
                predictions, skipped = predict_images(pipeline, inputs, **settings)
                decide_again(predictions, [str(name) for name in pipeline.classes_])
                n_skipped = len(skipped)
                for prediction in predictions:
                    writer.add(prediction, None)
                    _tell(prediction, None)
                for one_skipped in skipped:
                    writer.add(None, one_skipped)
                    _tell(None, one_skipped)
            elif explain is None:
                if watched is None:
                    predicted = iter_predictions(pipeline, inputs, **settings)
                else:
                    predicted = predicted_in_service(
                        lambda: iter_predictions(
                            pipeline, until_reader_ends(watched, to_output=out is None), **settings
                        ),
                        watched,
                    )
                for one in predicted:
                    writer.add(one.prediction, one.skipped)
                    n_skipped += _tell(one.prediction, one.skipped)
            else:
                predictions, skipped = predict_images(
                    pipeline, inputs, explain=explain, thumbnails=thumbnails, **settings
                )
                for prediction in predictions:
                    writer.add(prediction, None)
                for one_skipped in skipped:
                    writer.add(None, one_skipped)
            writer.finish()
        except ReaderGone:
            forget_output()
            return _READER_GONE
        except KeyboardInterrupt as error:
            if out is not None and format_ != "json" and not is_url(out):
                first = "" if watched is not None else "the first "
                error.add_note(f"{out} holds the answers for {first}{writer.n_written} images")
            raise
        finally:
            if names is not None and anonymise_key is not None:
                names.write(anonymise_key)
    tell_shift(answering, adapt_threshold)
    if explain is None:
        return 1 if n_skipped else 0
    # Under pseudonyms the order of the images would tell which is which.
    in_order = predictions if names is None else sorted(predictions, key=lambda one: str(one["image"]))
    line = (write_tiles if of_bags else _write_evidence)(pipeline, in_order, explain)
    if format_ == "table" and out is None:
        click.echo(line)
    for prediction in predictions:
        _tell(prediction, None)
    return list_skipped(skipped)


def _single(inputs: Sequence[str]) -> list[str]:
    """Return the inputs that are images themselves, so that the table knows the width of their names."""
    from medvlad.datasets.image_inputs import names_an_image

    return [name for name in inputs if names_an_image(name)]


def _check_out(out: Path | None, inputs: Sequence[str | os.PathLike[str]], overwrite: bool) -> None:
    """Refuse a file of results that exists, unless it may be replaced; and one that is an input."""
    from medvlad._util.object_path import ObjectPath, check_output, location
    from medvlad._util.validate import InputError

    if out is None:
        return
    check_output(out, "table of predictions")
    if not out.exists():
        return
    if isinstance(out, ObjectPath):
        is_input = any(out == location(name, "the image") for name in inputs if is_url(name))
    else:
        is_input = any(out.samefile(name) for name in inputs if not is_url(name) and Path(name).exists())
    if is_input:
        raise InputError(f"--out {out} is one of the inputs: name another file")
    check_replaced(out, "--out", overwrite=overwrite)


def _tell(prediction: dict[str, Any] | None, skipped: dict[str, str] | None) -> int:
    """Tell a damaged or skipped image on standard error; return whether it was skipped."""
    if prediction is not None and "damaged" in prediction:
        list_damaged([{"image": prediction["image"], "reason": prediction["damaged"]}])
    return 0 if skipped is None else list_skipped([skipped])


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
