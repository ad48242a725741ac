"""What 'predict' does with names that go on arriving: on standard input, or as files in a folder or prefix.

The answers of --watch have the key ``version``, which tells the version of the file. A file of answers
(--out) is the memory of the service: after a restart, images with an answer for the present version of their
file are left out. There is no second file that could contradict it. A line that was cut by the end of a
process is removed, and its image gets an answer again.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from medvlad.cli.answer_writer import ReaderGone, lock_answers
from medvlad.cli.console import say
from medvlad.cli.settings import given_options
from medvlad.cli.streams import has_no_reader

if TYPE_CHECKING:
    from medvlad.datasets.watching import FolderWatch, WatchedPlace
    from medvlad.predict import Predicted

__all__ = [
    "check_watch",
    "default_format",
    "folder_watch",
    "predicted_in_service",
    "read_answered",
    "until_reader_ends",
]

Name = TypeVar("Name")


def check_watch(
    watch: Path | None, images: tuple[str, ...], format: str, out: Path | None, **others: Any
) -> None:
    """Refuse what does not fit --watch, and a command without any image.

    Raises
    ------
    click.UsageError
    """
    if watch is None:
        if not images:
            raise click.UsageError("Missing argument 'IMAGE...'.", click.get_current_context(silent=True))
        if given_options("settle"):
            raise click.UsageError("--settle is for --watch: leave it out, or give --watch DIR|URL")
        return
    if images:
        from medvlad._util.urls import is_url, without_secrets

        first = without_secrets(images[0]) if is_url(images[0]) else images[0]
        raise click.UsageError(f"--watch {watch} and {first} cannot be used together: leave one out")
    from medvlad._util.object_path import ObjectPath

    if isinstance(out, ObjectPath):
        raise click.UsageError(
            f"--watch adds each answer to its file, and an object such as --out {out} is written once: "
            "give a file of this machine"
        )
    for name, value in others.items():
        if value:
            option = "--" + name.replace("_", "-")
            raise click.UsageError(f"--watch and {option} cannot be used together: leave one out")
    if format == "json" or (out is not None and format != "jsonl"):
        raise click.UsageError(
            f"--watch has no end, and {format} "
            + ("is written at the end" if format == "json" else "cannot be continued after a restart")
            + ": give --format jsonl"
        )


def folder_watch(
    folder: Path, out: Path | None, *, settle: float, of_features: bool, overwrite: bool
) -> FolderWatch:
    """Return the watch of a folder, without the images that have an answer in `out`.

    Raises
    ------
    InputError
        If the folder or the file of answers cannot be read, or if the file lies in the folder.
    """
    from medvlad._util.object_path import ObjectPath, outside
    from medvlad.datasets.watched_prefix import FORGET_AFTER, ObjectPrefix
    from medvlad.datasets.watching import FolderWatch, LocalFolder

    place: WatchedPlace
    if isinstance(folder, ObjectPath):
        place = ObjectPrefix(folder, of_features=of_features)
        times: dict[str, Any] = {"settle": 0.0, "interval": settle, "forget": FORGET_AFTER}
    else:
        place = LocalFolder(folder, of_features=of_features)
        times = {"settle": settle}
    answered: dict[str, str] = {}
    if out is not None:
        outside(out, "--out", folder)
        if overwrite:
            out.unlink(missing_ok=True)
        if out.exists():
            answered = read_answered(out, {name for name, _ in _listed(place, folder)})
    return FolderWatch(place, answered, **times)


def _listed(place: WatchedPlace, folder: Path) -> Iterable[tuple[str, str]]:
    from medvlad._util.validate import InputError

    try:
        return place.files()
    except OSError as error:
        raise InputError(f"--watch {folder} cannot be listed ({error.strerror}): check the path") from None


def read_answered(out: Path, present: Container[str]) -> dict[str, str]:
    """Return the images with an answer, and the versions of their files. Remove a last line that was cut.

    Parameters
    ----------
    out : path
        File of JSON lines.
    present : container of str
        Files of which answers are returned, so that memory is bounded by the folder.

    Raises
    ------
    InputError
        If a line is none of an answer of --watch, or another process writes the file.
    """
    from medvlad._util.validate import InputError

    answered: dict[str, str] = {}
    with out.open("r+b") as file:
        lock_answers(file, out)
        for number, (line, begin) in enumerate(_lines(file), 1):
            if not line.endswith(b"\n"):
                file.truncate(begin)
                break
            try:
                said = json.loads(line)
                image, version = said["image"], said["version"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"line {number} of {out} is not an answer of --watch, so the file cannot be continued: "
                    "name another file, or give --overwrite"
                ) from error
            if image in present or image.rpartition("#")[0] in present:
                answered[image] = version
    return answered


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield each line and where it begins."""
    begin = 0
    while line := file.readline():
        yield line, begin
        begin += len(line)


def until_reader_ends(names: Iterable[Name], *, to_output: bool) -> Iterator[Name]:
    """Yield names. Raise `ReaderGone` at a pause if nobody reads standard output any more."""
    from medvlad.datasets.arriving import PAUSE

    for name in names:
        yield name
        if to_output and name is PAUSE and has_no_reader():
            raise ReaderGone


def predicted_in_service(
    predict: Callable[[], Iterator[Predicted]], watch: FolderWatch
) -> Iterator[Predicted]:
    """Yield the predictions of a watch, also after its object storage has failed for some time.

    Parameters
    ----------
    predict : callable
        Begins to predict what `watch` names.
    watch : FolderWatch
    """
    from medvlad._util.object_storage import StorageFailure

    while True:
        try:
            yield from with_versions(predict(), watch)
            return
        except StorageFailure as error:
            say(f"{error.what}: trying again", "warning")
            watch.put_back()


def with_versions(predicted: Iterable[Predicted], watch: FolderWatch) -> Iterator[Predicted]:
    """Yield predictions with the version of each file. Those of files that have changed are left out."""
    for one in predicted:
        if (version := watch.answer(str(one.path))) is not None:
            said: Any = {"version": version}
            if one.prediction is not None:
                yield dataclasses.replace(one, prediction=one.prediction | said)
            elif one.skipped is not None:
                yield dataclasses.replace(one, skipped=one.skipped | said)


def default_format(arriving: bool, out: Path | None) -> str:
    """Return the format if none is asked for: JSON lines for a program that waits for each answer."""
    return "jsonl" if arriving and not (out is None and sys.stdout.isatty()) else "table"
