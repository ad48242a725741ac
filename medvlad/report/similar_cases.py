"""The similar training images of each prediction, on the page of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from PIL import Image

from medvlad.images.read import load_image
from medvlad.report.html import Page

__all__ = ["add_similar_cases"]

_SIDE = 224  # pixels of a thumbnail


def add_similar_cases(page: Page, predictions: Sequence[Mapping[str, Any]]) -> None:
    """Add a section for each prediction that names similar training images.

    Parameters
    ----------
    page : Page
    predictions : sequence of dict
        With the key similar; see :func:`medvlad.predict.predict_images`. Images whose files are still there
        are shown. The others are listed.
    """
    shown = [one for one in predictions if one.get("similar")]
    if not shown:
        return
    page.heading("Similar training images")
    page.paragraph(
        "The training images whose encoded vectors are nearest, the nearest first. They are similar to the "
        "classifier, and not necessarily to a clinician."
    )
    for one in shown:
        page.heading(f"{one['image']}: {one['label']}", 3)
        if one.get("same_patient"):
            page.paragraph(
                f"{one['same_patient']} training images are of the same patient, so the prediction is not "
                "independent of them.",
                "warning",
            )
        pictures, listed = [], []
        for case in one["similar"]:
            caption = f"{case['label']}, distance {case['distance']:.3f}: {case['image']}"
            picture = _thumbnail(case["image"])
            if picture is None:
                listed.append((case["image"], case["label"], case["distance"]))
            else:
                pictures.append((picture, caption))
        if pictures:
            page.pictures(pictures)
        if listed:
            page.table(("image", "label", "distance"), listed)


def _thumbnail(image: str) -> Image.Image | None:
    """Return a small picture of an image. None: the file does not exist any more, or cannot be read."""
    with suppress(ValueError, ImportError, OSError):
        picture = Image.fromarray(load_image(image, on_damage="ignore"))
        picture.thumbnail((_SIDE, _SIDE))
        return picture
    return None
