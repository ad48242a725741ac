"""List the images that a user names: files, folders, lists of names and tables, one after another.

::

    scan.png, scan.dcm#3    an image, or all images of a file
    FOLDER                  all images below a folder, sorted
    @list.txt               names in a text file, one a line
    -                       names on standard input, one a line
    table.csv, table.tsv    names in a column called image, path, file or filename

Names are read when they are needed, so a list of a million names takes no memory. Names in a list are
relative to the current folder, and names in a table to the folder of the table. An image may be named more
than once.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from medvlad._util.validate import InputError, check_local, one_line
from medvlad.datasets.feature_files import is_feature_folder
from medvlad.datasets.listing import Listing
from medvlad.images.frames import split_frame

__all__ = ["STANDARD_INPUT", "check_inputs", "list_inputs", "names_an_image"]

STANDARD_INPUT = "-"
_TABLES = (".csv", ".tsv")
_COLUMNS = ("image", "path", "file", "filename")
_DELIMITERS = ",;\t"


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
        If a file does not exist, standard input is named twice, or a table has no column of images.
    """
    if list(inputs).count(STANDARD_INPUT) > 1:
        raise InputError("standard input (-) can be read once only: name it once")
    for name in inputs:
        if name == STANDARD_INPUT:
            continue
        if name.startswith("@"):
            if not Path(name[1:]).is_file():
                raise InputError(
                    f"there is no list of images {name[1:] or '(no name)'}: check the path, or write "
                    f"./{name} for an image of that name"
                )
            continue
        file, _ = split_frame(name)
        if not file.exists() and (must_exist or _is_table(name)):
            raise InputError(f"there is no image {name}: check the path")
        if _is_table(name) and file.is_file():
            next(_rows(file, image_root, image_column), None)
    if image_root is not None and not Path(image_root).is_dir():
        raise InputError(f"the folder of images {image_root} does not exist: check `image_root`")


def list_inputs(
    inputs: Iterable[str],
    *,
    image_root: str | os.PathLike[str] | None = None,
    image_column: str | None = None,
    standard_input: BinaryIO | None = None,
) -> Iterator[str]:
    """Yield the names of images in the order of the inputs.

    Parameters
    ----------
    inputs : iterable of str
        See :mod:`medvlad.datasets.image_inputs`.
    image_root : path or None, default=None
        Folder that names in tables are relative to. None: the folder of the table.
    image_column : str or None, default=None
        Column of a table that names the images. None: image, path, file or filename, in any case.
    standard_input : binary file or None, default=None
        What ``-`` reads. None: standard input.

    Yields
    ------
    str
        An image or a file of several images. Whether it exists is not checked.

    Raises
    ------
    InputError
        If a folder, list or table cannot be read, or holds no image.
    """
    for name in inputs:
        if name == STANDARD_INPUT:
            yield from _lines(sys.stdin.buffer if standard_input is None else standard_input)
        elif name.startswith("@"):
            yield from _lines_of(Path(name[1:]))
        elif _is_table(name) and Path(name).is_file():
            yield from _rows(Path(name), image_root, image_column)
        elif Path(name).is_dir():
            yield from _images_below(Path(name))
        else:
            yield name


def names_an_image(name: str) -> bool:
    """Return whether an input is an image or a file of images: no folder, list or table."""
    return not (name == STANDARD_INPUT or name.startswith("@") or _is_table(name) or Path(name).is_dir())


def _is_table(name: str) -> bool:
    return Path(name).suffix.lower() in _TABLES


def _images_below(folder: Path) -> Iterator[str]:
    listing, any_found = Listing(of_features=is_feature_folder(folder)), False
    for found in listing.walk(folder):
        any_found = True
        yield str(found.path)
    if not any_found:
        raise InputError(f"there is no image below {folder}: give a folder that holds images")
    listing.report(folder)


def _lines_of(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            yield from _lines(file)
    except OSError as error:
        raise InputError(
            f"the list of images {path} cannot be read ({error.strerror or one_line(error)}): check the path"
        ) from error


def _lines(file: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines of a file without line breaks and the mark of UTF-8. Empty lines are left out."""
    for i, line in enumerate(file):
        name = os.fsdecode((line.removeprefix(b"\xef\xbb\xbf") if i == 0 else line).rstrip(b"\r\n"))
        if "\0" in name:
            raise InputError(
                f"line {i + 1} of the list of images holds a null byte: write one name a line, in UTF-8"
            )
        if name.strip():
            yield name


def _rows(path: Path, image_root: str | os.PathLike[str] | None, image_column: str | None) -> Iterator[str]:
    """Yield the images that a table names."""
    root = path.parent if image_root is None else Path(image_root)
    try:
        with path.open("rb") as opened:
            coding = "utf-16" if opened.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
            opened.seek(0)
            with io.TextIOWrapper(opened, encoding=coding, newline="") as text:
                first = text.readline()
                delimiter = max(_DELIMITERS, key=first.count)
                rows = csv.reader(chain([first], text), delimiter=delimiter)
                column = _column(path, next(rows, []), image_column)
                for row in rows:
                    if not any(cell.strip() for cell in row):
                        continue
                    if column >= len(row) or not row[column].strip():
                        raise InputError(
                            f"{path}, row {rows.line_num} has no image: name one, or remove the row"
                        )
                    name = check_local(row[column].strip(), f"{path}, row {rows.line_num}: the image")
                    yield str(root / name)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"the table {path} cannot be read ({one_line(error)}): save it as CSV in UTF-8"
        ) from error


def _column(path: Path, header: Sequence[str], wanted: str | None) -> int:
    """Return the index of the column of images."""
    names = [name.strip().lower() for name in header]
    for name in _COLUMNS if wanted is None else (wanted.strip().lower(),):
        if name in names:
            return names.index(name)
    found = ", ".join(name.strip() for name in header) or "nothing"
    expected = "image, path, file or filename" if wanted is None else repr(wanted)
    raise InputError(
        f"the table {path} has no column {expected}, its first row is {found}: name the column with "
        "image_column"
    )
