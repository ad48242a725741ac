"""Count what long work does: images, bytes, failures, retries, and seconds of each stage.

The code that does the work says what happened, and does not know whether anybody counts::

    count("bytes_read", n)              # adds to the counters of the caller, if there are any
    with stage("network"): ...          # adds the seconds of the block

    with counting() as counters:        # whoever wants to know
        extract(...)
    counters.as_dict()

Counters belong to the code that runs inside `counting`, also in threads of
:func:`medvlad._util.read_ahead.read_ahead`. Calls in other threads have counters of their own. A worker of a
cluster sends what it has counted along with each result, and the client adds it with `add_counts`. Counters
hold numbers only: no names of files, patients or classes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["COUNTERS", "OUTCOMES", "Counters", "add_counts", "count", "counting", "stage"]

#: What is counted, and what it means. `as_dict` has all of them.
COUNTERS = {
    "images_extracted": "Images that went through the network",
    "images_from_store": "Images whose descriptors were stored before, and copies of other images",
    "images_damaged": "Images that were used although their data is damaged",
    "failures": "Images that could not be read or were left out because of damage",
    "retries": "Pieces of work that were done again after a fault",
    "bytes_read": "Bytes of image files, each time that they are read",
    "bytes_stored": "Bytes of descriptors written to the store",
}
#: Counters of what became of each image.
OUTCOMES = ("images_extracted", "images_from_store", "images_damaged", "failures")


class Counters:
    """Sums of what happened. Threads may share them.

    Parameters
    ----------
    outer : Counters or None, default=None
        Counters that get everything as well.
    leave_out : collection of str, default=()
        Counters that `outer` does not get.
    """

    def __init__(self, outer: Counters | None = None, leave_out: Collection[str] = ()) -> None:
        self._outer, self._leave_out = outer, leave_out
        self._lock = threading.Lock()
        self._sums = dict.fromkeys(COUNTERS, 0)
        self._seconds: dict[str, float] = {}

    def add(self, name: str, amount: int) -> None:
        """Add to the counter `name`, one of :data:`COUNTERS`."""
        with self._lock:
            self._sums[name] += amount
        if self._outer is not None and name not in self._leave_out:
            self._outer.add(name, amount)

    def add_seconds(self, name: str, seconds: float) -> None:
        """Add wall-clock seconds to the stage `name`."""
        with self._lock:
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        if self._outer is not None:
            self._outer.add_seconds(name, seconds)

    def as_dict(self) -> dict[str, Any]:
        """Return each counter, and "seconds", a dict of seconds by stage."""
        with self._lock:
            seconds = {name: round(value, 4) for name, value in self._seconds.items()}
            return {**self._sums, "seconds": seconds}


_counters: ContextVar[Counters | None] = ContextVar("counters", default=None)


@contextmanager
def counting(leave_out: Collection[str] = ()) -> Iterator[Counters]:
    """Count what the block does. Counters around it get everything as well, except for `leave_out`."""
    counters = Counters(_counters.get(), leave_out)
    token = _counters.set(counters)
    try:
        yield counters
    finally:
        _counters.reset(token)


def count(name: str, amount: int = 1) -> None:
    """Add to a counter, one of :data:`COUNTERS`, if somebody counts."""
    counters = _counters.get()
    if counters is not None and amount:
        counters.add(name, amount)


def add_counts(counts: Mapping[str, Any], leave_out: Collection[str] = ()) -> None:
    """Add what another process has counted, if somebody counts.

    Parameters
    ----------
    counts : dict
        As of :meth:`Counters.as_dict`. Seconds of several processes are added up.
    leave_out : collection of str, default=()
        Counters that the caller keeps itself.
    """
    for name in COUNTERS:
        if name not in leave_out:
            count(name, counts[name])
    counters = _counters.get()
    if counters is not None:
        for name, seconds in counts["seconds"].items():
            counters.add_seconds(name, seconds)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Add the wall-clock seconds of the block to a stage, if somebody counts.

    A stage may lie inside another one, and its seconds belong to both.
    """
    counters = _counters.get()
    if counters is None:
        yield
        return
    began = time.perf_counter()
    try:
        yield
    finally:
        counters.add_seconds(name, time.perf_counter() - began)
