"""An audit as a page to look at: findings, the images that they are about, figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from medvlad._util.validate import InputError
from medvlad.audit.finding import plural
from medvlad.datasets.pseudonyms import Pseudonyms
from medvlad.images.frames import split_frame
from medvlad.images.read import load_image
from medvlad.report.html import Page

__all__ = ["audit_page"]

_SHOWN = 3  # examples a finding
_SIDE = 220  # pixels


def audit_page(found: dict[str, Any], *, names: Pseudonyms | None = None, pictures: bool = True) -> Page:
    """Lay out what :func:`medvlad.audit.audit` returned.

    Parameters
    ----------
    found : dict
    names : Pseudonyms or None
        Those that the audit was given.
    pictures : bool, default=True
        With pictures of the images that findings are about.

    Returns
    -------
    Page
    """
    patients = "patients unknown" if found["n_patients"] is None else plural(found["n_patients"], "patient")
    n_images = plural(found["n_images"], "image")
    page = Page(f"Audit of {Path(found['root']).name or 'images'}", f"{n_images}, {patients}.")
    page.heading("Findings")
    if not found["findings"]:
        page.paragraph("Nothing was found.", "note")
    for one in found["findings"]:
        page.paragraph(f"{one['severity']}: {one['sentence']}", one["severity"])
        shown = list(_pictures(one["examples"][:_SHOWN], found["root"], names)) if pictures else []
        if shown:
            page.pictures(shown)
        elif names is not None and one["examples"]:
            page.paragraph("; ".join(map(_listed, one["examples"][:_SHOWN])))
    page.heading("Images a part and class")
    classes = list(next(iter(found["counts"].values())))
    page.table(["part", *classes], [[part, *counts.values()] for part, counts in found["counts"].items()])
    page.heading("Can the class be told without looking at the subject?")
    page.paragraph(
        "A linear classifier that is shown only this, cross-validated patients and copies kept together. "
        "Border and corners show some of the subject too, so compare with the whole thumbnail."
    )
    rows, untried = [], {}
    for way, by_what in found["shortcuts"].items():
        if isinstance(by_what, dict):
            rows += [[what, way, *_row(figures)] for what, figures in by_what.items()]
        else:
            untried[way] = by_what
    if rows:
        page.table(["shown", "", "balanced accuracy", "95 %", "AUC", "chance"], rows)
    if untried:
        page.details("Not tried", untried)
    page.details("Everything", {name: value for name, value in found.items() if name != "findings"})
    return page


def _row(figures: dict[str, Any]) -> list[Any]:
    low, high = figures["balanced_accuracy_ci95"]
    return [
        figures["balanced_accuracy"],
        f"{low:.3f} to {high:.3f}",
        figures["auc"],
        figures["chance"],
    ]


def _listed(example: Any) -> str:
    return " = ".join(example) if isinstance(example, list) else str(example)


def _pictures(examples: list[Any], root: str, names: Pseudonyms | None) -> Iterator[tuple[Image.Image, str]]:
    """Draw examples: one image, or those of a set side by side; patients and classes are no images."""
    for example in examples:
        called = example if isinstance(example, list) else [example]
        paths = [Path(name if names is None else names.original(name) or "") for name in called]
        below = names is not None or all(path.is_relative_to(root) for path in paths)
        if not (below and all(split_frame(path)[0].is_file() for path in paths)):
            continue
        drawn = []
        for path in paths[:2]:
            try:
                picture = Image.fromarray(load_image(path))
            except InputError:
                continue
            picture.thumbnail((_SIDE, _SIDE))
            drawn.append(picture)
        if drawn:
            size = sum(one.width for one in drawn), max(one.height for one in drawn)
            both, left = Image.new("RGB", size, "white"), 0
            for one in drawn:
                both.paste(one, (left, 0))
                left += one.width
            yield both, _listed([str(path.relative_to(root)) for path in paths] if names is None else called)
