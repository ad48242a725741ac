"""The commands store ls, store verify and store gc."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import cloup

from medvlad.cli import options
from medvlad.cli.console import Command, say

__all__ = ["store"]

FOLDER = cloup.argument(
    "folder", metavar="STORE", type=options.PATH_OR_URL, help="Folder of the store, or its URL."
)


@cloup.group(no_args_is_help=True)
def store() -> None:
    """List, verify and clean a store of descriptors."""


@store.command("ls", cls=Command)
@FOLDER
def store_ls(folder: Path) -> None:
    """List number of images, size and settings of each section."""
    for section in _sections(folder):
        settings = ", ".join(f"{name} {value}" for name, value in sorted(section.settings.items()))
        click.echo(f"{len(section)} images, {section.n_bytes() / 1e6:.1f} MB: {settings}")


@store.command(
    "verify",
    cls=Command,
    examples=[
        "medvlad store verify descriptors",
        "medvlad store verify descriptors --recompute 20 --images chest_xray",
    ],
)
@FOLDER
@cloup.option(
    "--recompute", type=int, metavar="N", help="Number of images to extract again and compare with the store."
)
@cloup.option(
    "--images",
    type=options.PATH_OR_URL,
    metavar="PATH",
    multiple=True,
    help="With --recompute: image, or folder of images; may be repeated.",
)
@options.WEIGHTS
@options.ENGINE
@options.THREADS
def store_verify(
    folder: Path,
    recompute: int | None,
    images: tuple[Path, ...],
    weights: str,
    engine: str,
    threads: int | None,
) -> int:
    """Read a whole store and list what is damaged.

    The exit status is 2 if anything is damaged. With --recompute, images are also extracted
    again, with the settings of each section that holds them.
    """
    if (recompute is None) != (not images):
        raise click.UsageError(
            "--recompute N needs images: add --images FOLDER; and --images needs --recompute N"
        )
    n_images, damage = 0, []
    for section in _sections(folder):
        n_images += len(section)
        damage += section.verify()
    different: list[str] = []
    if recompute is not None:
        n_compared, different, not_checked = _recomputed(folder, images, recompute, weights, engine, threads)
        for sentence in not_checked:
            say(sentence)
        click.echo(f"{n_compared} images recomputed, {len(different)} of them differ")
    for sentence in damage + different:
        say(sentence)
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
    from medvlad.extraction.keras_startup import start_keras
    from medvlad.extraction.store_check import is_of_keras, recompute_store
    from medvlad.extraction.weights import check_weights
    from medvlad.images import list_frames

    of_keras = [is_of_keras(section) for section in _sections(folder)]
    if all(of_keras):
        check_weights(weights)
    images: list[Any] = []
    for path in given:
        images += list_images(path) if path.is_dir() else list_frames(path)
    if any(of_keras):
        start_keras()
    return recompute_store(folder, images, n, weights=weights, engine=engine, n_threads=threads)


@store.command("gc", cls=Command)
@FOLDER
def store_gc(folder: Path) -> None:
    """Remove damaged and duplicate entries, and files of killed processes."""
    freed = sum(section.gc() for section in _sections(folder))
    click.echo(f"freed {freed / 1e6:.1f} MB")


def _sections(folder: Path) -> list[Any]:
    from medvlad.store.store import DescriptorStore

    if not (folder / "format.json").is_file():
        raise click.UsageError(f"{folder} is no descriptor store: name the folder that was given to --store")
    return list(DescriptorStore(folder).sections())
