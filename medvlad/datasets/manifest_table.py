"""Read a table as text: CSV, TSV and Parquet files, and DataFrames of pandas or polars.

All cells become text without spaces around it, and a cell without a value becomes "". Rows are counted as a
spreadsheet counts them: the header is row 1. Rows without any text are left out.

A CSV may be separated by commas, semicolons or tabs. It may begin with a byte order mark, in UTF-8 or UTF-16,
or with Excel's line ``sep=;``. Text in other encodings is refused, because a name that is guessed wrongly is
another file.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlad._util.object_path import ObjectPath, location
from medvlad._util.validate import InputError, import_extra, one_line
from medvlad.datasets.feature_files import FEATURE_SUFFIXES
from medvlad.images.formats import is_image_name

__all__ = ["TABLE_SUFFIXES", "Table", "is_table", "read_table"]

TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".parquet", ".pq")
"""File name endings, in lower case, of tables that are read."""

_PARQUET = (".parquet", ".pq")
_WORKBOOKS = (".xlsx", ".xls", ".xlsm", ".ods")
_DELIMITERS = (",", ";", "\t")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SHOWN = 60  # characters of a row in a message
_BLOCK = 512  # rows; fewer lists than start the search of Python's garbage collector


@dataclass(frozen=True, eq=False)
class Table:
    """A table as text.

    Attributes
    ----------
    name : str
        How messages call it: the file in quotation marks, or "the table".
    folder : Path or None
        Folder of the file. None: it was not read from a file.
    columns : dict of str to tuple of str
        Cells of each column, without spaces around them. "" if there is no value. Tuples, because Python's
        garbage collector searches a long list of texts again and again.
    rows : sequence of int
        Number of each row as a spreadsheet counts them.
    n_empty : int
        Number of rows without any text, which are left out.
    decimal_comma : bool
        Whether a comma may be the decimal separator of numbers, because it does not separate the cells.
    """

    name: str
    folder: Path | None
    columns: dict[str, tuple[str, ...]]
    rows: Sequence[int]
    n_empty: int = 0
    decimal_comma: bool = False


def is_table(path: object) -> bool:
    """Return whether a path is that of a table: by its ending, unless it is a folder."""
    if not isinstance(path, str | os.PathLike):
        return hasattr(path, "columns")
    file = location(path, "the table")
    is_folder = not isinstance(file, ObjectPath) and file.is_dir()
    return file.suffix.lower() in (*TABLE_SUFFIXES, *_WORKBOOKS) and not is_folder


def read_table(table: Any) -> Table:
    """Read a table as text.

    Parameters
    ----------
    table : path or DataFrame
        A CSV, TSV or Parquet file, or a DataFrame of pandas, polars or a library with the same methods.

    Raises
    ------
    InputError
        If it is no table, cannot be read or holds no row.
    MissingExtraError
        If it is a Parquet file and the extra tables is not installed.
    """
    if not isinstance(table, str | os.PathLike):
        return _with_rows(_of_frame(table))
    path = location(table, "the table")
    suffix = path.suffix.lower()
    if not isinstance(path, ObjectPath) and path.is_dir():
        raise InputError(f"the table {str(path)!r} is a folder: give a CSV, TSV or Parquet file")
    if suffix in _WORKBOOKS:
        raise InputError(f"{str(path)!r} is a workbook, which is not read: save the sheet as 'CSV UTF-8'")
    if suffix not in TABLE_SUFFIXES:
        raise InputError(
            f"{str(path)!r} is no table: give a file that ends in {', '.join(TABLE_SUFFIXES[:-1])} or "
            f"{TABLE_SUFFIXES[-1]}"
        )
    return _with_rows(_of_parquet(path) if suffix in _PARQUET else _of_text(path))


def _with_rows(table: Table) -> Table:
    if not table.rows:
        raise InputError(f"{table.name} holds no row below its header: add a row for each image")
    return table


def _of_frame(frame: Any) -> Table:
    names = getattr(frame, "columns", None)
    if names is None or not hasattr(frame, "__getitem__") or callable(names):
        raise InputError(
            "a table must be the path of a CSV, TSV or Parquet file, or a DataFrame of pandas or polars, "
            f"got {type(frame).__name__}"
        )
    texts = [str(name).strip() for name in names]
    _check_header("the table", texts)
    columns = {text: _as_texts(frame[name]) for text, name in zip(texts, names, strict=True)}
    n_rows = len(next(iter(columns.values()))) if columns else 0
    return _without_empty_rows("the table", None, columns, range(2, n_rows + 2))


def _as_texts(column: Any) -> tuple[str, ...]:
    values = column.to_list() if hasattr(column, "to_list") else list(column)
    whole = all(
        isinstance(value, float) and (math.isnan(value) or value.is_integer())
        for value in values
        if value is not None
    )
    return tuple([_as_text(value, whole=whole) for value in values])


def _as_text(value: Any, *, whole: bool) -> str:
    """Return a cell of a DataFrame as text. pandas turns a column of integers with a gap into floats."""
    if isinstance(value, str):
        return value.strip()
    if value is None or (isinstance(value, float) and math.isnan(value)) or str(value) in ("<NA>", "NaT"):
        return ""
    if whole:
        return str(int(value))
    return str(value).strip()


def _of_parquet(path: Path) -> Table:
    polars = import_extra("polars", "tables", "reading a Parquet file")
    try:
        with path.open("rb") as file:
            frame = polars.read_parquet(file)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except Exception as error:  # polars raises errors of its own, and panics for some damaged files
        raise InputError(
            f"the table {str(path)!r} cannot be read as Parquet ({one_line(error)[:200]}): write it again, "
            "or save it as CSV"
        ) from error
    found = _of_frame(frame)
    return Table(repr(str(path)), path.parent, found.columns, found.rows, found.n_empty)


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(f"the table {str(path)!r} cannot be read ({why}): check the path and its permissions")


def _of_text(path: Path) -> Table:
    name = repr(str(path))
    text = _decoded(path)
    lines = io.StringIO(text, newline="")  # keeps line breaks, because quoted cells may hold some
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise _no_header(name)
    if first.lower().startswith("sep=") and len(first.strip()) == 5:  # Excel does not show this line
        return _parsed(name, path.parent, lines, first.strip()[-1])
    lines.seek(0)
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else _find_delimiter(first)
    return _parsed(name, path.parent, lines, delimiter)


def _no_header(name: str) -> InputError:
    return InputError(f"the table {name} is empty: write a first row such as image,label")


def _decoded(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    if content.startswith(b"PK\x03\x04"):
        raise InputError(
            f"{str(path)!r} is a workbook or an archive under the name of a table: save the sheet as "
            "'CSV UTF-8'"
        )
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"row {row} of the table {str(path)!r} is not {encoding[:6].rstrip('-').upper()} (byte "
            f"0x{content[error.start]:02x}): save the table as 'CSV UTF-8'"
        ) from error
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(
            f"row {row} of the table {str(path)!r} holds a null character, as in binary files: save the "
            "table as 'CSV UTF-8'"
        )
    return text


def _find_delimiter(header: str) -> str:
    """Return the separator that divides the header into the most cells; a comma if all do alike."""
    return max(_DELIMITERS, key=lambda one: len(next(csv.reader([header], delimiter=one), [])))


def _parsed(name: str, folder: Path, lines: io.StringIO, delimiter: str) -> Table:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    number, header = _header(name, reader)
    width = len(header)
    columns: list[list[str]] = [[] for _ in header]
    rows: list[int] = []
    n_empty = 0
    for first, block in _blocks(name, reader, number + 1):
        fitting = block if set(map(len, block)) == {width} else _fitted(name, first, block, width)
        parts = [list(map(str.strip, cells)) for cells in zip(*fitting, strict=True)]
        kept = _rows_with_text(parts)
        n_empty += len(block) - len(kept)
        rows += [first + i for i in kept]
        for column, cells in zip(columns, parts, strict=True):
            column += cells if len(kept) == len(block) else [cells[i] for i in kept]
    named = {column: tuple(cells) for column, cells in zip(header, columns, strict=True) if column}
    kept_rows = rows if n_empty else range(number + 1, number + 1 + len(rows))
    return Table(name, folder, named, kept_rows, n_empty, decimal_comma=delimiter != ",")


def _header(name: str, reader: Iterator[list[str]]) -> tuple[int, list[str]]:
    """Return the number and the cells of the first row with any text."""
    for number, (row,) in _blocks(name, reader, 1, size=1):
        header = [cell.strip() for cell in row]
        if any(header):
            while not header[-1]:  # a separator at the end of each line
                header.pop()
            _check_header(name, [cell for cell in header if cell])
            return number, header
    raise _no_header(name)


def _blocks(
    name: str, reader: Iterator[list[str]], first: int, size: int = _BLOCK
) -> Iterator[tuple[int, list[list[str]]]]:
    """Yield rows of a CSV reader with the number of the first one. Its errors become those of this package.

    Working on blocks of rows takes a third of the time of working on single rows.
    """
    while True:
        block: list[list[str]] = []
        failed = None
        try:
            block.extend(itertools.islice(reader, size))  # keeps the rows before an error
        except csv.Error as error:
            failed = error
        if block:
            yield first, block
        first += len(block)
        if failed is not None:
            raise InputError(
                f"row {first} of {name} cannot be read as CSV ({one_line(failed)}): check its quotation marks"
            ) from failed
        if len(block) < size:
            return


def _fitted(name: str, first: int, block: list[list[str]], width: int) -> list[list[str]]:
    """Return rows with as many cells as the header."""
    for number, row in enumerate(block, first):
        if any(cell.strip() for cell in row[width:]):
            raise InputError(
                f"row {number} of {name} has {len(row)} cells, and the header has {width} "
                f"({_shown(row)}): put quotation marks around cells that hold the separator"
            )
    return [(row + [""] * width)[:width] for row in block]


def _rows_with_text(columns: Sequence[Sequence[str]]) -> Sequence[int]:
    """Return the indices of the rows that have a cell with text."""
    full = next((cells for cells in columns if all(cells)), None)
    if full is not None:
        return range(len(full))
    return [i for i, row in enumerate(zip(*columns, strict=True)) if any(row)]


def _shown(row: Iterable[str]) -> str:
    text = " | ".join(row)
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _check_header(name: str, header: list[str]) -> None:
    if any(is_image_name(cell) or cell.lower().endswith(FEATURE_SUFFIXES) for cell in header):
        raise InputError(
            f"{name} has no header, because its first row is {_shown(header)}: add a row such as image,label "
            "above it"
        )
    twice = [column for column, n in Counter(header).items() if n > 1]
    if twice:
        raise InputError(f"{name} has two columns {twice[0]!r}: rename or remove one of them")


def _without_empty_rows(
    name: str, folder: Path | None, columns: dict[str, tuple[str, ...]], rows: range
) -> Table:
    kept = _rows_with_text([*columns.values()])
    n_empty = len(rows) - len(kept)
    if not n_empty:
        return Table(name, folder, columns, rows)
    chosen = {column: tuple([cells[i] for i in kept]) for column, cells in columns.items()}
    return Table(name, folder, chosen, [rows[i] for i in kept], n_empty)
