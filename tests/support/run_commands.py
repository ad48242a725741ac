"""Run commands of medvlad in this process, and report the output and network requests of each.

network_cut.py blocks the network. NETWORK_LOG names its log. The first entry is the import of the package.

python run_commands.py < COMMANDS.json > DONE.json
"""

import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path

import medvlad
from medvlad import cli


def run(words, out, error):
    """Run one command. Return its status, output, errors and requests."""
    sys.argv = ["medvlad", *words]
    before, started = (out.tell(), error.tell()), time.process_time()
    try:
        cli.main()
    except SystemExit as end:
        status = end.code
    seconds = time.process_time() - started
    printed = {"out": out.getvalue()[before[0] :], "error": error.getvalue()[before[1] :]}
    return {"status": status, "seconds": seconds} | printed | asked()


def asked():
    """Return the network requests in the log and empty it."""
    log = Path(os.environ["NETWORK_LOG"])
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return {"asked": lines}


if __name__ == "__main__":
    for name in medvlad.__all__:
        getattr(medvlad, name)
    done = [asked() | {"out": "", "error": ""}]
    # The same streams for all commands, because logging keeps the first stream that it gets.
    out, error, commands = io.StringIO(), io.StringIO(), json.load(sys.stdin)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        done += [run(words, out, error) for words in commands]
    json.dump(done, sys.stdout)
