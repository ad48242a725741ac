"""The commands extract and store: descriptors on disk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from medvlad._util.validate import InputError
from medvlad.cli.console import list_skipped
from medvlad.cli.options import (
    PATH,
    check_store,
    network_options,
    numbers,
    on_error_of,
    on_error_option,
    scale_option,
)
from medvlad.extraction.keras_startup import start_keras

__all__ = ["extract", "store"]

logger = logging.getLogger(__name__)


@click.command()
@click.argument("directory", metavar="DIR", type=PATH)
@network_options
@scale_option
@on_error_option
@click.option("--scheduler", help="Address of a Dask scheduler whose workers extract (extra 'distributed').")
@click.option(
    "--workers", type=int, help="Extract in so many processes of this machine (extra 'distributed')."
)
def extract(
    directory: Path,
    scale: str,
    store: str | None,
    on_error: str,
    scheduler: str | None,
    workers: int | None,
    threads: int | None,
    **options: Any,
) -> int:
    """Put the descriptors of all images in DIR into a store; stopped, it goes on from there next time."""
    from medvlad.datasets.folders import list_images
    from medvlad.extraction.cnn_descriptors import CNNDescriptors
    from medvlad.store.store import DescriptorStore

    if store is None:
        raise InputError("extract needs --store FOLDER, where descriptors are kept")
    check_store(store, directory)
    DescriptorStore(store)  # says what is wrong with the folder before the long work
    paths = list_images(directory)
    start_keras()
    features = CNNDescriptors(
        **options,
        scales=numbers(scale, "--scale"),
        n_threads=threads,
        store=store,
        on_error=on_error_of(on_error),
    )
    try:
        features.fit(_calibration_images(directory, paths) if features.dtype == "int8" else None)
        if scheduler is None and workers is None:
            n_new = features.extract(paths)
        else:
            from medvlad.distributed import extract_distributed

            n_new = extract_distributed(features, paths, scheduler=scheduler, n_workers=workers)
    except KeyboardInterrupt:
        click.echo(
            f"medvlad: interrupted; what was extracted is in {store}, the same command goes on", err=True
        )
        return 130
    click.echo(f"{len(paths)} images, {n_new} of them extracted now; store: {store}")
    return list_skipped([{"image": paths[i], "reason": reason} for i, reason in features.skipped_])


def _calibration_images(directory: Path, paths: list[str]) -> list[Path]:
    """Return those that `evaluate` would take, so that it finds what is extracted; all without classes."""
    from medvlad.datasets.folders import load_image_folder
    from medvlad.experiment import calibration_images

    try:
        return calibration_images(load_image_folder(directory))
    except InputError as error:
        logger.info("int8 is calibrated on all images: %s", error)
        return [Path(path) for path in sorted(paths)]


@click.group()
def store() -> None:
    """Look after a folder of descriptors."""


@store.command("ls")
@click.argument("folder", metavar="STORE", type=PATH)
def store_ls(folder: Path) -> None:
    """List what a store holds: images, size and settings of each section."""
    for section in _sections(folder):
        settings = ", ".join(f"{name} {value}" for name, value in sorted(section.settings.items()))
        click.echo(f"{len(section)} images, {section.n_bytes() / 1e6:.1f} MB: {settings}")


@store.command("verify")
@click.argument("folder", metavar="STORE", type=PATH)
@click.option("--recompute", type=int, metavar="N", help="Extract N images again as well, and compare.")
@click.option(
    "--images",
    type=PATH,
    multiple=True,
    help="--recompute: a folder of images, or an image; may be repeated.",
)
@click.option("--weights", default="imagenet", show_default=True, help="--recompute: as for extract.")
@click.option("--engine", default="auto", show_default=True, help="--recompute: as for extract.")
@click.option("--threads", type=int, help="--recompute: threads [default: all processors].")
def store_verify(
    folder: Path,
    recompute: int | None,
    images: tuple[Path, ...],
    weights: str,
    engine: str,
    threads: int | None,
) -> int:
    """Read everything in a store and say what is damaged; exit status 2 if anything is.

    With --recompute, images are extracted again with the settings of each section that holds them.
    """
    if (recompute is None) != (not images):
        raise InputError("--recompute N needs the images: add --images FOLDER; --images needs --recompute N")
    n_images, damage = 0, []
    for section in _sections(folder):
        n_images += len(section)
        damage += section.verify()
    different: list[str] = []
    if recompute is not None:
        n_compared, different, not_checked = _recomputed(folder, images, recompute, weights, engine, threads)
        for sentence in not_checked:
            click.echo(f"medvlad: {sentence}", err=True)
        click.echo(f"{n_compared} images recomputed, {len(different)} of them differ")
    for sentence in damage + different:
        click.echo(f"medvlad: {sentence}", err=True)
    state = f"{len(damage)} damaged; 'medvlad store gc' removes them" if damage else "nothing is damaged"
    click.echo(f"{n_images} images, {state}")
    return 2 if damage or different else 0


def _recomputed(
    folder: Path,
    given: tuple[Path, ...],
    n: int,
    weights: str,
    engine: str,
    threads: int | None,
) -> tuple[int, list[str], list[str]]:
    from medvlad.datasets.folders import list_images
    from medvlad.extraction.store_check import recompute_store
    from medvlad.images import list_frames

    images: list[Any] = []
    for path in given:
        images += list_images(path) if path.is_dir() else list_frames(path)
    start_keras()
    return recompute_store(folder, images, n, weights=weights, engine=engine, n_threads=threads)


@store.command("gc")
@click.argument("folder", metavar="STORE", type=PATH)
def store_gc(folder: Path) -> None:
    """Remove from a store what is damaged, double, or was left by a process that was killed."""
    freed = sum(section.gc() for section in _sections(folder))
    click.echo(f"freed {freed / 1e6:.1f} MB")


def _sections(folder: Path) -> list[Any]:
    from medvlad.store.store import DescriptorStore

    if not (folder / "format.json").is_file():
        raise InputError(f"{folder} is no descriptor store: name the folder that --store was given")
    return list(DescriptorStore(folder).sections())
