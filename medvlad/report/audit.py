"""An audit as a page: findings, the images that they are about, and tables."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from medvlad._util.object_path import location
from medvlad._util.validate import InputError
from medvlad.audit.finding import plural
from medvlad.audit.run import patients_of_audit
from medvlad.datasets.pseudonyms import Pseudonyms
from medvlad.images.frames import split_frame
from medvlad.images.read import load_image
from medvlad.report.html import Page

__all__ = ["audit_page", "example_picture"]

_SHOWN = 3  # examples of a finding
_SIDE = 220  # pixels
_RANKED = 20  # labels
_SHOWN_ABOVE = ("findings", "labels", "questions")


def audit_page(found: dict[str, Any], *, names: Pseudonyms | None = None, pictures: bool = True) -> Page:
    """Return the result of :func:`medvlad.audit.audit` as a page.

    Parameters
    ----------
    found : dict
        What :func:`medvlad.audit.audit` returned.
    names : Pseudonyms or None, default=None
        The pseudonyms that the audit was given.
    pictures : bool, default=True
        Whether to show the images that findings are about.

    Returns
    -------
    Page
    """
    patients = patients_of_audit(found) or "patients unknown"
    n_images = plural(found["n_images"], "image")
    page = Page(f"Audit of {Path(found['root']).name or 'images'}")
    kinds = Counter(one["severity"] for one in found["findings"])
    said = ", ".join(plural(kinds[kind], kind) for kind in ("error", "warning", "note") if kinds[kind])
    page.card(
        [
            ("Question", ["Which defects of the images make results too good, or worse than they need be?"]),
            ("Data", [f"{n_images}, {patients}."]),
            ("Answer", [f"*{said}*" if said else "Nothing was found."]),
        ],
        [(one["severity"], one["sentence"]) for one in found["findings"] if one["severity"] == "error"],
    )
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
    page.heading("Number of images")
    counts = found["counts"]
    # One row for each class: a table with a column for each of many classes is too wide.
    classes = list(next(iter(counts.values())))
    page.table(["class", *counts], [[name, *(part[name] for part in counts.values())] for name in classes])
    _shortcuts(page, found["shortcuts"])
    _suspicious(page, found)
    page.details("Everything", {name: value for name, value in found.items() if name not in _SHOWN_ABOVE})
    return page


def _suspicious(page: Page, found: dict[str, Any]) -> None:
    if isinstance(found["labels"], str):
        return
    page.heading("Which labels are the most suspicious?")
    page.paragraph(
        "The first images of the ranking. Below 0, the classifier or the nearest images prefer another "
        "class. A reported label is probably wrong. The others may only be difficult."
    )
    root = os.path.join(found["root"], "") if found["root"] else ""  # noqa: PTH118
    rows = [
        [
            one["image"].removeprefix(root),
            one["label"],
            one["suggested"],
            *(one[name] for name in ("suspicion", "margin", "neighbours")),
            "yes" if one["reported"] else "no",
        ]
        for one in found["labels"]["listed"][:_RANKED]
    ]
    header = ["image", "label", "classifier prefers", "suspicion", "margin", "neighbours", "reported"]
    page.table(header, rows)


def _shortcuts(page: Page, shortcuts: dict[str, Any]) -> None:
    page.heading("Can the class be told without looking at the subject?")
    page.paragraph(
        "A linear classifier sees only what the first column names. Patients and copies are kept together. "
        "Border and corners may show a part of the subject, so compare them with the whole thumbnail."
    )
    rows, untried = [], {}
    for protocol, by_feature in shortcuts.items():
        if isinstance(by_feature, dict):
            rows += [[feature, protocol, *_row(scores)] for feature, scores in by_feature.items()]
        else:
            untried[protocol] = by_feature
    if rows:
        page.table(["shown", "protocol", "balanced accuracy", "95 % interval", "AUC", "chance"], rows)
    if untried:
        page.details("Not tried", untried)


def _row(scores: dict[str, Any]) -> list[Any]:
    low, high = scores["balanced_accuracy_ci95"]
    return [
        scores["balanced_accuracy"],
        f"{low:.3f} to {high:.3f}",
        scores["auc"],
        scores["chance"],
    ]


def _listed(example: Any) -> str:
    return " = ".join(example) if isinstance(example, list) else str(example)


def _is_picture(name: str, root: str) -> bool:
    """Return whether an example is an image below `root`, and no patient or class."""
    try:
        path = location(name, "the image")
        return (not root or path.is_relative_to(root)) and split_frame(path)[0].is_file()
    except (InputError, OSError):  # its URL was shortened, or the storage fails
        return False


def _pictures(examples: list[Any], root: str, names: Pseudonyms | None) -> Iterator[tuple[Image.Image, str]]:
    """Yield each example that is an image, or two images of a set side by side. Skip patients and classes."""
    for example in examples:
        found = example_picture(example if isinstance(example, list) else [example], root, names)
        if found is not None:
            yield found


def example_picture(
    shown_names: list[str], root: str, names: Pseudonyms | None
) -> tuple[Image.Image, str] | None:
    """Return up to two images side by side, and their names. None: they are no images.

    Parameters
    ----------
    shown_names : list of str
        Paths or pseudonyms.
    root : str
        Folder that holds all images. "" with pseudonyms.
    names : Pseudonyms or None
        The pseudonyms. None: the names are paths.
    """
    real = [name if names is None else names.original(name) or "" for name in shown_names]
    if not all(_is_picture(name, "" if names is not None else root) for name in real):
        return None
    paths = [location(name, "the image") for name in real]
    drawn = []
    for path in paths[:2]:
        try:
            picture = Image.fromarray(load_image(path, on_damage="ignore"))
        except InputError:
            continue
        picture.thumbnail((_SIDE, _SIDE))
        drawn.append(picture)
    if not drawn:
        return None
    size = sum(one.width for one in drawn), max(one.height for one in drawn)
    both, left = Image.new("RGB", size, "white"), 0
    for one in drawn:
        both.paste(one, (left, 0))
        left += one.width
    return both, _listed([str(p.relative_to(root)) for p in paths] if names is None else shown_names)
