"""Locks, reads at an offset and flushes of folders behave the same on every operating system."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from medvlad._util.os_files import flush_folder, open_for_reading, read_at, try_lock


def test_a_lock_is_held_once_and_released_with_the_file(tmp_path):
    path = tmp_path / "f"
    with path.open("xb") as first:
        try_lock(first)
        with path.open("r+b") as second, pytest.raises(BlockingIOError):
            try_lock(second)
    with path.open("r+b") as third:
        try_lock(third)


@pytest.fixture
def numbers(tmp_path):
    """Return a file of 1000 different pairs of bytes, and its descriptor."""
    path = tmp_path / "f"
    path.write_bytes(b"".join(i.to_bytes(2, "big") for i in range(1000)))
    descriptor = open_for_reading(path)
    yield path, descriptor
    os.close(descriptor)


def test_bytes_are_read_at_an_offset(numbers):
    assert read_at(*numbers, 4, 10) == bytes([0, 5, 0, 6])


def test_line_ends_are_not_translated(tmp_path):
    (tmp_path / "f").write_bytes(b"a\r\nb\x1ac")
    descriptor = open_for_reading(tmp_path / "f")
    assert read_at(tmp_path / "f", descriptor, 99, 0) == b"a\r\nb\x1ac"
    os.close(descriptor)


def test_a_read_beyond_the_end_is_short(numbers):
    assert read_at(*numbers, 10, 1998) == (999).to_bytes(2, "big")
    assert read_at(*numbers, 10, 5000) == b""


def test_threads_read_at_the_same_time(numbers):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: read_at(*numbers, 2, 2 * i), list(range(1000)) * 3))
    assert found == [i.to_bytes(2, "big") for i in range(1000)] * 3


def test_a_folder_is_flushed_and_closed(tmp_path, monkeypatch):
    closed, close = [], os.close
    monkeypatch.setattr(os, "close", lambda descriptor: (closed.append(descriptor), close(descriptor)))
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    flush_folder(tmp_path)
    assert flushed == closed
    assert len(flushed) == 1


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_flush_folders_is_no_error(tmp_path, monkeypatch, number):
    def refused(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refused)
    flush_folder(tmp_path)


def test_a_failed_flush_is_an_error(tmp_path, monkeypatch):
    def broken(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        flush_folder(tmp_path)


def test_a_folder_that_cannot_be_opened_is_not_flushed(tmp_path, monkeypatch):
    def forbidden(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)
    flush_folder(tmp_path)
