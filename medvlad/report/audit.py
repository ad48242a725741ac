"""An audit as a page: findings, the images that they are about, and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from medvlad._util.validate import InputError
from medvlad.audit.finding import plural
from medvlad.audit.run import patients_of_audit
from medvlad.datasets.pseudonyms import Pseudonyms
from medvlad.images.frames import split_frame
from medvlad.images.read import load_image
from medvlad.report.html import Page

__all__ = ["audit_page"]

_SHOWN = 3  # examples of a finding
_SIDE = 220  # pixels


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
    page.details("Everything", {name: value for name, value in found.items() if name != "findings"})
    return page


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


def _pictures(examples: list[Any], root: str, names: Pseudonyms | None) -> Iterator[tuple[Image.Image, str]]:
    """Yield each example that is an image, or two images of a set side by side. Skip patients and classes."""
    for example in examples:
        shown_names = example if isinstance(example, list) else [example]
        paths = [Path(name if names is None else names.original(name) or "") for name in shown_names]
        below = names is not None or all(path.is_relative_to(root) for path in paths)
        if not (below and all(split_frame(path)[0].is_file() for path in paths)):
            continue
        drawn = []
        for path in paths[:2]:
            try:
                picture = Image.fromarray(load_image(path, on_damage="ignore"))
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
            caption = _listed([str(p.relative_to(root)) for p in paths] if names is None else shown_names)
            yield both, caption
