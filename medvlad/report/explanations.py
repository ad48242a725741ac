"""The page of predictions and their evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from medvlad.report.html import Page
from medvlad.report.pictures import grid_in_words
from medvlad.report.plots import MANY_CLASSES
from medvlad.report.similar_cases import add_similar_cases

__all__ = ["explain_page", "map_in_words"]

_SHOWN_SCORES = 3  # scores in a caption


def explain_page(
    predictions: Sequence[dict[str, Any]],
    folder: Path,
    how: str,
    *,
    grids: Sequence[tuple[int, int]] | None = None,
) -> Path:
    """Write explain.html: predictions with the pictures that `predict_images` drew.

    Parameters
    ----------
    predictions : sequence of dict
        With the key evidence; see :func:`medvlad.predict.predict_images`.
    folder : Path
        Folder of the pictures.
    how : str
        How the evidence was split, such as "split over its places exactly".
    grids : sequence of (h, w) or None, default=None
        Grids of the descriptors, ``grids_`` of :class:`medvlad.CNNDescriptors`. None: unknown.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If the page cannot be written.
    """
    page = Page("Predictions and their evidence")
    counts: dict[str, int] = {}
    for one in predictions:
        label = one["label"] or "no label"  # None: abstained
        counts[label] = counts.get(label, 0) + 1
    said = ", ".join(f"{label}: {n}" for label, n in sorted(counts.items()))
    page.card(
        [
            ("Data", [f"{len(predictions)} image{'' if len(predictions) == 1 else 's'}"]),
            ("Answer", [said or "no image"]),
            (
                "Pictures",
                [
                    f"Left: the image. Right: the evidence for its label, {how}. Red is evidence for the "
                    f"label, blue is evidence against it. {map_in_words(grids)}"
                ],
            ),
        ],
        [
            (
                "note",
                "A map shows which parts of the image lead to the decision value. A clinician may look at "
                "other parts. Scores are decision values, not probabilities.",
            )
        ],
    )
    page.heading("Images")
    shown = []
    for one in predictions:
        with Image.open(folder / one["evidence"]) as picture:
            caption = f"{one['image']}: {one['label']} ({_highest_scores(one['scores'])})"
            shown.append((picture.convert("RGB"), caption))
    page.pictures(shown, "wide")
    add_similar_cases(page, predictions)
    return page.write(folder / "explain.html")


def map_in_words(grids: Sequence[tuple[int, int]] | None) -> str:
    """Return what an evidence map is, and its colour scale, in two sentences."""
    what = "A map is a coarse grid" if grids is None else f"A map is a {grid_in_words(grids)} grid"
    return (
        f"{what}, stretched over the image, so it shows no finer detail. All maps of this page share one "
        "colour scale: see the colour bar."
    )


def _highest_scores(scores: Mapping[str, float]) -> str:
    """Return the highest scores in words; of few classes all scores in the order of the classes."""
    listed = list(scores.items())
    if len(listed) <= MANY_CLASSES:
        return ", ".join(f"{name} {value:+.2f}" for name, value in listed)
    highest = sorted(listed, key=lambda pair: -pair[1])[:_SHOWN_SCORES]
    text = ", ".join(f"{name} {value:+.2f}" for name, value in highest)
    return f"highest of {len(listed)}: {text}"
