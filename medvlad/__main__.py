"""The command `medvlad`, also ``python -m medvlad``. Ctrl-C prints one line; a second Ctrl-C ends it at once.

Python's own handler is not enough in three situations:

- A second KeyboardInterrupt could stop the clean-up half-way. The second Ctrl-C is the operating system's.
- Python prints and forgets a KeyboardInterrupt in a callback, such as ``__del__``. It is raised again.
- An extension module turns a KeyboardInterrupt in its import into an ImportError. Many callers then take the
  module for one that is not installed. Ctrl-C therefore waits until the import ends, but at most one second.

A timer raises the interrupt later. Windows has no such timer; there, Ctrl-C does not wait.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from types import FrameType

__all__ = ["main"]

_LONGEST_WAIT = 1.0  # seconds
_HAS_TIMER = hasattr(signal, "setitimer")


def main() -> None:
    """Run the command line and exit; the status is 130 after Ctrl-C."""
    deadline = None  # of the wait for an import, once the user has pressed Ctrl-C

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal deadline
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        deadline = deadline or time.monotonic() + _LONGEST_WAIT
        if not (_HAS_TIMER and _in_import(frame) and time.monotonic() < deadline):
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, 0.001)

    def unraisable(error: sys.UnraisableHookArgs) -> None:
        if _HAS_TIMER and isinstance(error.exc_value, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.001)
        else:
            sys.__unraisablehook__(error)

    try:
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # a shell's background process
        try:
            if not ignored:
                if _HAS_TIMER:
                    signal.signal(signal.SIGALRM, interrupt)
                sys.unraisablehook = unraisable
                signal.signal(signal.SIGINT, interrupt)
            from medvlad.cli import main as run

            run()
        finally:  # an interrupt of Python's own exit would print a traceback
            if not ignored:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                if _HAS_TIMER:
                    signal.setitimer(signal.ITIMER_REAL, 0)
    except (KeyboardInterrupt, Exception) as error:
        # Libraries raise errors of their own when they are interrupted.
        if deadline is None and not isinstance(error, KeyboardInterrupt):
            raise
        with suppress(OSError):
            os.write(2, b"\nmedvlad: interrupted\n")  # the interrupted code may hold the lock of sys.stderr
        sys.exit(130)


def _in_import(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


if __name__ == "__main__":
    main()
