"""One HTML file that holds everything it shows: text, tables and pictures.

A page needs no network. It runs no script, or one that this package wrote. File names and class names come
from the data set, so every text is escaped. The page's content security policy forbids other scripts and
everything that is loaded from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from medvlad._util.atomic_file import write_file

__all__ = ["Page", "Picture", "PictureLayout"]

Picture = bytes | Image.Image
PictureLayout = Literal["grid", "wide", "column", "natural"]

_FIGURE_DPI = 130  # pixels an inch of medvlad.report.plots
_CSS_DPI = 96
_LONG_CELL = 40  # characters of a cell before its text may wrap

_STYLE = """
:root { color: #1c2430; background: #fff; font: 16px/1.55 system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .6rem; border-bottom: 1px solid #d5dbe3; padding-bottom: .2rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
.lead { color: #4a5667; margin-top: 0; }
.card { background: #f5f7fa; border: 1px solid #d5dbe3; border-radius: .5rem; padding: .4rem 1.2rem 1rem;
  margin: 1.2rem 0; }
.card dl { display: grid; grid-template-columns: 7rem 1fr; gap: .5rem 1rem; margin: .6rem 0 0; }
.card dt { color: #4a5667; font-weight: 600; }
.card dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
.card dd p { margin: 0 0 .3rem; }
.card strong { font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.card ul { margin: 0; padding: 0; list-style: none; }
.card li { margin: 0 0 .4rem; }
/* A shadow at the side to which more can be scrolled. */
.scroll { overflow-x: auto; background-repeat: no-repeat;
  background-image: linear-gradient(90deg, #fff 40%, transparent), linear-gradient(270deg, #fff 40%,
    transparent), linear-gradient(90deg, #0004, transparent), linear-gradient(270deg, #0004, transparent);
  background-position: left, right, left, right;
  background-size: 2rem 100%, 2rem 100%, .7rem 100%, .7rem 100%;
  background-attachment: local, local, scroll, scroll; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid #e4e8ee; white-space: nowrap;
  vertical-align: top; }
td small { color: #4a5667; }
td.wrap { white-space: normal; overflow-wrap: anywhere; min-width: 14rem; }
thead th { border-bottom: 2px solid #9aa7b8; }
th { font-weight: 600; }
td.number, th.number { text-align: right; }
.values { table-layout: fixed; width: 100%; max-width: 46rem; }
.values th { width: 13rem; vertical-align: top; white-space: normal; overflow-wrap: anywhere; }
.values td.wrap { min-width: 0; }
.values ul { list-style: none; margin: 0; padding: 0; }
.values ul ul { padding-left: 1.2rem; }
.caption { color: #4a5667; font-size: .9rem; margin-top: .2rem; }
.pictures { display: grid; gap: 1.2rem; margin-bottom: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
.pictures.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
.pictures.column, .pictures.natural { grid-template-columns: 1fr; }
figure { margin: 0; min-width: 0; }
figure img { width: 100%; height: auto; border: 1px solid #e4e8ee; box-sizing: border-box; }
.column figure img { width: auto; max-width: 100%; }
.natural figure img { width: auto; max-width: none; }
figcaption { color: #4a5667; font-size: .9rem; overflow-wrap: anywhere; }
details { margin: .6rem 0; }
summary { cursor: pointer; font-weight: 600; }
.error { border-left: .3rem solid #b3261e; padding-left: .7rem; }
.warning { border-left: .3rem solid #b7791f; padding-left: .7rem; }
.note { border-left: .3rem solid #9aa7b8; padding-left: .7rem; }
fieldset { border: 1px solid #d5dbe3; border-radius: .5rem; margin: 1rem 0; min-width: 0; }
fieldset img { max-width: 100%; height: auto; }
fieldset label { display: inline-block; padding: .5rem 1.2rem .5rem 0; }
legend { font-weight: 600; }
.save { position: sticky; top: 0; background: #fff; border-bottom: 1px solid #d5dbe3; padding: .5rem 0; }
.save button { font: inherit; padding: .4rem 1rem; margin-right: 1rem; }
@media (max-width: 30rem) {
  .values th { width: 8rem; } th, td { padding: .3rem .4rem; } .card { padding: .2rem .8rem .8rem; }
  .card dl { grid-template-columns: 1fr; gap: .1rem; } .card dd { margin-bottom: .6rem; } }
@media print {
  :root { font-size: 11px; } body { max-width: none; padding: 0; }
  h1, h2, h3, summary { break-after: avoid; } figure, tr, .card { break-inside: avoid; }
  .scroll { overflow: visible; background: none; } th, td { white-space: normal; padding: .2rem .4rem; }
  .pictures { grid-template-columns: 1fr 1fr; } .pictures.column { grid-template-columns: 1fr; }
  .natural figure img { max-width: 100%; }
  details::details-content { content-visibility: visible; display: block; } }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Page:
    """A page that is built from top to bottom.

    Parameters
    ----------
    title : str
    lead : str, default=""
        One sentence below the title. Empty: no sentence.
    script : str, default=""
        JavaScript that runs at the end of the page. It must not hold anything from the data set. Empty: no
        script.
    """

    def __init__(self, title: str, lead: str = "", *, script: str = "") -> None:
        self._title = title
        self._script = script
        self._parts = [f"<h1>{escape(title)}</h1>"]
        if lead:
            self._parts.append(f'<p class="lead">{escape(lead)}</p>')

    def heading(self, text: str, level: int = 2) -> None:
        """Begin a section."""
        self._parts.append(f"<h{level}>{escape(text)}</h{level}>")

    def paragraph(self, text: str, kind: str = "") -> None:
        """Add a paragraph. A `kind` of "error", "warning" or "note" gives it a coloured bar at its left."""
        self._parts.append(
            f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"
        )

    def card(
        self, rows: Iterable[tuple[str, Sequence[str]]], remarks: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Add a summary: names with one or more lines each, then remarks.

        Parameters
        ----------
        rows : iterable of (str, sequence of str)
            Name and lines. What stands between two asterisks in a line is large: "accuracy *0.91*".
        remarks : iterable of (str, str)
            Kind ("error", "warning" or "note") and sentence, shown as a list under the name "Caveats".
        """
        shown = "".join(
            f"<dt>{escape(name)}</dt><dd>{''.join(f'<p>{_large(line)}</p>' for line in lines)}</dd>\n"
            for name, lines in rows
        )
        items = "".join(f'<li class="{escape(kind)}">{escape(text)}</li>\n' for kind, text in remarks)
        if items:
            shown += f"<dt>Caveats</dt><dd><ul>{items}</ul></dd>"
        self._parts.append(f'<section class="card"><dl>{shown}</dl></section>')

    def table(self, header: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> None:
        """Add a table.

        Numbers and columns of numbers are aligned to the right. None is shown as a dash. In a text, what
        follows the first line break is shown below it in a smaller font.

        Parameters
        ----------
        header : sequence of str
            One title for each column.
        rows : iterable of sequences
            One cell for each column.
        caption : str, default=""
            Text below the table. Empty: no caption.
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

    def pictures(self, pictures: Iterable[tuple[Picture, str]], layout: PictureLayout = "grid") -> None:
        """Add pictures with their captions.

        Parameters
        ----------
        pictures : iterable of (bytes or PIL.Image.Image, str)
            PNG data or an image, and a caption.
        layout : {"grid", "wide", "column", "natural"}, default="grid"
            "grid": up to three side by side. "wide": up to two. "column": one below the other, never wider
            than the page. "natural": one below the other in their own size, so that a large figure stays
            readable. The reader scrolls it sideways.
        """
        shown = "".join(_figure(picture, caption, layout) for picture, caption in pictures)
        self._parts.append(f'<div class="pictures {layout}">{shown}</div>')

    def details(self, summary: str, values: Mapping[str, Any]) -> None:
        """Add a table of names and values that the reader can unfold.

        Nested settings become indented lines ``name: value``.
        """
        rows = "".join(
            f'<tr><th>{escape(str(name))}</th><td class="wrap">{_value(value)}</td></tr>\n'
            for name, value in values.items()
        )
        self._parts.append(
            f"<details><summary>{escape(summary)}</summary>"
            f'<table class="values"><tbody>{rows}</tbody></table></details>'
        )

    def folded_table(
        self, summary: str, header: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = ""
    ) -> None:
        """Add a table, see :meth:`table`, that the reader can unfold."""
        self.table(header, rows, caption)
        self._parts[-1] = f"<details><summary>{escape(summary)}</summary>{self._parts[-1]}</details>"

    def save_bar(self, text: str) -> None:
        """Add a button with the id "save", and a text with the id "answered", which stay in view."""
        self._parts.append(
            f'<p class="save"><button type="button" id="save">{escape(text)}</button>'
            '<span id="answered" aria-live="polite"></span></p>'
        )

    def question(
        self,
        pictures: Iterable[Picture],
        caption: str,
        text: str,
        answers: Sequence[str],
        data: Mapping[str, str | Sequence[str]],
        chosen: str | None = None,
    ) -> None:
        """Add a question with pictures and one answer to choose.

        Parameters
        ----------
        pictures : iterable of bytes or PIL.Image.Image
        caption : str
        text : str
            The question.
        answers : sequence of str
        data : mapping of str to str or sequence of str
            Attributes ``data-NAME`` for the script of the page. A sequence becomes a list in JSON.
        chosen : str or None, default=None
            Answer that is chosen already. None: none is.
        """
        number = len(self._parts)
        values = {name: one if isinstance(one, str) else json.dumps(one) for name, one in data.items()}
        attributes = " ".join(f'data-{name}="{escape(one)}"' for name, one in values.items())
        shown = "".join(f'<img alt="{escape(caption)}" src="{_source(picture)}">' for picture in pictures)
        choices = "".join(
            f'<label><input type="radio" name="q{number}" value="{escape(one)}"'
            f"{' checked' if one == chosen else ''}> {escape(one)}</label>"
            for one in answers
        )
        self._parts.append(
            f"<fieldset {attributes}><legend>{escape(text)}</legend>{shown}"
            f'<p class="caption">{escape(caption)}</p>{choices}</fieldset>'
        )

    def html(self) -> str:
        """Return the text of the page."""
        body, policy = "\n".join(self._parts), _POLICY
        if self._script:
            digest = base64.b64encode(hashlib.sha256(self._script.encode()).digest()).decode("ascii")
            policy = f"{_POLICY}; script-src 'sha256-{digest}'"
            body = f"{body}\n<script>{self._script}</script>"
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta name="generator" content="medvlad {escape(version("medvlad"))}">\n'
            f"<title>{escape(self._title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n"
            "</body>\n</html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the page and return its path.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        write_file(path, self.html().encode("utf-8", "backslashreplace"), "page")
        return Path(path)


def _large(line: str) -> str:
    """Return a line as HTML, with what stands between two asterisks in large type."""
    parts = line.split("*")
    if len(parts) % 2 == 0:  # an asterisk of a name
        return escape(line)
    return "".join(
        f"<strong>{escape(part)}</strong>" if k % 2 else escape(part) for k, part in enumerate(parts)
    )


def _cell(value: Any) -> tuple[str, bool]:
    """Return the escaped text of a value, and whether it is a number or missing."""
    if value is None:
        return "-", True
    if isinstance(value, bool):
        return str(value), False
    if isinstance(value, float):
        return f"{value:.3f}", True
    text, _, below = escape(str(value)).partition("\n")
    return f"{text}<br><small>{below}</small>" if below else text, isinstance(value, int)


def _wrap(text: str) -> str:
    return ' class="wrap"' if len(text) > _LONG_CELL and "<small>" not in text else ""


def _value(value: Any) -> str:
    """Return a setting as HTML: nested settings as lines ``name: value``, no Python syntax."""
    if isinstance(value, Mapping) and value:
        lines = "".join(f"<li>{escape(str(name))}: {_value(one)}</li>" for name, one in value.items())
        return f"<ul>{lines}</ul>"
    if isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
        return f"<ul>{''.join(f'<li>{_value(one)}</li>' for one in value)}</ul>"
    return escape(_plain_value(value))


def _plain_value(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        inner = [
            f"({_plain_value(one)})" if isinstance(one, list | tuple) else _plain_value(one) for one in value
        ]
        return ", ".join(inner) or "none"
    return "none" if isinstance(value, Mapping) else str(value)


def _figure(picture: Picture, caption: str, layout: PictureLayout) -> str:
    text, width = escape(caption), ""
    if layout == "natural" and isinstance(picture, bytes):
        with Image.open(io.BytesIO(picture)) as opened:
            width = f' width="{round(opened.width * _CSS_DPI / _FIGURE_DPI)}"'
    image = f'<img alt="{text}"{width} src="{_source(picture)}">'
    if layout == "natural":
        image = f'<div class="scroll">{image}</div>'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>\n"


def _source(picture: Picture) -> str:
    """Return a data address. Photographs become JPEG, because a page of PNG photographs is large."""
    if isinstance(picture, bytes):
        return f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
