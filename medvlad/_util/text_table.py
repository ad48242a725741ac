"""Plain-text tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["text_table"]


def text_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table of left-aligned columns, with a line of dashes below the header.

    Parameters
    ----------
    header : sequence of str
        One title for each column.
    rows : iterable of sequences
        One cell for each column. None is shown as "-", other values as ``str(value)``.

    Returns
    -------
    str
        Lines without trailing spaces and without a final line break. Two spaces separate the columns.

    Raises
    ------
    ValueError
        If a row has another number of cells than the header.
    """
    cells = [list(header), *(["-" if cell is None else str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )
