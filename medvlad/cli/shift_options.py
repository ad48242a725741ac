"""The option for images that look different from the training images."""

from __future__ import annotations

import cloup

from medvlad.cli.options import Choice

__all__ = ["AUGMENT"]

AUGMENT = cloup.option(
    "--augment",
    type=Choice(["none", "shift"]),
    default="none",
    help="Also train on changed images. shift: on a copy of each image with another frame, crop, sharpness, "
    "gamma and compression, and pay less attention to sharpness and dark borders. For vectors of at most "
    "8,192 numbers, so give --encode avg too.",
)
