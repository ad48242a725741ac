"""NIfTI slices are shown as radiologists see them, and damaged volumes are refused."""

import gzip
import struct

import numpy as np
import pytest
from support.medical_files import grey, write_nifti

from medvlad import InputError
from medvlad.images.read import list_frames, load_image

nibabel = pytest.importorskip("nibabel", reason="needs the extra medical")


@pytest.fixture(params=[".nii", ".nii.gz"])
def volume(tmp_path, request):
    """Two voxels of the middle slice are set. Voxel (i, j, k) lies i right, j to the front and k up."""
    values = np.zeros((4, 5, 3), np.int16)
    values[3, 0, 1] = 100  # far right, far back
    values[0, 4, 1] = 40  # far left, far front
    return write_nifti(tmp_path / f"a{request.param}", values)


def test_every_slice_of_a_volume_is_listed(volume):
    assert [str(f) for f in list_frames(volume)] == [f"{volume}#{k}" for k in range(3)]


def test_right_is_on_the_left_and_the_front_at_the_top(volume):
    shown = grey(f"{volume}#1")
    assert shown.shape == (5, 4)
    assert shown[4, 0] == 255  # bottom left
    assert shown[0, 3] == 102  # top right
    assert not grey(f"{volume}#0").any()


def test_a_volume_is_refused_if_no_slice_is_named(volume):
    with pytest.raises(InputError, match="holds 3 images"):
        load_image(volume)


def test_complex_numbers_are_refused(tmp_path):
    write_nifti(tmp_path / "complex.nii", np.zeros((4, 5, 3), np.complex64))
    with pytest.raises(InputError, match=r"complex64 of shape .* one real number"):
        load_image(tmp_path / "complex.nii#0")


def test_the_order_of_the_axes_does_not_change_the_picture(tmp_path, rng):
    values = rng.integers(0, 200, (4, 5, 3)).astype(np.int16)
    straight = nibabel.Nifti1Image(values, np.eye(4))
    expected = [grey(f) for f in list_frames(write_nifti(tmp_path / "a.nii", values))]
    for code in ("LAS", "RPI", "SAR", "ILP"):
        turn = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(straight.affine), nibabel.orientations.axcodes2ornt(code)
        )
        path = tmp_path / f"{code}.nii"
        nibabel.save(straight.as_reoriented(turn), path)
        for frame, picture in zip(list_frames(path), expected, strict=True):
            np.testing.assert_array_equal(grey(frame), picture)


@pytest.fixture
def two_slices():
    values = np.zeros((2, 2, 2), np.int16)
    values[0, 0] = [10, 40]
    return values


def test_each_slice_is_stretched_over_its_own_range(tmp_path, two_slices):
    path = write_nifti(tmp_path / "a.nii", two_slices)
    assert [grey(f).max() for f in list_frames(path)] == [255, 255]


def test_the_display_range_of_the_header_holds_for_every_slice(tmp_path, two_slices):
    path = write_nifti(tmp_path / "b.nii", two_slices, cal_min=0, cal_max=40)
    assert [grey(f).max() for f in list_frames(path)] == [64, 255]


SLICE = np.array([0, 0.2, 0.4, 1]).reshape(2, 2, 1)


@pytest.mark.parametrize(
    "ends", [(0, 2000), (100, 200), (-200, -100), (0, 90), (-1e30, 1e30)], ids="{0[0]}..{0[1]}".format
)
@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_a_display_range_of_other_data_is_ignored_with_a_warning(tmp_path, caplog, ends, kind):
    values = (SLICE * (1 if kind is np.float32 else 5)).astype(kind)
    path = write_nifti(tmp_path / "a.nii", values, cal_min=ends[0], cal_max=ends[1])
    assert sorted(grey(f"{path}#0").ravel().tolist()) == [0, 51, 102, 255]
    (record,) = caplog.records
    assert f"{path}#0" in record.getMessage()
    assert "the display range" in record.getMessage()


def test_a_dark_slice_of_a_volume_that_fits_its_display_range_stays_dark(tmp_path, caplog):
    """Only a slice that would be of one level gets its own range."""
    volume = np.concatenate([SLICE * 100, SLICE * 5, SLICE / 10], axis=2)
    path = write_nifti(tmp_path / "a.nii", volume, cal_min=0, cal_max=100)
    assert sorted(grey(f"{path}#1").ravel().tolist()) == [0, 3, 5, 13]
    assert not caplog.records
    assert sorted(grey(f"{path}#2").ravel().tolist()) == [0, 51, 102, 255]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", [".nii", ".nii.gz"])
