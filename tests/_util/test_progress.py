"""Progress bars leave nothing behind and need no standard error."""

import logging
import subprocess
import sys

import pytest

from medvlad._util import progress
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


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_there_is_a_line_every_minute(clock, caplog):
    caplog.set_level(logging.INFO, "medvlad._util.progress")
    with progress_bar(6000, "descriptors", None) as bar:
        for _ in range(300):  # 5 minutes
            clock[0] += 1
            bar.update(10)
    assert caplog.messages == [
        *(
            f"descriptors: {600 * i:,} of 6,000 images, 10.0 images/s, about {600 - 60 * i} s left"
            for i in range(1, 6)
        ),
        "descriptors: 3,000 of 6,000 images, ended after 300 s",
    ]


def test_short_work_has_no_line(clock, caplog):
    caplog.set_level(logging.INFO, "medvlad._util.progress")
    with progress_bar(10, "descriptors", None) as bar:
        clock[0] += 59
        bar.update(10)
    assert caplog.messages == []


def test_programs_that_use_the_library_get_no_line(clock, capsys):
    """Nor a bar: this is no terminal."""
    with progress_bar(10, "descriptors", None) as bar:
        clock[0] += 100
        bar.update(5)
    assert capsys.readouterr() == ("", "")
