"""Warnings of image libraries name their file, once a file, and other messages stay as they are."""

import logging
import warnings

import pytest

from medvlad._util.library_warnings import LibraryWarnings, is_reading, reads_file


@reads_file
def read(path, messages, logger="PIL.TiffImagePlugin"):
    for message in messages:
        logging.getLogger(logger).warning("%s", message)


@pytest.fixture
def heard(caplog):
    """The log, as the command line has it."""
    found = LibraryWarnings()
    caplog.handler.addFilter(found)
    yield caplog
    caplog.handler.removeFilter(found)


def test_a_message_names_the_file(heard):
    read("a.tif", ["odd\n  tag"])
    assert heard.messages == ["a.tif: odd tag"]


def test_a_message_comes_once_a_file(heard):
    for name in ("a.tif", "b.tif", "a.tif"):
        read(name, ["odd tag", "odd tag", "other tag"])
    assert heard.messages == [
        f"{name}: {text}" for name in ("a.tif", "b.tif") for text in ("odd tag", "other tag")
    ]


def test_images_of_one_file_share_its_messages(heard):
    for name in ("a.tif#0", "a.tif#1"):
        read(name, ["odd tag"])
    assert heard.messages == ["a.tif: odd tag"]


def test_messages_of_this_package_stay_as_they_are(heard):
    read("a.tif", ["one", "one"], logger="medvlad.images.read")
    assert heard.messages == ["one", "one"]


def test_messages_outside_of_reading_stay_as_they_are(heard):
    for _ in range(2):
        logging.getLogger("tifffile").warning("no file")
    assert heard.messages == ["no file"] * 2


def test_the_file_is_forgotten_after_an_error():
    @reads_file
    def failing(path):
        assert is_reading()
        raise ValueError(path)

    with pytest.raises(ValueError, match="a"):
        failing("a")
    assert not is_reading()


def test_the_library_leaves_python_s_warnings_to_the_program_that_uses_it(tmp_path):
    """`warnings` belongs to the whole process."""
    from PIL import Image

    from medvlad.images.read import load_image

    before = warnings.showwarning, list(warnings.filters)
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    load_image(tmp_path / "a.png")
    assert (warnings.showwarning, list(warnings.filters)) == before
