"""Run commands of medvlad one after another in this process; what each printed, and asked of a network.

The network is cut by network_cut.py, whose log NETWORK_LOG names. The first entry is the import alone.

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


def run(words):
    """Status, output, errors and requests of one command."""
    sys.argv = ["medvlad", *words]
    out, error = io.StringIO(), io.StringIO()
    started = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            cli.main()
        except SystemExit as end:
            status = end.code
    seconds = time.process_time() - started
    return {"status": status, "out": out.getvalue(), "error": error.getvalue(), "seconds": seconds} | asked()


def asked():
    """Take what was asked of a network out of the log."""
    log = Path(os.environ["NETWORK_LOG"])
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return {"asked": lines}


if __name__ == "__main__":
    for name in medvlad.__all__:
        getattr(medvlad, name)
    done = [asked() | {"out": "", "error": ""}]
    done += [run(words) for words in json.load(sys.stdin)]
    json.dump(done, sys.stdout)
