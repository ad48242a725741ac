"""Progress of long work on standard error."""

from __future__ import annotations

from tqdm import tqdm

__all__ = ["progress_bar"]


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar without tqdm's thread that watches over bars: nothing but this package's own threads is left."""

    monitor_interval = 0


def progress_bar(n_images: int, what: str, shown: bool | None) -> _Bar:
    """Return a bar over images; with `shown` None there is one where standard error is a terminal."""
    hidden = None if shown is None else not shown
    return _Bar(total=n_images, unit="image", desc=what, disable=hidden, smoothing=0.05, miniters=1)
