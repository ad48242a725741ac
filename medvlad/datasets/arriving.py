"""Names that arrive one after another, such as lines of a pipe, and the places where a program would wait.

A network is fast on batches, and whoever writes one name and waits for its answer must not wait for a batch
to fill. So a source of names yields `PAUSE` when it would have to wait for the next name. The consumer then
computes what it has. If many names wait, no pause lies between them, and batches are full.
"""

from __future__ import annotations

import enum
import io
import os
import select
from collections.abc import Iterator
from typing import BinaryIO, Final

__all__ = ["PAUSE", "Pause", "arriving_lines"]

_READ_AT_ONCE = 65536  # bytes, as much as a pipe holds
_LONGEST_LINE = 16384  # bytes; no file of Linux, macOS or Windows has a longer name


class Pause(enum.Enum):
    """The type of `PAUSE`."""

    PAUSE = "pause"


PAUSE: Final = Pause.PAUSE
"""No more names are there now: compute those that were given so far."""


def arriving_lines(file: BinaryIO) -> Iterator[bytes | Pause]:
    """Yield the lines of a file or a pipe as soon as they are written.

    Parameters
    ----------
    file : binary file
        Nothing may have been read from it through a buffer. A file without a descriptor, such as BytesIO, is
        read without pauses.

    Yields
    ------
    bytes or Pause
        A line with its line break, or `PAUSE` before a wait, if lines came before it. Windows cannot tell
        whether a pipe holds more, so there a pause follows each line. A line of more than 16 KiB is cut to
        this length, so that memory is bounded. No file has such a name.
    """
    try:
        descriptor = file.fileno()
    except (OSError, io.UnsupportedOperation):
        yield from file
        return
    rest, is_cut, any_since = b"", False, False
    while True:
        if any_since and not _is_ready(descriptor):
            any_since = False
            yield PAUSE
        block = os.read(descriptor, _READ_AT_ONCE)
        *lines, last = block.split(b"\n")
        for line in lines:
            whole = b"" if is_cut else rest + line
            if whole or not is_cut:
                any_since = True
                yield whole[:_LONGEST_LINE] + b"\n"
            rest, is_cut = b"", False
        if not is_cut:
            rest += last
            if len(rest) > _LONGEST_LINE:
                any_since, is_cut = True, True
                yield rest[:_LONGEST_LINE] + b"\n"
                rest = b""
        if not block:
            if rest:
                yield rest
            return


def _is_ready(descriptor: int) -> bool:
    """Return whether reading returns at once: with lines, or with the end of the file."""
    if os.name == "nt":
        return False
    return bool(select.select([descriptor], [], [], 0)[0])
