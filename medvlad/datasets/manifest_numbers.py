"""Read numbers of a table, with a decimal point or a decimal comma.

A comma is a decimal separator only if it does not separate the cells of the table. A column has one way of
writing: a point beside decimal commas, as in ``1.234,5``, is refused, because it may separate thousands.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medvlad._util.validate import InputError
from medvlad.datasets.manifest_files import rows_in_words
from medvlad.datasets.manifest_table import Table

__all__ = ["NUMBER", "UNKNOWN_WORDS", "read_numbers", "with_decimal_points"]

_choices = logging.getLogger("medvlad.datasets.manifest_columns")

UNKNOWN_WORDS = frozenset(("", "na", "n/a", "nan", "null", "none", "<na>"))
"""What cells of numbers, patients and sites hold, in lower case, if there is no value."""

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
"""A number with a decimal point, or without one."""

_WITH_COMMA = re.compile(r"[-+]?(?:\d+,\d*|,\d+)(?:[eE][-+]?\d+)?")
_WITH_BOTH = re.compile(r"[-+]?\d{1,3}(?:(?:\.\d{3})+,\d*|(?:,\d{3})+\.\d*|(?:\.\d{3}){2,}|(?:,\d{3}){2,})")


def with_decimal_points(table: Table, column: str) -> Sequence[str]:
    """Return the cells of a column, with decimal points if they are numbers with decimal commas.

    Other columns, and those of a table that is separated by commas, are returned unchanged.

    Raises
    ------
    InputError
        If a column of numbers has both commas and points. The message names the rows.
    """
    cells = table.columns[column]
    if not table.decimal_comma:
        return cells
    known = {cell for cell in set(cells) if cell.lower() not in UNKNOWN_WORDS}
    if not any("," in cell for cell in known) or not all(map(_is_number, known)):
        return cells
    wrong = {cell for cell in known if "." in cell or cell.count(",") > 1}
    if wrong:
        rows = [i for i, cell in enumerate(cells) if cell in wrong]
        raise InputError(
            f"the column {column!r} of {table.name} holds numbers with commas and points "
            f"({rows_in_words(table, rows, cells)}): write numbers such as 3,1 or 3.1 in one way, and 1234,5 "
            "without a separator of thousands"
        )
    example = next(cell for cell in cells if "," in cell)
    _choices.info(
        "%s: the column %r has decimal commas, and %s is read as %s",
        *(table.name, column, example, example.replace(",", ".")),
    )
    return tuple([cell.replace(",", ".") if cell in known else cell for cell in cells])


def _is_number(cell: str) -> bool:
    return any(pattern.fullmatch(cell) for pattern in (NUMBER, _WITH_COMMA, _WITH_BOTH))


def read_numbers(table: Table, column: str) -> NDArray[np.float64]:
    """Return the numbers of a column (n,). NaN: not known.

    Raises
    ------
    InputError
        If a cell holds anything else. The message names the rows.
    """
    cells = with_decimal_points(table, column)
    values = np.empty(len(table.rows))
    wrong = []
    for i, cell in enumerate(cells):
        if NUMBER.fullmatch(cell):
            values[i] = float(cell)
        else:
            values[i] = math.nan
            if cell.lower() not in UNKNOWN_WORDS:
                wrong.append(i)
    wrong += np.flatnonzero(np.isinf(values)).tolist()
    if not wrong:
        return values
    if any(_WITH_COMMA.fullmatch(cells[i]) for i in wrong) and not table.decimal_comma:
        raise InputError(
            f"the column {column!r} of {table.name} holds numbers with a decimal comma "
            f"({rows_in_words(table, sorted(wrong), cells)}): write a decimal point, such as 3.1, or save "
            "the table with semicolons between its cells"
        )
    others = [i for i in wrong if not (table.decimal_comma and _WITH_COMMA.fullmatch(cells[i]))]
    raise InputError(
        f"the column {column!r} of {table.name} must hold numbers such as 3.5 or empty cells, but "
        f"holds other values ({rows_in_words(table, sorted(others), cells)}): correct them"
    )
