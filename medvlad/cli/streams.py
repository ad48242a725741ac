"""Standard output and standard error of the command.

A write that fails does not stop the command, so that its files are written. A failure of standard output is
reported at the end. A message that standard error does not take is dropped: the exit status still says what
happened.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any

__all__ = [
    "finish_output",
    "forget_output",
    "forget_terminal",
    "has_no_reader",
    "is_reader_gone",
    "open_streams",
]


class _Stream(io.RawIOBase):
    """A standard stream that keeps the error of the first failed write and drops everything after it.

    Python flushes its standard streams again when it exits, and ends with status 120 if that fails. After a
    failure, therefore, nothing may stay in a buffer that cannot be written.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.error: OSError | None = None
        self.is_forgotten = False
        self.is_plain = False

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                written = self._raw.write(data)
                if written is not None:
                    return int(written)
                # The descriptor does not block, and takes nothing now.
                self.error = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            except OSError as error:
                self.error = error
            except KeyboardInterrupt:
                # How much was written is not known. A second try could write the beginning of a line twice.
                self.error = InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
                raise
        return len(data)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def isatty(self) -> bool:
        return bool(self._raw.isatty()) and not self.is_plain


def open_streams() -> None:
    """Replace the standard streams by ones that keep or drop errors, and open those that are closed.

    Streams that a caller has put in their place, such as those of a test, are kept.
    """
    _open_closed()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):
            raw = _Stream(getattr(stream.buffer, "raw", stream.buffer))
            text = io.TextIOWrapper(io.BufferedWriter(raw), encoding=stream.encoding, line_buffering=True)
            setattr(sys, name, text)
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name may not be valid text


def finish_output() -> None:
    """Write what is still buffered for standard output.

    Raises
    ------
    OSError
        If any write to standard output has failed. Its file name is "standard output".
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _Stream) or raw.is_forgotten:
        return
    if raw.error is None:
        try:
            # A network file system may report a full disk only on closing. Closing a copy has the same effect
            # and leaves the stream open for Python's own exit.
            os.close(os.dup(raw.fileno()))
        except OSError as error:
            raw.error = error
    if raw.error is not None:
        raise OSError(raw.error.errno, raw.error.strerror, "standard output")


def is_reader_gone() -> bool:
    """Return whether the program that reads standard output has ended, so that more output is in vain."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(raw, _Stream) and isinstance(raw.error, BrokenPipeError)


def has_no_reader() -> bool:
    """Return whether standard output is a pipe that nobody reads any more. Nothing is written for this.

    False if the system cannot tell.
    """
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # Windows, or a stream of a caller
        return False


def forget_output() -> None:
    """Let :func:`finish_output` pass over the failure of standard output, after its reader has ended."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Stream):
        raw.is_forgotten = True


def forget_terminal() -> None:
    """Treat standard error as a file, so that no progress bar is drawn between lines of JSON."""
    raw = getattr(getattr(sys.stderr, "buffer", None), "raw", None)
    if isinstance(raw, _Stream):
        raw.is_plain = True


def _open_closed() -> None:
    """Open what the caller has closed (``>&-``), so that no file gets the number of a standard stream.

    Python has None in place of such a stream. Standard output is opened for reading, so writing to it fails.
    """
    modes = {"stdin": os.O_RDONLY, "stdout": os.O_RDONLY, "stderr": os.O_WRONLY}
    for name, mode in modes.items():  # in the order of their numbers: a new file gets the lowest free one
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, mode)
            stream = os.fdopen(descriptor, "r" if name == "stdin" else "w", encoding="utf-8")
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
