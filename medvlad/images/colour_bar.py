"""A colour bar beside a picture, which says what its colours mean."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

__all__ = ["add_colour_bar"]

_GAP = 8  # pixels
_FONT_SIZE = 26  # pixels; pictures of a report are shown at about half their size
_FONT_COLOUR = (28, 36, 48)


def add_colour_bar(picture: Image.Image, bar: Image.Image, labels: Sequence[str]) -> Image.Image:
    """Return a picture with a labelled colour bar at its right.

    Parameters
    ----------
    picture : PIL.Image.Image
        RGB.
    bar : PIL.Image.Image
        The colours, from top to bottom. It must be as high as the picture.
    labels : sequence of str
        Values of the colours, from top to bottom, at equal distances. In a low picture only the first and the
        last are drawn.

    Returns
    -------
    PIL.Image.Image
        RGB, as high as the picture.
    """
    height = picture.height
    font_size = max(6, min(_FONT_SIZE, height // 3))
    font = ImageFont.load_default(size=font_size)
    if height < 2 * len(labels) * font_size:
        labels = [labels[0], labels[-1]]
    left = picture.width + _GAP
    text_left = left + bar.width + _GAP
    width = text_left + max(round(font.getlength(label)) for label in labels) + _GAP
    drawn = Image.new("RGB", (width, height), "white")
    drawn.paste(picture, (0, 0))
    drawn.paste(bar, (left, 0))
    pen = ImageDraw.Draw(drawn)
    anchors = ["la", *["lm"] * (len(labels) - 2), "ld"]
    for i, (label, anchor) in enumerate(zip(labels, anchors, strict=True)):
        at = (text_left, i * (height - 1) / (len(labels) - 1))
        pen.text(at, label, fill=_FONT_COLOUR, font=font, anchor=anchor)
    return drawn
