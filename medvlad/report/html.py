"""One HTML file that holds everything it shows: text, tables and pictures, no script and no network.

Names of files and classes are somebody else's: every text is escaped, and the page's own policy forbids
scripts and anything from elsewhere.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL.Image import Image

from medvlad._util.atomic_file import write_file

__all__ = ["Page"]

_STYLE = """
:root { color: #1c2430; background: #fff; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 68rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #d5dbe3; padding-bottom: .2rem; }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
p, li { max-width: 46rem; }
.lead { color: #4a5667; margin-top: 0; }
/* A shadow at the side where more is to be scrolled to. */
.scroll { overflow-x: auto; background-repeat: no-repeat;
  background-image: linear-gradient(90deg, #fff 40%, transparent), linear-gradient(270deg, #fff 40%,
    transparent), linear-gradient(90deg, #0004, transparent), linear-gradient(270deg, #0004, transparent);
  background-position: left, right, left, right;
  background-size: 2rem 100%, 2rem 100%, .7rem 100%, .7rem 100%;
  background-attachment: local, local, scroll, scroll; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid #e4e8ee; white-space: nowrap; }
td small { color: #4a5667; }
td.wrap { white-space: normal; overflow-wrap: anywhere; }
th { border-bottom: 2px solid #9aa7b8; font-weight: 600; }
td.number, th.number { text-align: right; }
.caption { color: #4a5667; font-size: .9rem; margin-top: .2rem; }
.pictures { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.pictures.large { grid-template-columns: 1fr; }
figure { margin: 0; }
figure img { width: 100%; height: auto; border: 1px solid #e4e8ee; }
.large figure img { width: auto; max-width: 100%; }
figcaption { color: #4a5667; font-size: .9rem; overflow-wrap: anywhere; }
details { margin: .6rem 0; }
summary { cursor: pointer; font-weight: 600; }
.error { border-left: .3rem solid #b3261e; padding-left: .7rem; }
.warning { border-left: .3rem solid #b7791f; padding-left: .7rem; }
.note { border-left: .3rem solid #9aa7b8; padding-left: .7rem; }
@media print { details { display: block; } }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Page:
    """A page that is built from its beginning to its end.

    Parameters
    ----------
    title : str
    lead : str
        One sentence below it.
    """

    def __init__(self, title: str, lead: str = "") -> None:
        self._title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]
        if lead:
            self._parts.append(f'<p class="lead">{escape(lead)}</p>')

    def heading(self, text: str, level: int = 2) -> None:
        """Begin a section."""
        self._parts.append(f"<h{level}>{escape(text)}</h{level}>")

    def paragraph(self, text: str, kind: str = "") -> None:
        """Add a paragraph; `kind` is "error", "warning" or "note" for one with a bar at its side."""
        self._parts.append(
            f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"
        )

    def table(self, header: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> None:
        """Add a table; numbers, and columns of them, stand to the right. None is shown as a dash.

        What comes after a line's end in a text is shown below it, and smaller.
        """
        listed = [[_cell(value) for value in row] for row in rows]
        right = [bool(listed) and all(row[k][1] for row in listed) for k in range(len(header))]
        head = "".join(
            f'<th class="number">{escape(name)}</th>' if is_number else f"<th>{escape(name)}</th>"
            for name, is_number in zip(header, right, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(
                f'<td class="number">{text}</td>' if is_number else f"<td{_wrap(text)}>{text}</td>"
                for (text, _), is_number in zip(row, right, strict=True)
            )
            + "</tr>\n"
            for row in listed
        )
        below = f'<p class="caption">{escape(caption)}</p>' if caption else ""
        self._parts.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
            f"<tbody>{body}</tbody></table></div>{below}"
        )

    def pictures(self, pictures: Iterable[tuple[bytes | Image, str]], *, large: bool = False) -> None:
        """Add pictures (PNG, or images) with their captions, side by side or, if large, one below another."""
        shown = "".join(
            f'<figure><img alt="{escape(caption)}" src="{_source(picture)}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>\n"
            for picture, caption in pictures
        )
        self._parts.append(f'<div class="pictures{" large" if large else ""}">{shown}</div>')

    def details(self, summary: str, values: Mapping[str, Any]) -> None:
        """Add names and values that are shown when asked for."""
        rows = "".join(
            f'<tr><th>{escape(name)}</th><td class="wrap">{escape(str(value))}</td></tr>'
            for name, value in values.items()
        )
        self._parts.append(
            f"<details><summary>{escape(summary)}</summary>"
            f'<div class="scroll"><table><tbody>{rows}</tbody></table></div></details>'
        )

    def html(self) -> str:
        """Return the page."""
        body = "\n".join(self._parts)
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta name="generator" content="medvlad {escape(version("medvlad"))}">\n'
            f"<title>{escape(self._title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n"
            "</body>\n</html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the page.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        write_file(path, self.html().encode("utf-8", "backslashreplace"), "page")
        return Path(path)


def _cell(value: Any) -> tuple[str, bool]:
    """Escaped text of a value, and whether it is a number, or missing."""
    if value is None:
        return "-", True
    if isinstance(value, bool):
        return str(value), False
    if isinstance(value, float):
        return f"{value:.3f}", True
    text, _, below = escape(str(value)).partition("\n")
    return f"{text}<br><small>{below}</small>" if below else text, isinstance(value, int)


def _wrap(text: str) -> str:
    return ' class="wrap"' if len(text) > 40 and "<small>" not in text else ""


def _source(picture: bytes | Image) -> str:
    """Address that holds a picture: photographs are compressed, a page of them would be large."""
    if isinstance(picture, bytes):
        return f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
