"""Run the command line in this process, outside the fixtures of a single test."""

import contextlib
import io

import pytest

from medvlad import cli


def run_command(*arguments):
    """Return exit status, standard output and standard error."""
    out, error = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        patch.setattr("sys.argv", ["medvlad", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    return end.value.code, out.getvalue(), error.getvalue()