def test_the_volume_tells_whether_a_display_range_fits(tmp_path, caplog, kind):
    volume = np.concatenate([SLICE * 5] * 7, axis=2)
    assert grey(str(write_nifti(tmp_path / f"a{kind}", volume, cal_max=100)) + "#1").max() == 255
    volume[..., 6] = np.nan
    volume[0, 0, 5] = 60
    assert grey(str(write_nifti(tmp_path / f"b{kind}", volume, cal_max=100)) + "#1").max() == 13
    assert len(caplog.records) == 1


@pytest.mark.filterwarnings("error")  # a NaN cast to a grey level
def test_a_display_range_too_small_to_scale_is_ignored(tmp_path):
    image = nibabel.Nifti2Image(SLICE, np.eye(4))
    image.header["cal_min"], image.header["cal_max"] = 0, 1e-320
    nibabel.save(image, tmp_path / "a.nii")
    assert sorted(grey(tmp_path / "a.nii#0").ravel().tolist()) == [0, 51, 102, 255]


@pytest.mark.filterwarnings("ignore")  # so that a NaN cast to a grey level would pass
@pytest.mark.parametrize("ends", [(-1.7e308, 1.7e308), (0, 1e-320)])
def test_a_range_that_cannot_be_scaled_is_refused(tmp_path, ends):
    path = write_nifti(tmp_path / "a.nii", np.array([*ends] * 4).reshape(2, 4, 1))
    with pytest.raises(InputError, match="a range that is too large or too small"):
        load_image(f"{path}#0")


@pytest.mark.parametrize("largest", [1e-300, 1e-3, 1e300])
def test_any_other_range_is_scaled(tmp_path, largest):
    path = write_nifti(tmp_path / "a.nii", np.array([0, 0.2, 0.4, 1]).reshape(2, 2, 1) * largest)
    assert sorted(grey(path).ravel().tolist()) == [0, 51, 102, 255]


@pytest.fixture
def good(tmp_path):
    return write_nifti(tmp_path / "good.nii", np.arange(60, dtype=np.int16).reshape(5, 4, 3))


def test_a_truncated_volume_is_refused(tmp_path, good):
    cut = tmp_path / "cut.nii"
    cut.write_bytes(good.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"cut\.nii#2"):
        load_image(f"{cut}#2")


@pytest.mark.parametrize(
    ("name", "content"),
    [("text.nii", b"text" * 200), ("empty.nii.gz", gzip.compress(b"", mtime=0))],
    ids=["text", "empty archive"],
)
def test_a_file_that_is_not_nifti_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        load_image(tmp_path / name)


def test_a_slice_with_nan_is_refused(tmp_path):
    values = np.ones((3, 3, 3), np.float32)
    values[1, 1, 1] = np.nan
    path = write_nifti(tmp_path / "nan.nii", values)
    with pytest.raises(InputError, match=r"nan\.nii#1' holds NaN"):
        load_image(f"{path}#1")


def test_a_volume_over_time_is_refused(tmp_path):
    path = write_nifti(tmp_path / "time.nii", np.zeros((3, 3, 3, 2), np.int16))
    with pytest.raises(InputError, match="give a NIfTI volume of three axes"):
        load_image(f"{path}#1")


def test_a_header_of_too_many_voxels_is_refused(tmp_path, good):
    bomb = bytearray(good.read_bytes()[:352])
    bomb[40:48] = struct.pack("<4h", 3, 32000, 32000, 30000)
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(bytes(bomb)))
    with pytest.raises(InputError, match="more pixels than are safe"):
        load_image(f"{path}#5")


@pytest.mark.parametrize(("written", "named"), [(".nii", ".nii.gz"), (".nii.gz", ".nii")])
def test_the_content_tells_whether_a_volume_is_compressed(tmp_path, written, named):
    values = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    first = write_nifti(tmp_path / f"a{written}", values)
    second = first.rename(tmp_path / f"b{named}")
    straight = write_nifti(tmp_path / "c.nii", values)
    assert len(list_frames(second)) == 3
    for i in range(3):
        np.testing.assert_array_equal(grey(f"{second}#{i}"), grey(f"{straight}#{i}"))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_volume_without_directions_is_refused_with_the_reason(tmp_path, good):
    content = bytearray(good.read_bytes())
    assert struct.unpack_from("<h", content, 254)[0] > 0  # sform_code
    content[280:328] = bytes(48)  # srow_x, srow_y and srow_z
    path = tmp_path / "zero.nii"
    path.write_bytes(content)
    with pytest.raises(InputError, match="an axis has no direction: its sform or qform must be corrected"):
        load_image(f"{path}#0")
