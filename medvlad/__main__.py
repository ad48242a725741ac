"""The command `medvlad`, also ``python -m medvlad``, from its first moment: Ctrl-C prints one line."""

from __future__ import annotations

import signal
import sys
from types import FrameType

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit; status 130 after Ctrl-C, of which a second one ends it at once."""
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    try:
        # By a shell that runs it in the background.
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        try:
            if not ignored:
                signal.signal(signal.SIGINT, interrupt)
            from medvlad.cli import main as run

            run()
        finally:  # what Python does at its end is nobody's to interrupt with a traceback
            if not ignored:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
    except (KeyboardInterrupt, Exception) as error:
        # Extension modules make an ImportError of what interrupts their import.
        if not interrupted and not isinstance(error, KeyboardInterrupt):
            raise
        sys.stderr.write("\nmedvlad: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
