"""The command extract."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from medvlad.cli import options
from medvlad.cli.console import Command, list_damaged, list_skipped
from medvlad.cli.dataset import saying_choices, saying_cluster
from medvlad.cli.run_options import label_run, run_group
from medvlad.cli.settings import check_store, on_error_of
from medvlad.cli.table_options import IMAGE_COLUMN, IMAGE_ROOT

if TYPE_CHECKING:
    from medvlad._util.object_path import ObjectPath
    from medvlad.datasets.array_part import ArrayPart

__all__ = ["extract"]

logger = logging.getLogger(__name__)


@cloup.command(
    cls=Command,
    examples=[
        "medvlad extract chest_xray --store descriptors",
        "medvlad extract data.csv --image-root scans --store descriptors --part 3/16",
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
    options.SCALE,
    options.ON_ERROR,
    options.ON_DAMAGE,
    options.THREADS,
    cloup.option(
        "--part",
        metavar="I/N|auto",
        help="Extract only part I of N, such as 3/16. auto or auto/16: the part of this task in an array job "
        "of a batch system.",
    ),
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
@run_group()
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
    part: str | None,
    threads: int | None,
    **network: Any,
) -> int:
    """Put the descriptors of images into a store on disk.

    If the command is stopped, the same command continues.
    """
    from medvlad._util.counters import stage
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
    chosen = None if part is None else _checked_part(part, network["dtype"])
    columns = {"image_root": image_root, "image_column": image_column}
    with stage("list"):
        every = _listed(directory, columns)
    paths = every if chosen is None else _of_part(every, chosen, directory, image_root)
    if not paths:
        return 0
    features = CNNDescriptors(
        **network,
        scales=scale,
        n_threads=threads,
        store=store,
        on_error=on_error_of(on_error),
        on_damage=on_error_of(on_damage),
    )
    check_parameters(features)
    is_calibrated = features.dtype in ("auto", "int8")
    with stage("build"):
        start_keras(features.model)
        # On images of all parts, so that every part has the same ranges of int8.
        features.fit(_calibration_images(directory, every, columns) if is_calibrated else None)
    click.echo(arithmetic_in_words(features))
    with stage("extract"):
        if scheduler is None and workers is None:
            n_new = features.extract(paths)
        else:
            from medvlad.distributed import extract_distributed

            with saying_cluster():
                n_new = extract_distributed(features, paths, scheduler=scheduler, n_workers=workers)
    n_stored = features.report_.n_stored or 0
    n_copies = len(paths) - n_stored - len(features.skipped_)
    left_out = f"; {n_copies} copies of others are not stored twice" if n_copies else ""
    click.echo(f"{n_stored} images, {n_new} of them extracted now{left_out}; store: {store}")
    list_damaged([{"image": str(paths[i]), "reason": reason} for i, reason in features.damaged_])
    return list_skipped([{"image": str(paths[i]), "reason": reason} for i, reason in features.skipped_])


def _checked_part(text: str, dtype: str) -> ArrayPart:
    """Return the part that --part names. Tell or refuse what would put parts into different sections."""
    from medvlad.datasets.array_part import read_part

    chosen = read_part(text)
    if dtype == "auto":
        raise click.UsageError(
            "--dtype auto may choose another type on each machine, and the store keeps types apart: run "
            "'medvlad doctor' on one of the machines, and give the same type to all parts, such as --dtype "
            "bfloat16"
        )
    if dtype == "int8":
        logger.warning(
            "each part calibrates int8 on the same images, but another kind of processor may round "
            "otherwise, and the store would keep its part apart: use one kind of machine, and see 'medvlad "
            "store ls'"
        )
    return chosen


def _listed(directory: Path, columns: dict[str, Any]) -> list[str | ObjectPath]:
    """List the images of a folder or a table."""
    from medvlad._util.object_path import plain
    from medvlad.datasets.folders import list_images
    from medvlad.datasets.manifest import is_table, list_manifest

    if is_table(directory):
        with saying_choices():
            return [plain(path) for path in list_manifest(directory, **columns)]
    if any(value is not None for value in columns.values()):
        raise click.UsageError(f"{directory} is no table: leave --image-root and --image-column out")
    return list_images(directory)


def _of_part(
    paths: list[str | ObjectPath], chosen: ArrayPart, directory: Path, image_root: str | None
) -> list[str | ObjectPath]:
    """Return the images of a part, and say how many there are."""
    from medvlad.datasets.array_part import take_part

    root = directory if directory.is_dir() else image_root or directory.parent
    mine = take_part(paths, chosen, root=root)
    nothing = "" if mine else "; nothing to do"
    click.echo(f"{chosen}: {len(mine)} of {len(paths)} images{nothing}")
    label_run(part=f"{chosen.number}/{chosen.total}")
    return mine


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
