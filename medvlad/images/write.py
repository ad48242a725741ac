"""Encode pictures that reports embed or write."""

from __future__ import annotations

import io

from PIL import Image

__all__ = ["png"]


def png(picture: Image.Image) -> bytes:
    """Return a picture as the content of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
