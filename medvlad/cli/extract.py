"""The command extract."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import cloup

from medvlad.cli import options
from medvlad.cli.console import Command, list_damaged, list_skipped
from medvlad.cli.dataset import saying_choices
from medvlad.cli.settings import check_store, on_error_of
from medvlad.cli.table_options import IMAGE_COLUMN, IMAGE_ROOT

__all__ = ["extract"]

logger = logging.getLogger(__name__)


@cloup.command(
    cls=Command,
    examples=[
        "medvlad extract chest_xray --store descriptors",
        "medvlad extract data.csv --image-root scans --store descriptors --workers 4",
    ],
)
@cloup.argument(
    "directory",
    metavar="DIR|TABLE",
    type=options.PATH_OR_URL,
    help="Folder of images, with any subfolders, or a table (CSV, TSV or Parquet), or a URL of one.",
)
@cloup.option_group(
    "Most used",
    options.REQUIRED_STORE,
    options.MODEL,
    options.LAYER,
    options.WEIGHTS,
    options.SCALE_WITHOUT_PRESET,
    options.ON_ERROR,
    options.ON_DAMAGE,
    options.THREADS,
    cloup.option(
        "--workers",
        type=int,
        metavar="N",
        help="Number of worker processes on this machine (extra 'distributed').  [default: 1, without Dask]",
    ),
    cloup.option(
        "--scheduler",
        metavar="ADDRESS",
        help="Address of a Dask scheduler whose workers extract (extra 'distributed').",
    ),
)
@cloup.option_group("Table", IMAGE_ROOT, IMAGE_COLUMN)
@options.network_group()
def extract(
    directory: Path,
    image_root: str | None,
    image_column: str | None,
    scale: tuple[int, ...],
    store: str,
    on_error: str,
    on_damage: str,
    scheduler: str | None,
    workers: int | None,
    threads: int | None,
    **network: Any,
) -> int:
    """Put the descriptors of images into a store on disk.

    If the command is stopped, the same command continues.
    """
    from medvlad._util.object_path import plain
    from medvlad.datasets.folders import list_images
    from medvlad.datasets.manifest import is_table, list_manifest
    from medvlad.extraction.auto_dtype import arithmetic_in_words
    from medvlad.extraction.cnn_descriptors import CNNDescriptors
    from medvlad.extraction.keras_startup import start_keras
    from medvlad.extraction.parameters import check_parameters
    from medvlad.store.store import DescriptorStore

    if scheduler is not None and workers is not None:
        raise click.UsageError(
            f"--workers {workers} starts workers on this machine, and --scheduler has its own: leave one out"
        )
    check_store(store, directory)
    DescriptorStore(store)  # a wrong folder is reported before the long work
    if is_table(directory):
        with saying_choices():
            listed = list_manifest(directory, image_root=image_root, image_column=image_column)
        paths = [plain(path) for path in listed]
    elif image_root is not None or image_column is not None:
        raise click.UsageError(f"{directory} is no table: leave --image-root and --image-column out")
    else:
        paths = list_images(directory)
    features = CNNDescriptors(
        **network,
        scales=scale,
        n_threads=threads,
        store=store,
        on_error=on_error_of(on_error),
        on_damage=on_error_of(on_damage),
    )
    check_parameters(features)
    start_keras(features.model)
    columns = {"image_root": image_root, "image_column": image_column}
    is_calibrated = features.dtype in ("auto", "int8")
    features.fit(_calibration_images(directory, paths, columns) if is_calibrated else None)
    click.echo(arithmetic_in_words(features))
    if scheduler is None and workers is None:
        n_new = features.extract(paths)
    else:
        from medvlad.distributed import extract_distributed

        n_new = extract_distributed(features, paths, scheduler=scheduler, n_workers=workers)
    n_stored = features.report_.n_stored or 0
    n_copies = len(paths) - n_stored - len(features.skipped_)
    left_out = f"; {n_copies} copies of others are not stored twice" if n_copies else ""
    click.echo(f"{n_stored} images, {n_new} of them extracted now{left_out}; store: {store}")
    list_damaged([{"image": str(paths[i]), "reason": reason} for i, reason in features.damaged_])
    return list_skipped([{"image": str(paths[i]), "reason": reason} for i, reason in features.skipped_])


def _calibration_images(directory: Path, paths: Sequence[str | Path], columns: dict[str, Any]) -> list[Path]:
    """Return the images that `evaluate` calibrates int8 on, so that it finds the same descriptors.

    If DIR has no folders of classes, or TABLE has no labels, return all images.
    """
    from medvlad._util.object_path import location
    from medvlad._util.validate import InputError
    from medvlad.datasets.folders import load_image_folder
    from medvlad.datasets.manifest import is_table, load_manifest
    from medvlad.experiment import calibration_images

    try:
        if is_table(directory):
            return calibration_images(load_manifest(directory, **columns))
        return calibration_images(load_image_folder(directory))
    except InputError as error:
        logger.info("int8 is calibrated on all images: %s", error)
        return [location(path, "the image") for path in sorted(paths, key=str)]
