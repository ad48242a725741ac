"""Show the progress of long work on standard error."""

from __future__ import annotations

import sys
import threading

from tqdm import tqdm

__all__ = ["progress_bar"]


class _Bar(tqdm):  # type: ignore[type-arg]
    """A progress bar without tqdm's monitor thread, so that no thread outlives the work.

    tqdm's own lock is a semaphore of the system too. A worker process that is killed would leave it behind,
    and Python's resource tracker would print a warning.
    """

    monitor_interval = 0
    _lock = threading.RLock()


def progress_bar(n_images: int, what: str, shown: bool | None) -> _Bar:
    """Return a progress bar over images.

    Parameters
    ----------
    n_images : int
        Total number of images.
    what : str
        Label of the bar.
    shown : bool or None
        Whether the bar is shown. None: only if standard error is a terminal. It is never shown if standard
        error is closed.
    """
    hidden = None if shown is None else not shown
    if sys.stderr is None:
        hidden = True
    return _Bar(total=n_images, unit="image", desc=what, disable=hidden, smoothing=0.05, miniters=1)
