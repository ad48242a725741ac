"""Progress bars leave nothing behind and need no standard error."""

import subprocess
import sys

import pytest

from medvlad._util.progress import progress_bar


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no resource tracker")
def test_a_process_that_is_killed_leaves_no_semaphore(tmp_path):
    """Python's resource tracker warns about semaphores that a killed process has left."""
    code = (
        "import multiprocessing, os, signal\n"
        "multiprocessing.set_start_method('spawn')\n"
        "from medvlad._util.progress import progress_bar\n"
        "with progress_bar(3, 'images', False) as bar:\n"
        "    bar.update(1)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_without_standard_error_the_bar_is_hidden(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with progress_bar(3, "images", True) as bar:
        bar.update(1)
        assert bar.disable


def test_a_bar_is_shown_if_it_is_wanted(capsys):
    with progress_bar(3, "images", True) as bar:
        bar.update(3)
    assert "images" in capsys.readouterr().err
