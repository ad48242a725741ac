"""The command `medvlad`, also ``python -m medvlad``. One signal stops it cleanly; a second ends it at once.

The signals are SIGINT (Ctrl-C), SIGTERM (a batch system, a container) and SIGHUP (a closed terminal). A
signal that is ignored stays ignored. Python's own handler is not enough in these situations:

- A second KeyboardInterrupt could stop the clean-up half-way. So Python does not handle the second signal:
  the operating system ends the process.
- Python prints and forgets a KeyboardInterrupt in a callback, such as ``__del__``. It is raised again.
- An extension module turns a KeyboardInterrupt in its import into an ImportError. Many callers then take the
  module for one that is not installed. The signal therefore waits until the import ends, at most one second.
- A line of output could be cut in the middle, and a handler of logging that is half made would print a
  traceback at exit. The signal waits until either is complete, at most one second.

A timer raises the interrupt later. Windows has no such timer; there, Ctrl-C does not wait.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from types import FrameType, ModuleType

__all__ = ["main"]

_ERROR = 2  # exit status
_DEFECT = 70  # exit status, EX_SOFTWARE of BSD. Python's 1 would mean that images were skipped
_LONGEST_WAIT = 1.0  # seconds
_HAS_TIMER = hasattr(signal, "setitimer")
_WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "stopped by the end of the terminal"}


def main() -> None:
    """Run the command line and exit. The status is 128 plus the number of a signal, or 70 after a defect."""
    stopped_by, deadline = signal.SIGINT, 0.0  # deadline of the wait for an import, once a signal has come
    known = [one for one in signal.Signals if one.name in _WORDS]
    handled = [one for one in known if signal.getsignal(one) is not signal.SIG_IGN]

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped_by, deadline
        for one in handled:
            signal.signal(one, signal.SIG_DFL)
        if not deadline:
            deadline = time.monotonic() + _LONGEST_WAIT
            stopped_by = next((one for one in handled if one == number), signal.SIGINT)
        if not (_HAS_TIMER and _must_wait(frame) and time.monotonic() < deadline):
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, 0.001)

    def unraisable(error: sys.UnraisableHookArgs) -> None:
        if _HAS_TIMER and isinstance(error.exc_value, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.001)
        else:
            sys.__unraisablehook__(error)

    try:
        try:
            if handled and _HAS_TIMER:
                signal.signal(signal.SIGALRM, stop)
            sys.unraisablehook = unraisable
            for one in handled:
                signal.signal(one, stop)
            from medvlad.cli import main as run

            run()
        finally:  # an interrupt of Python's own exit would print a traceback
            for one in handled:
                signal.signal(one, signal.SIG_DFL)
            if _HAS_TIMER:
                signal.setitimer(signal.ITIMER_REAL, 0)
    except (KeyboardInterrupt, Exception) as error:
        # Libraries raise errors of their own when they are interrupted.
        console = sys.modules.get("medvlad.cli.console")  # None: interrupted before it was imported
        if not deadline and not isinstance(error, KeyboardInterrupt):
            if _is_lack_of_memory(error):
                sentence = "there is too little memory to start: allow the process more, see 'ulimit -v'"
                _write(f"{_line_of(sentence, console)}\n")
                sys.exit(_ERROR)
            text = None if console is None else console.crash_text(error)
            if text is None:
                traceback.print_exception(error)
            else:
                _write(f"{text}\n")
            sys.exit(_DEFECT)
        sentence = "; ".join([_WORDS[stopped_by.name], *getattr(error, "__notes__", ())])
        line = _line_of(sentence, console)
        _write(f"{line}\n" if line.startswith("{") else f"\n{line}\n")
        sys.exit(128 + stopped_by)


def _line_of(sentence: str, console: ModuleType | None) -> str:
    """Return a message as the console prints it. None: the console could not be imported."""
    return f"medvlad: {sentence}" if console is None else str(console.message_line(sentence, "error"))


def _write(text: str) -> None:
    """Write to standard error without Python's stream: the interrupted code may hold its lock."""
    with suppress(OSError):
        os.write(2, text.encode(errors="backslashreplace"))


def _is_lack_of_memory(error: BaseException) -> bool:
    """Return whether Python or the dynamic loader got no memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, ImportError) and "failed to map segment" in str(error)
    )


def _must_wait(frame: FrameType | None) -> bool:
    """Return whether the code that was interrupted may not be left half done."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith("<frozen importlib"):
            return True
        if code.co_qualname == "_Stream.write" and frame.f_globals["__name__"] == "medvlad.cli.streams":
            return True
        if code.co_qualname == "Handler.__init__" and frame.f_globals["__name__"] == "logging":
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    main()
