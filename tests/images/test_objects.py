"""What an object is, is never guessed while the storage fails."""

import errno
import io
import pickle
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
from medvlad._util.object_storage import StorageFailure
from medvlad.datasets.arriving import PAUSE
from medvlad.datasets.folders import list_images
from medvlad.datasets.listing import Listing
from medvlad.images import load_image
from medvlad.images.hashed_file import image_key
from medvlad.images.inspect_file import inspect_file
from medvlad.images.prefetch import load_squares
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
        with pytest.raises(
            InputError, match=f"/{name} cannot be read, because its storage fails .*slow down, after 6 tries"
        ):
            list_images(folder)


def test_a_failure_that_pydicom_catches_is_told(folder, monkeypatch):
    """The patient would be unknown, and in training and test."""
    assert inspect_file(folder / "scan").identity is not None
    monkeypatch.setattr("medvlad.images.inspect_file._HEAD", 132)
    monkeypatch.setattr(object_path, "_FIRST_RANGE", 200)
    with faulty() as system:
        system.faults += [("cat_file", lambda real, *a, **k: real(*a, **k))] + [("cat_file", busy)] * 100
        with pytest.raises(InputError, match="/scan cannot be read, because its storage fails"):
            inspect_file(folder / "scan")


def test_an_object_that_was_removed_is_no_image(folder):
    assert inspect_file(folder / "gone").images == []


def test_a_prediction_ends_if_the_images_of_a_file_cannot_be_counted(folder):
    """Named as one image, a file of several would get another name in the answers."""
    with faulty() as system:
        system.faults += [("info", busy)] * 100
        with pytest.raises(StorageFailure, match=r"pages\.tif cannot be read"):
            list(_all_frames([folder / "pages.tif", PAUSE]))


def test_images_before_one_that_cannot_be_counted_are_handed_over(folder):
    with faulty() as system:
        system.faults += [("info", busy)] * 100
        found = _all_frames([folder / "first.png", folder / "pages.tif"])
        assert [next(found), next(found)] == [folder / "first.png", PAUSE]
        with pytest.raises(StorageFailure):
            next(found)


def test_a_service_whose_callers_repeat_reports_what_could_not_be_looked_up(folder):
    with faulty() as system, object_path.failures_of_one_object():
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


def test_sizes_come_from_the_listing(folder):
    """Reading ahead asks for no size of a listed image, which would be a request for each."""
    images = [image.path for image in Listing().walk(folder)]
    plain = next(path for path in images if path.name == "a.png")
    assert plain.listed_size == len(plain.read_bytes())
    assert pickle.loads(pickle.dumps(plain)).listed_size == plain.listed_size
    n_asked = []
    for path in (plain, location(str(plain), "an image")):
        with faulty() as system:
            (_,) = load_squares([path], [0], (16,), "nearest", n_threads=1)
            n_asked.append([method for method, _ in system.calls].count("info"))
    assert n_asked[0] == n_asked[1] - 1


@pytest.mark.parametrize("large", [False, True])
def test_an_outage_is_no_unreadable_image(folder, large, monkeypatch):
    """Reading ahead returns an error for a damaged image, and raises if the storage does not answer."""
    if large:
        monkeypatch.setattr(object_path, "_AT_ONCE", 10)
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    wanted = [folder / "bad.png", folder / "gone.png", folder / "a.png"]
    found = [one for _, one in load_squares(wanted, range(3), (16,), "nearest", n_threads=1)]
    assert [type(one) for one in found] == [InputError, InputError, list]
    for method in ("info", "cat_file"):
        with faulty() as system:
            system.faults += [(method, busy)] * 100
            with pytest.raises(
                StorageFailure, match=r"a\.png cannot be read, because its storage fails"
            ) as raised:
                list(load_squares([folder / "a.png"], [0], (16,), "nearest", n_threads=1))
            assert "the same command again" in str(pickle.loads(pickle.dumps(raised.value)))
            with pytest.raises(StorageFailure):
                image_key(folder / "a.png")
