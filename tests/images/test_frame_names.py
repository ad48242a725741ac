"""A file whose own name looks like an image of another file: ``m.tif#3`` beside ``m.tif``."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.image_bytes import encode, rgb, write
from support.tiff_files import page, tiff_of

from medvlad.datasets.folders import list_images
from medvlad.images.frames import split_frame
from medvlad.images.hashed_file import image_key
from medvlad.images.read import frames_of_file, list_frames, load_image

PICTURES = [rgb(seed=seed) for seed in range(3)]
OTHER = rgb(seed=7)


@pytest.fixture
def both(tmp_path):
    """Return a TIFF of three pages, beside which a PNG has the name of its last page."""
    write(tmp_path, "m.tif#2", encode(Image.fromarray(OTHER), "PNG"))
    return write(tmp_path, "m.tif", tiff_of(*map(page, PICTURES)))


def test_a_name_that_list_frames_made_means_the_page(both):
    frames = list_frames(both)
    assert [str(frame) for frame in frames] == [f"{both}#{i}" for i in range(3)]
    for frame, picture in zip(frames, PICTURES, strict=True):
        np.testing.assert_array_equal(load_image(frame), picture)
    assert list_frames(frames[2]) == [frames[2]]
    assert split_frame(frames[2]) == (both, 2)


def test_the_key_is_that_of_the_page(both):
    assert image_key(f"{both}#2") == f"{image_key(both)}#2"


@pytest.mark.parametrize("use", [lambda file: list_frames(file), lambda file: load_image(f"{file}#2")])
def test_a_warning_names_both(both, caplog, use):
    with caplog.at_level(logging.WARNING):
        use(both)
    assert "m.tif#2" in caplog.text
    assert "m.tif#2#0" in caplog.text


def test_no_warning_without_such_a_file(tmp_path, caplog):
    path = write(tmp_path, "m.tif", tiff_of(*map(page, PICTURES)))
    with caplog.at_level(logging.WARNING):
        for frame in list_frames(path):
            load_image(frame)
    assert not caplog.text


def test_the_other_file_can_be_named_too(both):
    own = Path(f"{both}#2")
    assert frames_of_file(own) == [Path(f"{both}#2#0")]
    np.testing.assert_array_equal(load_image(f"{both}#2#0"), OTHER)


def test_a_file_alone_keeps_its_name(tmp_path):
    path = write(tmp_path, "m.tif#2", encode(Image.fromarray(OTHER), "PNG"))
    assert list_frames(path) == frames_of_file(path) == [path]
    np.testing.assert_array_equal(load_image(path), OTHER)


def test_a_folder_lists_both_without_doubles(tmp_path):
    pytest.importorskip("pydicom", reason="needs the extra medical")
    from support.medical_files import RAMP, write_dicom

    write_dicom(tmp_path / "scan", np.stack([RAMP, RAMP]), frames=2)
    write_dicom(tmp_path / "scan#1", RAMP)
    assert list_images(tmp_path) == [
        f"{tmp_path / 'scan'}#0",
        f"{tmp_path / 'scan'}#1",
        f"{tmp_path / 'scan'}#1#0",
    ]
