"""List the images that a user names: files, folders, lists of names and tables, one after another.

::

    scan.png, scan.dcm#3    an image, or all images of a file
    FOLDER                  all images below a folder, sorted
    @list.txt               names in a text file, one a line
    -                       names on standard input, one a line
    table.csv, .parquet     names in a column of a table, which evaluate would read too
    s3://bucket/...         any of these by URL

Names in a list are read when they are needed, so a list of a million names takes no memory. A table is read
as a whole, by :mod:`medvlad.datasets.manifest`. Names in a list are relative to the current folder, and names
in a table to the folder of the table. Both may be written with the backslashes of Windows. An image may be
named more than once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, overload

from medvlad._util.object_path import ObjectPath, location, plain
from medvlad._util.urls import is_url, without_secrets
from medvlad._util.validate import InputError, one_line
from medvlad.datasets.arriving import PAUSE, Pause, arriving_lines
from medvlad.datasets.feature_files import is_feature_folder
from medvlad.datasets.listing import Listing
from medvlad.datasets.manifest import is_table, list_files
from medvlad.datasets.manifest_files import local_name
from medvlad.images.formats import is_picture_name
from medvlad.images.frames import split_frame

__all__ = ["STANDARD_INPUT", "check_inputs", "list_inputs", "names_an_image"]

STANDARD_INPUT = "-"


def check_inputs(
    inputs: Sequence[str],
    *,
    image_root: str | os.PathLike[str] | None = None,
    image_column: str | None = None,
    must_exist: bool = True,
) -> None:
    """Check what can be checked without reading images. No network is needed for this.

    Parameters
    ----------
    inputs : sequence of str
    image_root, image_column
        See :func:`list_inputs`.
    must_exist : bool, default=True
        Whether a missing image file is an error. A missing list or table always is.

    Raises
    ------
    InputError
        If a file does not exist, standard input is named twice, a table or its column of images does not fit,
        or `image_root` or `image_column` is given without a table.
    """
    for option, value in (("image_root", image_root), ("image_column", image_column)):
        if value is not None and not any(map(_is_table, inputs)):
            raise InputError(f"`{option}` is for tables, and no table is given: leave it out")
    if list(inputs).count(STANDARD_INPUT) > 1:
        raise InputError("standard input (-) can be read once only: name it once")
    for name in inputs:
        if name == STANDARD_INPUT:
            continue
        if name.startswith("@"):
            listed = location(name[1:], "the list of images")
            if not listed.is_file():
                advice = "" if is_url(name[1:]) else f", or write ./{name} for an image of that name"
                raise InputError(
                    f"there is no list of images {_shown(name[1:]) or '(no name)'}: check the path{advice}"
                )
            continue
        file, _ = split_frame(name)
        if not file.exists() and (must_exist or _is_table(name)):
            raise InputError(f"there is no image {_shown(name)}: check the path")
        if _is_table(name):
            list_files(name, image_root=image_root, image_column=image_column, must_exist=must_exist)


@overload
def list_inputs(
    inputs: Iterable[str],
    *,
    image_root: str | os.PathLike[str] | None = ...,
    image_column: str | None = ...,
    standard_input: BinaryIO | None = ...,
    pauses: Literal[False] = ...,
) -> Iterator[str]: ...
@overload
def list_inputs(
    inputs: Iterable[str],
    *,
    image_root: str | os.PathLike[str] | None = ...,
    image_column: str | None = ...,
    standard_input: BinaryIO | None = ...,
    pauses: bool,
) -> Iterator[str | Pause]: ...
def list_inputs(
    inputs: Iterable[str],
    *,
    image_root: str | os.PathLike[str] | None = None,
    image_column: str | None = None,
    standard_input: BinaryIO | None = None,
    pauses: bool = False,
) -> Iterator[str | ObjectPath | Pause] | Iterator[str | ObjectPath]:
    """Yield the names of images in the order of the inputs.

    Parameters
    ----------
    inputs : iterable of str
        See :mod:`medvlad.datasets.image_inputs`.
    image_root, image_column
        See :func:`medvlad.load_manifest`.
    standard_input : binary file or None, default=None
        What ``-`` reads. None: standard input.
    pauses : bool, default=False
        Whether to yield :data:`medvlad.datasets.arriving.PAUSE` when standard input holds no further name
        now. A line with a null byte, which no file name holds, is then a name as well, so that one bad line
        does not end a service.

    Yields
    ------
    str, ObjectPath or Pause
        An image or a file of several images. Whether it exists is not checked. URLs are paths, because the
        text of a URL may hold a signature.

    Raises
    ------
    InputError
        If standard input, a folder, list or table cannot be read, or names no image.
    """
    for name in inputs:
        if name == STANDARD_INPUT:
            file = sys.stdin.buffer if standard_input is None else standard_input
            yield from _lines(arriving_lines(file) if pauses else file, "standard input", as_it_is=pauses)
        elif name.startswith("@"):
            yield from _lines_of(location(name[1:], "the list of images"))
        elif _is_table(name) and location(name, "the table").is_file():
            yield from map(
                plain,
                list_files(name, image_root=image_root, image_column=image_column, must_exist=False),
            )
        elif _is_folder(name):
            yield from _images_below(location(name, "the folder"))
        else:
            yield _as_given(name)


def names_an_image(name: str) -> bool:
    """Return whether an input is an image or a file of images: no folder, list or table."""
    return not (name == STANDARD_INPUT or name.startswith("@") or _is_table(name) or _is_folder(name))


def _shown(name: str) -> str:
    return without_secrets(name) if is_url(name) else name


def _is_folder(name: str) -> bool:
    path = location(name, "the image")
    return not (isinstance(path, ObjectPath) and is_picture_name(path.name)) and path.is_dir()


def _as_given(name: str, *, as_it_is: bool = False) -> str | ObjectPath:
    """Return the name of an image as it was given. A URL becomes a path, whose text is safe to show.

    With `as_it_is`, a wrong URL is not an error here, and its secrets are hidden. Reading it is one.
    """
    if not is_url(name):
        return name
    try:
        return plain(location(name, "the image"))
    except InputError:
        if not as_it_is:
            raise
        return without_secrets(name)


def _is_table(name: str) -> bool:
    return not (name == STANDARD_INPUT or name.startswith("@")) and is_table(name)


def _images_below(folder: Path) -> Iterator[str | ObjectPath]:
    listing, any_found = Listing(of_features=is_feature_folder(folder)), False
    for found in listing.walk(folder):
        any_found = True
        yield plain(found.path)
    if not any_found:
        raise InputError(f"there is no image below {folder}: give a folder that holds images")
    listing.report(folder)


def _lines_of(path: Path) -> Iterator[str | ObjectPath | Pause]:
    try:
        with path.open("rb") as file:
            yield from _lines(file, f"the list of images {path}")
    except OSError as error:
        raise InputError(
            f"the list of images {path} cannot be read ({error.strerror or one_line(error)}): check the path"
        ) from error


def _lines(
    file: Iterable[bytes | Pause], what: str, *, as_it_is: bool = False
) -> Iterator[str | ObjectPath | Pause]:
    """Yield the lines of a file without line breaks and the mark of UTF-8. Empty lines are left out.

    With `as_it_is`, a line with a null byte or a wrong URL is not an error.
    """
    any_found, n_lines = False, 0
    for line in file:
        if line is PAUSE:
            yield PAUSE
            continue
        n_lines += 1
        name = os.fsdecode((line.removeprefix(b"\xef\xbb\xbf") if n_lines == 1 else line).rstrip(b"\r\n"))
        has_null = "\0" in name
        if has_null and not as_it_is:
            raise InputError(
                f"line {n_lines} of the list of images holds a null byte: write one name a line, in UTF-8"
            )
        if name.strip():
            any_found = True
            if has_null:
                yield name
            elif is_url(name):
                yield _as_given(name, as_it_is=as_it_is)
            else:
                yield local_name(name)
    if not any_found:
        raise InputError(f"{what} names no image: write one name a line")
