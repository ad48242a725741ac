"""DICOM files are read frame by frame, known by name or content, and refused in one sentence if damaged."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.medical_files import RAMP, grey, pixels_or_reason, write_dicom

from medvlad import InputError
from medvlad.images.frames import split_frame
from medvlad.images.read import list_frames, load_image

pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


def test_colour_of_8_bits_does_not_change(tmp_path, rng):
    pixels = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    path = write_dicom(tmp_path / "a.dcm", pixels, photometric="RGB")
    np.testing.assert_array_equal(load_image(path), pixels)


@pytest.fixture
def three_frames(tmp_path, rng):
    """A file of three frames, and their pixels, which fill the range 0 to 255."""
    pixels = rng.integers(0, 256, (3, 5, 4), dtype=np.uint8)
    pixels[:, 0, 0], pixels[:, 0, 1] = 0, 255
    return write_dicom(tmp_path / "a.dcm", pixels, frames=3), pixels


def test_the_frames_of_a_file_are_listed_by_number(three_frames):
    path, _ = three_frames
    assert [str(p) for p in list_frames(path)] == [f"{path}#{i}" for i in range(3)]
    assert list_frames(f"{path}#1") == [Path(f"{path}#1")]


def test_each_frame_has_its_own_pixels(three_frames):
    path, pixels = three_frames
    for i, frame in enumerate(list_frames(path)):
        np.testing.assert_array_equal(grey(frame), pixels[i])
        np.testing.assert_array_equal(grey(str(frame)), pixels[i])


def test_a_file_of_several_frames_is_refused_if_none_is_named(three_frames):
    with pytest.raises(InputError, match=r"holds 3 images: name one of them, such as FILE#0"):
        load_image(three_frames[0])


def test_a_frame_after_the_last_is_refused(three_frames):
    with pytest.raises(InputError, match=r"a\.dcm#3' does not exist: .* the last is #2"):
        load_image(f"{three_frames[0]}#3")


@pytest.mark.parametrize(
    ("name", "split"),
    [("a.dcm#12", ("a.dcm", 12)), ("a.dcm#x", ("a.dcm#x", None)), ("#1", ("#1", None))],
)
def test_only_a_number_after_a_name_is_the_number_of_a_frame(name, split):
    assert split_frame(name) == (Path(split[0]), split[1])


def test_a_file_whose_own_name_ends_in_a_number_is_itself(tmp_path):
    path = write_dicom(tmp_path / "scan#7", RAMP, bits=12)
    assert split_frame(path) == (path, None)
    assert grey(path).shape == (2, 3)


def test_dicom_is_known_by_its_content(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, bits=12)
    other = write_dicom(tmp_path / "wrong.png", RAMP, bits=12)
    np.testing.assert_array_equal(grey(other), grey(path))


def test_more_frames_than_the_file_has_room_for_are_refused(tmp_path):
    """A header may say anything; a list of a billion images must not be its result."""
    path = write_dicom(tmp_path / "a.dcm", np.stack([RAMP, RAMP]), bits=12, frames=2)
    content = pydicom.dcmread(path)
    content.NumberOfFrames = 2_000_000_000
    content.save_as(path)
    assert list_frames(path) == [path]
    with pytest.raises(InputError, match="more than the file has room for"):
        load_image(path)


def test_named_pipes_are_not_opened(tmp_path):
    for name in ("a", "a.dcm", "a.tif", "a.nii.gz"):
        os.mkfifo(tmp_path / name)
        assert list_frames(tmp_path / name) == [tmp_path / name]
        with pytest.raises(InputError, match="not a regular file"):
            load_image(tmp_path / name)


# What pydicom can decode by itself or with Pillow; the others need a plugin and say so.
def samples():
    return sorted(p.name for p in SAMPLES.glob("*.dcm"))


@pytest.mark.parametrize("name", samples())
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_every_sample_of_pydicom_is_read_or_refused_in_one_sentence(name):
    for path in list_frames(SAMPLES / name)[:3]:
        pixels, reason = pixels_or_reason(path)
        if reason is None:
            assert pixels.dtype == np.uint8
            assert pixels.shape[2] == 3
            assert pixels.min() < pixels.max()
        else:
            assert "\n" not in reason
            assert name in reason


READABLE = ["CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm"]
READABLE += ["SC_rgb_rle.dcm", "SC_rgb_small_odd.dcm", "SC_rgb_jpeg_dcmtk.dcm", "JPEG2000.dcm"]
READABLE += ["examples_palette.dcm", "examples_rgb_color.dcm", "examples_ybr_color.dcm", "liver_1frame.dcm"]
READABLE += ["SC_ybr_full_422_uncompressed.dcm", "image_dfl.dcm", "ExplVR_BigEnd.dcm"]


@pytest.mark.parametrize("name", READABLE)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_these_samples_of_pydicom_are_read(name):
    path = SAMPLES / name
    if not path.exists():
        pytest.skip("not in this version of pydicom")
    pixels = load_image(list_frames(path)[0])
    assert pixels.min() < pixels.max()


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_sample_has_the_same_pixels_in_every_encoding():
    np.testing.assert_array_equal(
        load_image(SAMPLES / "MR_small.dcm"), load_image(SAMPLES / "MR_small_RLE.dcm")
    )
    np.testing.assert_array_equal(
        load_image(SAMPLES / "MR_small.dcm"), load_image(SAMPLES / "MR_small_bigendian.dcm")
    )


@pytest.fixture
def good(tmp_path):
    return write_dicom(tmp_path / "good.dcm", RAMP, bits=12)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_truncated_file_is_refused_in_one_sentence(tmp_path, good):
    content = good.read_bytes()
    for length in (1, 100, 132, 200, len(content) // 2, len(content) - 3):
        cut = tmp_path / f"{length}.dcm"
        cut.write_bytes(content[:length])
        with pytest.raises(InputError, match=rf"{length}\.dcm") as error:
            load_image(cut)
        assert "\n" not in str(error.value)
        assert list_frames(cut) == [cut]


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_text_under_the_name_of_dicom_is_refused(tmp_path):
    text = tmp_path / "text.dcm"
    text.write_text("no image at all\n" * 50)
    with pytest.raises(InputError, match=r"text\.dcm"):
        load_image(text)


def test_a_header_of_too_many_pixels_is_refused(good):
    content = pydicom.dcmread(good)
    content.Rows = content.Columns = 60000
    content.save_as(good)
    with pytest.raises(InputError, match="more pixels than are safe"):
        load_image(good)


def test_pillows_limit_of_pixels_holds_for_dicom(good, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(InputError, match="more pixels than are safe"):
        load_image(good)


def test_random_damage_gives_pixels_or_one_sentence(tmp_path, rng):
    """Flipped bytes give pixels or one sentence."""
    good = write_dicom(tmp_path / "good.dcm", RAMP, bits=12, WindowCenter=5, WindowWidth=9).read_bytes()
    path = tmp_path / "bad.dcm"
    told = 0
    for _ in range(300):
        content = bytearray(good)
        for at in rng.integers(0, len(good), 3):
            content[at] = rng.integers(0, 256)
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels, reason = pixels_or_reason(path)
        assert pixels is None or pixels.shape[2] == 3
        assert reason is None or "\n" not in reason
        told += reason is not None
    assert told > 0
