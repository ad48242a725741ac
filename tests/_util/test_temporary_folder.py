"""Temporary folders of killed processes are removed, and those of others stay."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from medvlad._util.temporary_folder import temporary_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")

PROGRAM = """
import sys
from medvlad._util.temporary_folder import temporary_folder
folder, _ = temporary_folder()
(folder / "vectors.npy").write_bytes(b"x" * 1000)
print(folder, flush=True)
sys.stdin.read()
"""


def old(folder):
    os.utime(folder / "lock", (1e9, 1e9))


def test_the_next_run_removes_the_folder_of_a_killed_process(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    theirs = tmp_path / process.stdout.readline().strip()
    old(theirs)
    first, remove_first = temporary_folder()
    assert (theirs / "vectors.npy").is_file(), "its process works with it"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    old(first)
    _, remove_second = temporary_folder()
    assert not theirs.exists()
    assert first.is_dir()
    remove_first()
    remove_second()
    assert list(tmp_path.iterdir()) == []


def test_a_young_folder_and_those_of_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder, remove = temporary_folder()
    young = tmp_path / (folder.name[:-4] + "0000")
    young.mkdir()
    (young / "lock").write_bytes(b"")
    other = tmp_path / "medvlad-otherhost-abc"
    other.mkdir()
    (other / "lock").write_bytes(b"")
    old(other)
    _, remove_second = temporary_folder()
    assert young.is_dir()
    assert other.is_dir()
    old(young)
    _, remove_third = temporary_folder()
    assert not young.exists()
    for one in (remove, remove_second, remove_third):
        one()
