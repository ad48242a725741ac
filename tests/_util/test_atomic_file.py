"""Readers see the old file or the complete new one, whatever happens to the writer."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medvlad import InputError
from medvlad._util import atomic_file as module
from medvlad._util.atomic_file import (
    STALE_SECONDS,
    atomic_file,
    is_abandoned,
    new_file,
    remove_parts,
    write_file,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path):
    with atomic_file(tmp_path / "f") as file:
        file.write(b"new")
        assert not (tmp_path / "f").exists()
    assert (tmp_path / "f").read_bytes() == b"new"
    assert names(tmp_path) == ["f"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "f").write_bytes(b"old")

    def write_half():
        with atomic_file(tmp_path / "f") as file:
            file.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(b"old")

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match=r"^the table .*f cannot be written: No space left on device; check"):
        write_file(tmp_path / "f", b"new", "table")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


@posix
def test_a_killed_writer_leaves_the_old_file_and_a_part(tmp_path):
    (tmp_path / "f").write_bytes(b"old")
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from medvlad._util.atomic_file import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as file:\n"
        "    file.write(b'new'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "f"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "f").read_bytes() == b"old"
    (part,) = tmp_path.glob(".f.*.part")
    assert part.read_bytes() == b"new"


def test_the_longest_file_name_can_be_written(tmp_path):
    write_file(tmp_path / ("x" * 255), b"1", "table")
    assert names(tmp_path) == ["x" * 255]


@posix
def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "f")
    write_file(tmp_path / "link", b"new", "table")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "f").read_bytes() == b"new"


def test_the_path_is_checked_before_the_work(tmp_path):
    with pytest.raises(InputError, match="is a folder"), new_file(tmp_path, "table"):
        pytest.fail("the work has begun")


@pytest.fixture
def part(tmp_path):
    """Return a temporary file that a writer left two days ago."""
    part = tmp_path / ".f.0.part"
    part.write_bytes(b"1")
    long_ago = time.time() - 2 * STALE_SECONDS
    os.utime(part, (long_ago, long_ago))
    return part


def test_an_old_part_is_abandoned(part):
    assert is_abandoned(part)


@pytest.mark.parametrize("seconds", [0, -STALE_SECONDS / 2, STALE_SECONDS / 2])
def test_a_young_part_is_not_abandoned(part, seconds):
    os.utime(part, (time.time() + seconds,) * 2)
    assert not is_abandoned(part)


def test_a_part_from_the_future_is_abandoned(part):
    """A clock that was wrong wrote it."""
    os.utime(part, (time.time() + 2 * STALE_SECONDS,) * 2)
    assert is_abandoned(part)


def test_a_part_that_is_being_written_is_not_abandoned(tmp_path):
    with atomic_file(tmp_path / "f"):
        (part,) = tmp_path.glob("*.part")
        os.utime(part, (0, 0))
        assert not is_abandoned(part)


def test_the_part_of_another_user_is_not_abandoned(part, monkeypatch):
    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("medvlad._util.atomic_file.try_lock", forbidden)
    assert not is_abandoned(part)


def test_without_locks_age_decides(part, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("medvlad._util.atomic_file.try_lock", no_locks)
    assert is_abandoned(part)
    write_file(part.with_name("f"), b"1", "table")
    assert part.with_name("f").read_bytes() == b"1"


def test_an_abandoned_part_is_closed_before_it_is_removed(tmp_path, monkeypatch):
    """Windows cannot remove an open file."""
    part = tmp_path / f".f.{'0' * 32}.part"
    part.touch()
    opened, unlink, try_lock = [], Path.unlink, module.try_lock

    def lock(file):
        opened.append(file)
        try_lock(file)

    def as_in_windows(path, *args, **kwargs):
        if not all(file.closed for file in opened):
            raise PermissionError(13, "The process cannot access the file")
        unlink(path, *args, **kwargs)

    monkeypatch.setattr(module, "try_lock", lock)
    monkeypatch.setattr(Path, "unlink", as_in_windows)
    remove_parts(tmp_path / "f")
    assert len(opened) == 1
    assert not part.exists()


def test_the_part_of_a_writer_stays(tmp_path):
    part = tmp_path / f".f.{'0' * 32}.part"
    with part.open("xb") as file:
        module.try_lock(file)
        remove_parts(tmp_path / "f")
        assert part.exists()
