"""The command `medvlad`, also ``python -m medvlad``, from its first moment: Ctrl-C prints one line."""

from __future__ import annotations

import signal
import sys
from types import FrameType

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit; status 130 after Ctrl-C, of which a second one ends it at once."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # by a shell that runs it in the background
    if not ignored:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        from medvlad.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("\nmedvlad: interrupted\n")
        sys.exit(130)
    finally:  # what Python does at its end is nobody's to interrupt with a traceback
        if not ignored:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
