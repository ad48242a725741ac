"""A finished figure: PNG for the page, SVG for a paper, and its numbers as a table.

matplotlib (extra ``report``) draws without its global state. The colours are those of Okabe & Ito, which most
people with a colour vision deficiency can tell apart. Legends are below the axes, so they hide no data.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, Self

from medvlad._util.validate import import_extra

__all__ = ["COLOURS", "SIDE", "Drawing", "finished", "new_axes", "plain", "unit_axes", "with_legend"]

#: Colours of curves, in the order of their use.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#000000")

#: Side of a square figure in inches.
SIDE = 4.2

_DPI = 130
_LEGEND_FONT = 10
_LEGEND_LINE = 0.205  # inches
_WIDE_NAME = 13  # characters; a legend with longer names has one column


class Drawing(bytes):
    """A figure as PNG, which also holds the figure as SVG and its numbers.

    Attributes
    ----------
    svg : bytes
    header : tuple of str
        Titles of the columns of its numbers.
    rows : tuple of tuples
        One cell for each column: text, a number, or None.
    """

    svg: bytes
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def __new__(cls, png: bytes, svg: bytes, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Self:
        """Make a drawing of PNG data."""
        drawing = super().__new__(cls, png)
        drawing.svg, drawing.header, drawing.rows = svg, tuple(header), tuple(map(tuple, rows))
        return drawing

    def csv(self) -> bytes:
        """Return the numbers as a table (CSV). Numbers have all their digits."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(self.header)
        table.writerows([repr(one) if isinstance(one, float) else one for one in row] for row in self.rows)
        return text.getvalue().encode("utf-8", "surrogateescape")


def finished(figure: Any, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Drawing:
    """Return a matplotlib figure as a drawing, with the numbers that it shows.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    header : sequence of str
    rows : iterable of sequences

    Returns
    -------
    Drawing
    """
    return Drawing(_png(figure), _svg(figure), header, ([_plain_number(one) for one in row] for row in rows))


def new_axes(width: float = SIDE, height: float = SIDE) -> tuple[Any, Any]:
    """Return a figure of this size in inches, and its only axes."""
    figure = import_extra("matplotlib.figure", "report", "figures").Figure(
        (width, height), layout="constrained"
    )
    return figure, figure.add_subplot()


def unit_axes(axes: Any, x: str, y: str) -> None:
    """Let both axes go from 0 to 1, with a grid."""
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    axes.grid(color="0.92")


def with_legend(figure: Any, axes: Any) -> Any:
    """Put a legend below the axes. The figure grows by its height, so the axes keep their size."""
    handles, names = axes.get_legend_handles_labels()
    if not handles:
        return figure
    columns = 1 if max(map(len, names)) > _WIDE_NAME else 2
    columns = min(columns, len(names))
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + _LEGEND_LINE * -(-len(names) // columns))
    figure.legend(
        handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=_LEGEND_FONT
    )
    return figure


def plain(name: str) -> str:
    """Return a name that matplotlib shows as it is: no mathematics, and not left out of a legend."""
    return name.replace("$", r"\$") if not name.startswith("_") else f" {name}".replace("$", r"\$")


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _svg(figure: Any) -> bytes:
    """Return SVG with the same ids in every run. matplotlib reads their seed from its settings only."""
    matplotlib = import_extra("matplotlib", "report", "figures")
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "medvlad"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _plain_number(value: Any) -> Any:
    """Return a NumPy number as a Python one."""
    return value.item() if hasattr(value, "item") else value
