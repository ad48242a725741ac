"""The command `medvlad`, also ``python -m medvlad``, from its first moment: Ctrl-C prints one line.

An interrupt in an import waits for the import's end, for a second at most: a module left half imported is, to
who catches that, one that is not installed. An interrupt that falls into a callback of the interpreter, which
prints and forgets it, comes again.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time
from contextlib import suppress
from types import FrameType

__all__ = ["main"]

_PATIENCE = 1.0  # seconds


def main() -> None:
    """Run the command line and exit; status 130 after Ctrl-C, of which a second one ends it at once."""
    # Not sys.stderr: what is interrupted may hold it, or have led descriptor 2 elsewhere.
    stderr = os.dup(2) if sys.__stderr__ is not None else None
    interrupt = _Interrupt()
    try:
        # By a shell that runs it in the background.
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        try:
            if not ignored:
                interrupt.begin()
            from medvlad.cli import main as run

            if interrupt.asked:
                raise KeyboardInterrupt
            run()
        finally:  # what Python does at its end is nobody's to interrupt with a traceback
            if not ignored:
                interrupt.end()
    except (KeyboardInterrupt, Exception) as error:
        # Libraries make errors of their own of what interrupts them.
        if not interrupt.asked and not isinstance(error, KeyboardInterrupt):
            raise
        if stderr is not None:
            with suppress(OSError):
                os.write(stderr, b"\nmedvlad: interrupted\n")
        sys.exit(130)


class _Interrupt:
    """Handler of SIGINT."""

    def __init__(self) -> None:
        self.asked = False
        self._main_thread = _thread.get_ident()
        self._repeating = _thread.allocate_lock()
        self._repeated = False  # what comes next is not the user's
        self._deadline = 0.0

    def begin(self) -> None:
        sys.unraisablehook = self._unraisable
        signal.signal(signal.SIGINT, self)

    def end(self) -> None:
        with self._repeating:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        first, repeated, now = not self.asked, self._repeated, time.monotonic()
        self.asked, self._repeated = True, False
        if first:
            self._deadline = now + _PATIENCE
        if (first or repeated) and now < self._deadline and _imports(frame):
            self._later()
            return
        # The next one ends the process, whatever it is doing.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not first and not repeated:
            signal.raise_signal(signal.SIGINT)
        raise KeyboardInterrupt

    def _unraisable(self, error: sys.UnraisableHookArgs) -> None:
        if not isinstance(error.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(error)
        elif _thread.get_ident() == self._main_thread:
            signal.signal(signal.SIGINT, self)
            self._later()

    def _later(self) -> None:
        _thread.start_new_thread(self._repeat, ())

    def _repeat(self) -> None:
        time.sleep(0.001)
        with self._repeating:
            set_still = signal.getsignal(signal.SIGINT) is self
            if not set_still:
                return
            self._repeated = True
            if sys.platform == "win32":
                signal.raise_signal(signal.SIGINT)
            else:  # wakes it where it waits
                signal.pthread_kill(self._main_thread, signal.SIGINT)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported."""
    while frame is not None and frame.f_code is not main.__code__:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    main()
