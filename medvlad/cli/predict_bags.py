"""The page of the command predict for feature files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["write_tiles"]


def write_tiles(pipeline: Any, predictions: list[dict[str, Any]], folder: Path) -> str:
    """Write the page of all pictures of tiles; return a line about them."""
    from medvlad.explain import is_additive
    from medvlad.report.tiles import tiles_page

    exact = is_additive(pipeline.named_steps["encode"])
    how = "exactly" if exact else "to first order, because a signed power cannot be split exactly"
    page = tiles_page(predictions, folder, exact=exact)
    return f"Evidence, split over the tiles {how}: {len(predictions)} pictures and tables; report: {page}"
