"""The page of predictions of feature files, with the evidence of their tiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from medvlad.report.html import Page
from medvlad.report.similar_cases import add_similar_cases

__all__ = ["tiles_page"]


def tiles_page(predictions: Sequence[dict[str, Any]], folder: Path, *, exact: bool) -> Path:
    """Write explain.html: predictions with the pictures of their tiles.

    Parameters
    ----------
    predictions : sequence of dict
        With the keys evidence and evidence_table; see :func:`medvlad.predict.predict_images`.
    folder : Path
        Folder of the pictures.
    exact : bool
        Whether the evidence adds up to the score.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If the page cannot be written.
    """
    page = Page("Predictions and the evidence of their tiles", f"{len(predictions)} predictions.")
    page.paragraph(
        "Each square is a tile at its position. Red is evidence for the label, blue is evidence against it, "
        "grey is neither. All pictures share one colour scale: see the colour bar. The map shows which tiles "
        "lead to the score. A pathologist may look at other tiles. Scores are decision values, not "
        "probabilities."
    )
    page.paragraph(
        "The evidence of all tiles and a constant add up to the score."
        if exact
        else "The evidence is a first-order approximation, because a signed power cannot be split over tiles."
    )
    for one in predictions:
        scores = ", ".join(f"{name} {value:+.2f}" for name, value in one["scores"].items())
        more = f", {len(one['files'])} files side by side" if "files" in one else ""
        constant = f" constant {one['evidence_constant']:+.2f};" if exact else ""
        caption = (
            f"{one['image']}: {one['label']} ({scores}{more});{constant} tiles in {one['evidence_table']}"
        )
        with Image.open(folder / one["evidence"]) as picture:
            page.pictures([(picture.convert("RGB"), caption)], "column")
    add_similar_cases(page, predictions)
    return page.write(folder / "explain.html")
