"""Plain text for the terminal: tables, and names of files that hold control characters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["printable", "text_table"]

#: Control characters of ASCII and Latin 1, and Unicode's two line breaks.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def printable(text: str) -> str:
    r"""Return `text` with control characters written as Python escapes.

    A file may have a line break in its name. In a text for people it would end the line, and an escape
    character could move the cursor or change colours.

    Examples
    --------
    >>> print(printable("two\nlines"))
    two\nlines
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def text_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table of left-aligned columns, with a line of dashes below the header.

    Parameters
    ----------
    header : sequence of str
        One title for each column.
    rows : iterable of sequences
        One cell for each column. None is shown as "-", other values as ``str(value)``
        with control characters escaped.

    Returns
    -------
    str
        Lines without trailing spaces and without a final line break. Two spaces separate the columns.

    Raises
    ------
    ValueError
        If a row has another number of cells than the header.
    """
    cells = [list(header), *(["-" if cell is None else printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )
