"""What an object is, is never guessed while the storage fails."""

import errno
import io
import uuid

import numpy as np
import pytest
from PIL import Image
from support.marked_dicom import dicom
from support.object_storage import SECRET, busy, faulty, no_waits

from medvlad import InputError
from medvlad._util import object_path
from medvlad._util.counters import counting
from medvlad._util.object_path import location
from medvlad.datasets.arriving import PAUSE
from medvlad.datasets.folders import list_images
from medvlad.images import load_image
from medvlad.images.inspect_file import inspect_file
from medvlad.predict import _all_frames

pytest.importorskip("fsspec", reason="needs the extra cloud")
pytest.importorskip("pydicom", reason="needs the extra medical")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A DICOM file without ending, a TIFF file of three images and a PNG file."""
    no_waits(monkeypatch)
    folder = location(f"memory://{uuid.uuid4().hex}/d", "the folder")
    dicom(tmp_path / "scan", np.zeros((4, 4), np.uint8), 7)
    (folder / "scan").write_bytes((tmp_path / "scan").read_bytes())
    pages = [Image.fromarray(np.full((9, 9), 50 * i, np.uint8)) for i in range(3)]
    content = io.BytesIO()
    pages[0].save(content, "TIFF", save_all=True, append_images=pages[1:])
    (folder / "pages.tif").write_bytes(content.getvalue())
    content = io.BytesIO()
    pages[0].save(content, "PNG")
    (folder / "a.png").write_bytes(content.getvalue())
    return folder


def names(images):
    return [image.name for image in images]


def failing(name):
    def fault(real, path, *args, **kwargs):
        if path.endswith(name):
            raise OSError(errno.EBUSY, "slow down")
        return real(path, *args, **kwargs)

    return fault


@pytest.mark.parametrize("method", ["info", "cat_file"])
@pytest.mark.parametrize("name", ["scan", "pages.tif"])
def test_a_folder_is_listed_as_a_whole_or_not_at_all(folder, method, name):
    assert names(list_images(folder)) == ["a.png", "pages.tif#0", "pages.tif#1", "pages.tif#2", "scan"]
    with faulty() as system:
        system.faults += [(method, failing(name))] * 100
        with pytest.raises(InputError, match=f"/{name} cannot be looked up .*slow down, after 6 tries"):
            list_images(folder)


def test_a_failure_that_pydicom_catches_is_told(folder, monkeypatch):
    """The patient would be unknown, and in training and test."""
    assert inspect_file(folder / "scan").identity is not None
    monkeypatch.setattr("medvlad.images.inspect_file._HEAD", 132)
    monkeypatch.setattr(object_path, "_FIRST_RANGE", 200)
    with faulty() as system:
        system.faults += [("cat_file", lambda real, *a, **k: real(*a, **k))] + [("cat_file", busy)] * 100
        with pytest.raises(InputError, match="/scan cannot be looked up"):
            inspect_file(folder / "scan")


def test_an_object_that_was_removed_is_no_image(folder):
    assert inspect_file(folder / "gone").images == []


def test_a_prediction_reports_what_could_not_be_looked_up(folder):
    with faulty() as system:
        system.faults += [("info", busy)] * 100
        assert list(_all_frames([folder / "pages.tif", PAUSE])) == [folder / "pages.tif", PAUSE]


def test_a_wrong_url_is_named_without_its_password():
    (name,) = _all_frames([f"https://user:{SECRET}@host/a.png"])
    assert SECRET not in name
    with pytest.raises(InputError, match="holds a password"):
        load_image(name)


def test_bytes_of_an_object_without_a_size_are_not_counted_backwards(folder):
    def unsized(real, path, *args, **kwargs):
        return {**real(path, *args, **kwargs), "size": None}

    with faulty() as system, counting() as counters:
        system.faults += [("info", unsized)] * 20
        assert load_image(folder / "a.png").shape == (9, 9, 3)
    assert counters.as_dict()["bytes_read"] == 0
