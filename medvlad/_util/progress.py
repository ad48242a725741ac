"""Show the progress of long work: a bar on a terminal, otherwise one line in the log every minute.

The lines go to the logger of this module with level INFO. Python's logging drops them by default, so programs
that use the library stay quiet. The command line shows them.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from types import TracebackType
from typing import Protocol, Self

from tqdm import tqdm

__all__ = ["Progress", "progress_bar"]

logger = logging.getLogger(__name__)

_SECONDS = 60.0  # between two lines


class Progress(Protocol):
    """What shows progress. It is used in a `with` statement."""

    def update(self, n: int = 1, /) -> object:
        """Count `n` images as done."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> object: ...


class _Bar(tqdm):  # type: ignore[type-arg]
    """A progress bar without tqdm's monitor thread, so that no thread outlives the work.

    tqdm's own lock is a semaphore of the system too. A worker process that is killed would leave it behind,
    and Python's resource tracker would print a warning.
    """

    monitor_interval = 0
    _lock = threading.RLock()


class _Lines:
    """A line in the log every minute, from the second minute on. There is one more line at the end."""

    def __init__(self, n_images: int, what: str) -> None:
        self._total, self._what, self._done = n_images, what, 0
        self._began = self._told = time.monotonic()

    def update(self, n: int = 1, /) -> None:
        self._done += n
        now = time.monotonic()
        if now - self._told >= _SECONDS:
            self._told = now
            rate = self._done / (now - self._began)
            left = f", about {(self._total - self._done) / rate:,.0f} s left" if rate else ""
            self._say(f"{rate:.1f} images/s{left}")

    def _say(self, how: str) -> None:
        logger.info("%s: %s of %s images, %s", self._what, f"{self._done:,}", f"{self._total:,}", how)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._told > self._began:
            self._say(
                f"{'ended' if error is None else 'stopped'} after {time.monotonic() - self._began:,.0f} s"
            )


def progress_bar(n_images: int, what: str, shown: bool | None) -> Progress:
    """Return what shows the progress over images.

    Parameters
    ----------
    n_images : int
        Total number of images.
    what : str
        Label of the bar.
    shown : bool or None
        Whether a bar is shown. None: a bar if standard error is a terminal, otherwise lines in the log. A bar
        is never shown if standard error is closed.
    """
    if shown is None and not (sys.stderr is not None and sys.stderr.isatty()):
        return _Lines(n_images, what)
    hidden = sys.stderr is None or shown is False
    return _Bar(total=n_images, unit="image", desc=what, disable=hidden, smoothing=0.05, miniters=1)
