"""The command `medvlad`, also ``python -m medvlad``, from its first moment: Ctrl-C prints one line.

An interrupt in an import waits for the import's end: a module left half imported is, to who catches that,
one that is not installed. An import of more than a second, as TensorFlow's, is not waited for: the process
ends there. An interrupt that falls into a callback of the interpreter, which prints and forgets it, comes
again.
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
    interrupt = _Interrupt()
    try:
        # By a shell that runs it in the background.
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        try:
            if not ignored:
                sys.unraisablehook = interrupt.unraisable
                signal.signal(signal.SIGINT, interrupt)
            from medvlad.cli import main as run

            if interrupt.asked:
                raise KeyboardInterrupt
            run()
        finally:  # what Python does at its end is nobody's to interrupt with a traceback
            if not ignored:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
    except (KeyboardInterrupt, Exception) as error:
        # Libraries make errors of their own of what interrupts them.
        if not interrupt.asked and not isinstance(error, KeyboardInterrupt):
            raise
        _tell()
        sys.exit(130)


class _Interrupt:
    """Handler of SIGINT."""

    def __init__(self) -> None:
        self.asked = False
        self._repeated = False  # what comes next is not the user's
        self._deadline = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        first, repeated, now = not self.asked, self._repeated, time.monotonic()
        if first:
            self.asked, self._deadline = True, now + _PATIENCE
        self._repeated = False
        if not first and not repeated:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        elif not _imports(frame):
            raise KeyboardInterrupt
        elif now < self._deadline:
            self._later()
        else:
            _tell()
            os._exit(130)

    def unraisable(self, error: sys.UnraisableHookArgs) -> None:
        if isinstance(error.exc_value, KeyboardInterrupt):
            self._later()
        else:
            sys.__unraisablehook__(error)

    def _later(self) -> None:
        _thread.start_new_thread(self._repeat, (_thread.get_ident(),))

    def _repeat(self, main_thread: int) -> None:
        time.sleep(0.001)
        set_still = signal.getsignal(signal.SIGINT) is self
        if not set_still:
            return
        self._repeated = True
        if sys.platform == "win32":
            _thread.interrupt_main()
        else:  # wakes it where it waits
            signal.pthread_kill(main_thread, signal.SIGINT)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported."""
    while frame is not None and frame.f_code is not main.__code__:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _tell() -> None:
    with suppress(OSError):
        os.write(2, b"\nmedvlad: interrupted\n")  # whoever holds sys.stderr at this moment


if __name__ == "__main__":
    main()
