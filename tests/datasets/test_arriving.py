"""Lines of a pipe are named as they are written, and a pause says that no more are there."""

import io
import itertools
import os
import sys

import pytest

from medvlad.datasets.arriving import PAUSE, arriving_lines
from medvlad.datasets.image_inputs import list_inputs
from medvlad.extraction.stream import _chunks

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="a pipe of Windows has a pause after each line"
)


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as file:
        yield file, writer


def test_a_pause_comes_before_each_wait_and_at_no_other_place(pipe):
    file, writer = pipe
    lines = arriving_lines(file)
    os.write(writer, b"a\nb\nc")
    assert list(itertools.islice(lines, 3)) == [b"a\n", b"b\n", PAUSE]
    os.write(writer, b"d\n")
    assert list(itertools.islice(lines, 2)) == [b"cd\n", PAUSE]
    os.write(writer, b"last")
    os.close(writer)
    assert list(lines) == [b"last"]


def test_many_waiting_lines_have_no_pause_between_them(pipe):
    file, writer = pipe
    os.write(writer, b"name\n" * 10_000)
    os.close(writer)
    assert list(arriving_lines(file)) == [b"name\n"] * 10_000


def test_a_file_has_no_pause(tmp_path):
    (tmp_path / "list").write_bytes(b"a\n\nb\n")
    with (tmp_path / "list").open("rb") as file:
        assert list(arriving_lines(file)) == [b"a\n", b"\n", b"b\n"]


@pytest.mark.parametrize("n", [16_384, 16_385, 200_000])
def test_a_line_without_an_end_is_cut(tmp_path, n):
    (tmp_path / "list").write_bytes(b"x" * n + b"\nb\n" + b"y" * n)
    with (tmp_path / "list").open("rb") as file:
        first, second, third = arriving_lines(file)
    assert (len(first), second, len(third.rstrip(b"\n"))) == (16_385, b"b\n", 16_384)


def test_names_on_standard_input_may_have_pauses(pipe):
    file, writer = pipe
    os.write(writer, b"\xef\xbb\xbf\n\na.png\r\n")
    names = list_inputs(["x.png", "-"], standard_input=file, pauses=True)
    assert list(itertools.islice(names, 3)) == ["x.png", "a.png", PAUSE]
    os.write(writer, b"b\0c\n")
    os.close(writer)
    assert list(names) == ["b\0c"], "one bad line does not end a service"


def test_input_without_a_descriptor_is_read_too():
    assert list(list_inputs(["-"], standard_input=io.BytesIO(b"a\nb\n"), pauses=True)) == ["a", "b"]


def test_a_pause_ends_a_chunk_and_full_chunks_do_not_wait():
    given = [PAUSE, 1, 2, PAUSE, PAUSE, 3, 4, 5, 6, PAUSE, 7]
    assert list(_chunks(given, 3)) == [[1, 2], [3, 4, 5], [6], [7]]
    taken = []
    chunks = _chunks((taken.append(i) or i for i in itertools.count()), 3)
    assert (next(chunks), taken) == ([0, 1, 2], [0, 1, 2])
