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
from typing import BinaryIO

from medvlad._util.object_path import ObjectPath, location, plain
from medvlad._util.urls import is_url
from medvlad._util.validate import InputError, one_line
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
            if not location(name[1:], "the list of images").is_file():
                raise InputError(
                    f"there is no list of images {name[1:] or '(no name)'}: check the path, or write "
                    f"./{name} for an image of that name"
                )
            continue
        file, _ = split_frame(name)
        if not file.exists() and (must_exist or _is_table(name)):
            raise InputError(f"there is no image {name}: check the path")
        if _is_table(name):
            list_files(name, image_root=image_root, image_column=image_column, must_exist=must_exist)


def list_inputs(
    inputs: Iterable[str],
    *,
    image_root: str | os.PathLike[str] | None = None,
    image_column: str | None = None,
    standard_input: BinaryIO | None = None,
) -> Iterator[str | ObjectPath]:
    """Yield the names of images in the order of the inputs.

    Parameters
    ----------
    inputs : iterable of str
        See :mod:`medvlad.datasets.image_inputs`.
    image_root, image_column
        See :func:`medvlad.load_manifest`.
    standard_input : binary file or None, default=None
        What ``-`` reads. None: standard input.

    Yields
    ------
    str or ObjectPath
        An image or a file of several images. Whether it exists is not checked. URLs are paths, because the
        text of a URL may hold a signature.

    Raises
    ------
    InputError
        If standard input, a folder, list or table cannot be read, or names no image.
    """
    for name in inputs:
        if name == STANDARD_INPUT:
            yield from _lines(
                sys.stdin.buffer if standard_input is None else standard_input, "standard input"
            )
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


def _is_folder(name: str) -> bool:
    path = location(name, "the image")
    return not (isinstance(path, ObjectPath) and is_picture_name(path.name)) and path.is_dir()


def _as_given(name: str) -> str | ObjectPath:
    """Return the name of an image as it was given. A URL becomes a path, whose text is safe to show."""
    return plain(location(name, "the image")) if is_url(name) else name


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


def _lines_of(path: Path) -> Iterator[str | ObjectPath]:
    try:
        with path.open("rb") as file:
            yield from _lines(file, f"the list of images {path}")
    except OSError as error:
        raise InputError(
            f"the list of images {path} cannot be read ({error.strerror or one_line(error)}): check the path"
        ) from error


def _lines(file: Iterable[bytes], what: str) -> Iterator[str | ObjectPath]:
    """Yield the lines of a file without line breaks and the mark of UTF-8. Empty lines are left out."""
    any_found = False
    for i, line in enumerate(file):
        name = os.fsdecode((line.removeprefix(b"\xef\xbb\xbf") if i == 0 else line).rstrip(b"\r\n"))
        if "\0" in name:
            raise InputError(
                f"line {i + 1} of the list of images holds a null byte: write one name a line, in UTF-8"
            )
        if name.strip():
            any_found = True
            yield _as_given(name) if is_url(name) else local_name(name)
    if not any_found:
        raise InputError(f"{what} names no image: write one name a line")
