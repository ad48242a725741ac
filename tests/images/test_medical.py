"""DICOM, NIfTI and 16-bit colour: pixels worked out by hand, pydicom's own samples, and hostile files."""

import gzip
import os
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvlad import InputError, load_image_folder
from medvlad._util.validate import MissingExtraError
from medvlad.datasets.folders import list_images
from medvlad.images.frames import split_frame
from medvlad.images.hashed_file import image_key
from medvlad.images.read import list_frames, load_image

pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")
nibabel = pytest.importorskip("nibabel", reason="needs the extra medical")
tifffile = pytest.importorskip("tifffile", reason="needs the extra medical")
imagecodecs = pytest.importorskip("imagecodecs", reason="needs the extra medical")

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


def write_dicom(path, pixels, *, bits=None, signed=False, photometric="MONOCHROME2", frames=None, **tags):
    """A DICOM file of these numbers, uncompressed."""
    pixels = np.asarray(pixels)
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.SOPClassUID, data.SOPInstanceUID = pydicom.uid.SecondaryCaptureImageStorage, "1.2.3"
    colour = pixels.ndim == 3 + (frames is not None)
    data.Rows, data.Columns = pixels.shape[1:3] if frames else pixels.shape[:2]
    data.SamplesPerPixel = 3 if colour else 1
    if colour:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = 8 * pixels.itemsize
    data.BitsStored = bits or data.BitsAllocated
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(signed)
    if frames:
        data.NumberOfFrames = frames
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    data.save_as(path, enforce_file_format=True)
    return path


def grey(path):
    """One channel of a loaded image, which must have three that are alike."""
    pixels = load_image(path)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


RAMP = np.array([[0, 1000, 2000], [3000, 4000, 4095]], np.uint16)


def test_dicom_without_a_window_is_stretched(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, bits=12)
    np.testing.assert_array_equal(grey(path), np.rint(RAMP * (255 / 4095)))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        # center 2000, width 2000: (x - 1999.5) / 1999 + 0.5, (x - 2000) / 2000 + 0.5, the logistic function
        (None, [0, 0, 128, 255, 255, 255]),
        ("LINEAR", [0, 0, 128, 255, 255, 255]),
        ("LINEAR_EXACT", [0, 0, 128, 255, 255, 255]),
        ("SIGMOID", [5, 30, 128, 225, 250, 251]),
    ],
)
def test_dicom_window(tmp_path, function, expected):
    tags = {"WindowCenter": 2000, "WindowWidth": 2000} | ({"VOILUTFunction": function} if function else {})
    got = grey(write_dicom(tmp_path / "a.dcm", RAMP, bits=12, **tags))
    assert got.ravel().tolist() == expected


def test_dicom_window_between_its_ends(tmp_path):
    values = np.array([[8, 9], [10, 11]], np.uint16)
    tags = {"WindowCenter": 10, "WindowWidth": 5}
    got = grey(write_dicom(tmp_path / "a.dcm", values, **tags))
    # LINEAR: (x - 9.5) / 4 + 0.5 = 0.125, 0.375, 0.625, 0.875
    assert got.ravel().tolist() == [32, 96, 159, 223]
    tags = {"WindowCenter": 9, "WindowWidth": 8, "VOILUTFunction": "LINEAR_EXACT"}
    exact = grey(write_dicom(tmp_path / "b.dcm", values, **tags))
    # (x - 9) / 8 + 0.5 = 0.375, 0.5, 0.625, 0.75
    assert exact.ravel().tolist() == [96, 128, 159, 191]
    step = grey(write_dicom(tmp_path / "c.dcm", values, WindowCenter=10, WindowWidth=1))
    assert step.ravel().tolist() == [0, 0, 255, 255]


@pytest.mark.filterwarnings("ignore")  # so that a NaN cast to a grey level would pass
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(
    ("tag", "value"), [("Center", "nan"), ("Center", "inf"), ("Width", "inf"), ("Width", "nan")]
)
def test_a_window_that_is_no_number_is_none(tmp_path, tag, value, function):
    tags = {"WindowCenter": 2000, "WindowWidth": 2000, "VOILUTFunction": function} | {f"Window{tag}": 55555.5}
    path = write_dicom(tmp_path / "a.dcm", RAMP, bits=12, **tags)
    content = path.read_bytes()
    assert content.count(b"55555.5") == 1
    path.write_bytes(content.replace(b"55555.5", value.encode().ljust(7)))
    np.testing.assert_array_equal(grey(path), np.rint(RAMP * (255 / 4095)))


def test_first_of_several_windows(tmp_path):
    values = np.array([[0, 100], [200, 300]], np.uint16)
    tags = {"WindowCenter": [150, 1000], "WindowWidth": [2, 5000]}
    assert grey(write_dicom(tmp_path / "a.dcm", values, **tags)).ravel().tolist() == [0, 0, 255, 255]


def test_window_acts_after_rescaling(tmp_path):
    """CT: stored 1024 is 0 Hounsfield units, of a window from -500 to 500."""
    values = np.array([[0, 524], [1024, 1524]], np.uint16)
    path = write_dicom(
        tmp_path / "a.dcm",
        values,
        bits=12,
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=0,
        WindowWidth=1000,
        VOILUTFunction="LINEAR_EXACT",
    )
    assert grey(path).ravel().tolist() == [0, 0, 128, 255]


def test_monochrome1_is_inverted(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, bits=12, photometric="MONOCHROME1")
    np.testing.assert_array_equal(grey(path), 255 - np.rint(RAMP * (255 / 4095)))


def test_bits_above_those_stored_do_not_count(tmp_path):
    """An overlay in bit 15, as old files have it."""
    path = write_dicom(tmp_path / "a.dcm", RAMP | 0x8000, bits=12)
    np.testing.assert_array_equal(grey(path), np.rint(RAMP * (255 / 4095)))


def test_signed_numbers_of_12_bits(tmp_path):
    """Stored -1 is 0x0FFF, whether or not the bits above repeat the sign."""
    values = np.array([[-2048, -1], [0, 2047]], np.int16)
    for name, stored in (("a", values), ("b", values & 0x0FFF)):
        path = write_dicom(tmp_path / f"{name}.dcm", stored, bits=12, signed=True)
        np.testing.assert_array_equal(grey(path), np.rint((values + 2048.0) * (255 / 4095)))


def test_padding_does_not_count(tmp_path):
    values = np.array([[-2000, 0], [80, 200]], np.int16)
    path = write_dicom(tmp_path / "a.dcm", values, signed=True, PixelPaddingValue=-2000)
    assert grey(path).ravel().tolist() == [0, 0, 102, 255]


def test_voi_lookup_table(tmp_path):
    item = pydicom.Dataset()
    item.LUTDescriptor = [4, 10, 8]
    item["LUTDescriptor"].VR = "US"
    item.add_new("LUTData", "US", [5, 50, 100, 255])
    values = np.array([[9, 10], [12, 40]], np.uint16)
    path = write_dicom(tmp_path / "a.dcm", values, VOILUTSequence=[item])
    assert grey(path).ravel().tolist() == [5, 5, 100, 255]
    rescaled = {"RescaleSlope": 1, "RescaleIntercept": -5}
    path = write_dicom(tmp_path / "b.dcm", values + 5, VOILUTSequence=[item], **rescaled)
    assert grey(path).ravel().tolist() == [5, 5, 100, 255]


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 5, "WindowWidth": 10}])
def test_rescaling_beyond_numbers_is_refused(tmp_path, window):
    path = write_dicom(
        tmp_path / "a.dcm", RAMP, bits=12, RescaleSlope="1e308", RescaleIntercept="9", **window
    )
    with pytest.raises(InputError, match="NaN or infinite"), np.errstate(over="ignore"):
        load_image(path)


def test_more_frames_than_there_is_room_for(tmp_path):
    """A header may say anything; a list of a billion images must not be its result."""
    path = write_dicom(tmp_path / "a.dcm", np.stack([RAMP, RAMP]), bits=12, frames=2)
    content = pydicom.dcmread(path)
    content.NumberOfFrames = 2_000_000_000
    content.save_as(path)
    assert list_frames(path) == [path]
    with pytest.raises(InputError, match="more than there is room for"):
        load_image(path)


def test_named_pipes_are_not_opened(tmp_path):
    for name in ("a", "a.dcm", "a.tif", "a.nii.gz"):
        os.mkfifo(tmp_path / name)
        assert list_frames(tmp_path / name) == [tmp_path / name]
        with pytest.raises(InputError, match="not a regular file"):
            load_image(tmp_path / name)


def test_colour(tmp_path, rng):
    pixels = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    path = write_dicom(tmp_path / "a.dcm", pixels, photometric="RGB")
    np.testing.assert_array_equal(load_image(path), pixels)


def test_palette(tmp_path):
    tables = {}
    for i, colour in enumerate(("Red", "Green", "Blue")):
        tables[f"{colour}PaletteColorLookupTableDescriptor"] = [3, 0, 16]
        entries = np.array([0, 0x8000 + i, 0xFFFF], "<u2").tobytes()
        tables[f"{colour}PaletteColorLookupTableData"] = entries
    values = np.array([[0, 1], [2, 1]], np.uint8)
    path = write_dicom(tmp_path / "a.dcm", values, photometric="PALETTE COLOR", **tables)
    assert grey(path).ravel().tolist() == [0, 128, 255, 128]


def test_frames(tmp_path, rng):
    pixels = rng.integers(0, 256, (3, 5, 4), dtype=np.uint8)
    pixels[:, 0, 0], pixels[:, 0, 1] = 0, 255
    path = write_dicom(tmp_path / "a.dcm", pixels, frames=3)
    assert [str(p) for p in list_frames(path)] == [f"{path}#{i}" for i in range(3)]
    for i, frame in enumerate(list_frames(path)):
        np.testing.assert_array_equal(grey(frame), pixels[i])
        np.testing.assert_array_equal(grey(str(frame)), pixels[i])
    with pytest.raises(InputError, match=r"holds 3 images: name one of them, such as FILE#0"):
        load_image(path)
    with pytest.raises(InputError, match=r"a\.dcm#3' is not there: .* the last is #2"):
        load_image(f"{path}#3")
    assert list_frames(f"{path}#1") == [Path(f"{path}#1")]


def test_windows_of_single_frames(tmp_path):
    """Enhanced objects give each frame its own window and rescaling."""
    pixels = np.array([[[0, 100], [200, 300]]] * 2, np.uint16)
    groups = []
    for center, intercept in ((150, 0), (150, 100)):
        voi, transformation, frame = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 2
        transformation.RescaleSlope, transformation.RescaleIntercept = 1, intercept
        frame.FrameVOILUTSequence = [voi]
        frame.PixelValueTransformationSequence = [transformation]
        groups.append(frame)
    path = write_dicom(tmp_path / "a.dcm", pixels, frames=2, PerFrameFunctionalGroupsSequence=groups)
    assert grey(f"{path}#0").ravel().tolist() == [0, 0, 255, 255]
    assert grey(f"{path}#1").ravel().tolist() == [0, 255, 255, 255]  # 0 + 100, 100 + 100, ...


def test_names(tmp_path):
    path = write_dicom(tmp_path / "scan#7", RAMP, bits=12)
    assert split_frame(path) == (path, None)  # a file of this very name
    assert split_frame("a.dcm#12") == (Path("a.dcm"), 12)
    assert split_frame("a.dcm#x") == (Path("a.dcm#x"), None)
    assert split_frame("#1") == (Path("#1"), None)
    assert grey(path).shape == (2, 3)
    other = write_dicom(tmp_path / "wrong.png", RAMP, bits=12)  # known by its content
    np.testing.assert_array_equal(grey(other), grey(path))


# What pydicom can decode by itself or with Pillow; the others need a plugin and say so.
def samples():
    return sorted(p.name for p in SAMPLES.glob("*.dcm"))


@pytest.mark.parametrize("name", samples())
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_pydicom_samples(name):
    """Every sample in pydicom's wheel is read, or refused in one sentence that names it."""
    for path in list_frames(SAMPLES / name)[:3]:
        pixels, reason = pixels_or_reason(path)
        if reason is None:
            assert pixels.dtype == np.uint8
            assert pixels.shape[2] == 3
            assert pixels.min() < pixels.max()
        else:
            assert "\n" not in reason
            assert name in reason


def pixels_or_reason(path):
    try:
        return load_image(path), None
    except InputError as error:
        return None, str(error)


READABLE = ["CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm"]
READABLE += ["SC_rgb_rle.dcm", "SC_rgb_small_odd.dcm", "SC_rgb_jpeg_dcmtk.dcm", "JPEG2000.dcm"]
READABLE += ["examples_palette.dcm", "examples_rgb_color.dcm", "examples_ybr_color.dcm", "liver_1frame.dcm"]
READABLE += ["SC_ybr_full_422_uncompressed.dcm", "image_dfl.dcm", "ExplVR_BigEnd.dcm"]


@pytest.mark.parametrize("name", READABLE)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_pydicom_samples_that_must_be_read(name):
    path = SAMPLES / name
    if not path.exists():
        pytest.skip("not in this version of pydicom")
    pixels = load_image(list_frames(path)[0])
    assert pixels.min() < pixels.max()


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_sample_agrees_with_its_other_encodings():
    np.testing.assert_array_equal(
        load_image(SAMPLES / "MR_small.dcm"), load_image(SAMPLES / "MR_small_RLE.dcm")
    )
    np.testing.assert_array_equal(
        load_image(SAMPLES / "MR_small.dcm"), load_image(SAMPLES / "MR_small_bigendian.dcm")
    )


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_hostile_dicom(tmp_path, monkeypatch):
    good = write_dicom(tmp_path / "good.dcm", RAMP, bits=12).read_bytes()
    for length in (1, 100, 132, 200, len(good) // 2, len(good) - 3):
        cut = tmp_path / f"{length}.dcm"
        cut.write_bytes(good[:length])
        with pytest.raises(InputError, match=rf"{length}\.dcm") as error:
            load_image(cut)
        assert "\n" not in str(error.value)
        assert list_frames(cut) == [cut]
    text = tmp_path / "text.dcm"
    text.write_text("no image at all\n" * 50)
    with pytest.raises(InputError, match=r"text\.dcm"):
        load_image(text)
    huge = write_dicom(tmp_path / "huge.dcm", RAMP, bits=12)
    content = pydicom.dcmread(huge)
    content.Rows = content.Columns = 60000
    content.save_as(huge)
    with pytest.raises(InputError, match="more pixels than are safe"):
        load_image(huge)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(InputError, match="more pixels than are safe"):
        load_image(tmp_path / "good.dcm")


def test_random_damage(tmp_path, rng):
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


# ------------------------------------------------------------------------------------------ NIfTI


@pytest.mark.filterwarnings("ignore")  # so that a NaN cast to a grey level would pass
@pytest.mark.parametrize("ends", [(-1.7e308, 1.7e308), (0, 1e-320)])
def test_a_range_that_cannot_be_scaled_is_refused(tmp_path, ends):
    path = write_nifti(tmp_path / "a.nii", np.array([*ends] * 4).reshape(2, 4, 1))
    with pytest.raises(InputError, match="too far apart or too near"):
        load_image(f"{path}#0")


@pytest.mark.parametrize("largest", [1e-300, 1e-3, 1e300])
def test_any_other_range_is_scaled(tmp_path, largest):
    path = write_nifti(tmp_path / "a.nii", np.array([0, 0.2, 0.4, 1]).reshape(2, 2, 1) * largest)
    assert sorted(grey(path).ravel().tolist()) == [0, 51, 102, 255]


def write_nifti(path, values, affine=None, **header):
    image = nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_slices_as_radiologists_see_them(tmp_path, ending):
    """Voxel (i, j, k) lies i to the right, j to the front, k up: right is on the left, front at the top."""
    values = np.zeros((4, 5, 3), np.int16)
    values[3, 0, 1] = 100  # far right, far back, middle slice
    values[0, 4, 1] = 40  # far left, far front
    path = write_nifti(tmp_path / f"a{ending}", values)
    frames = list_frames(path)
    assert [str(f) for f in frames] == [f"{path}#{k}" for k in range(3)]
    shown = grey(frames[1])
    assert shown.shape == (5, 4)
    assert shown[4, 0] == 255  # bottom left
    assert shown[0, 3] == 102  # top right
    assert not grey(frames[0]).any()
    with pytest.raises(InputError, match="holds 3 images"):
        load_image(path)
    write_nifti(tmp_path / "complex.nii", values.astype(np.complex64))
    with pytest.raises(InputError, match=r"complex64 of shape .* one real number"):
        load_image(tmp_path / "complex.nii#0")


def test_nifti_orientation_does_not_change_the_picture(tmp_path, rng):
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


def test_nifti_range(tmp_path):
    values = np.zeros((2, 2, 2), np.int16)
    values[0, 0] = [10, 40]
    path = write_nifti(tmp_path / "a.nii", values)
    assert [grey(f).max() for f in list_frames(path)] == [255, 255]
    path = write_nifti(tmp_path / "b.nii", values, cal_min=0, cal_max=40)
    assert [grey(f).max() for f in list_frames(path)] == [64, 255]


def test_hostile_nifti(tmp_path):
    good = write_nifti(tmp_path / "good.nii", np.arange(60, dtype=np.int16).reshape(5, 4, 3))
    cut = tmp_path / "cut.nii"
    cut.write_bytes(good.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"cut\.nii#2"):
        load_image(f"{cut}#2")
    for name, content in (("text.nii", b"text" * 200), ("empty.nii.gz", gzip.compress(b""))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            load_image(tmp_path / name)
    values = np.ones((3, 3, 3), np.float32)
    values[1, 1, 1] = np.nan
    path = write_nifti(tmp_path / "nan.nii", values)
    with pytest.raises(InputError, match=r"nan\.nii#1' holds NaN"):
        load_image(f"{path}#1")
    path = write_nifti(tmp_path / "time.nii", np.zeros((3, 3, 3, 2), np.int16))
    with pytest.raises(InputError, match="give a NIfTI volume of three axes"):
        load_image(f"{path}#1")
    bomb = bytearray(good.read_bytes()[:352])
    bomb[40:48] = struct.pack("<4h", 3, 32000, 32000, 30000)
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(bytes(bomb)))
    with pytest.raises(InputError, match="more pixels than are safe"):
        load_image(f"{path}#5")


# ------------------------------------------------------------------------------- 16-bit colour, TIFF


@pytest.fixture
def deep(rng):
    """Colour of 12 bits."""
    pixels = rng.integers(0, 4096, (6, 5, 3), dtype=np.uint16)
    pixels[0, 0, 0], pixels[1, 1, 2] = 0, 4095
    return pixels


@pytest.mark.parametrize("kind", ["png", "tiff", "planar"])
def test_colour_of_16_bits(tmp_path, deep, kind):
    path = tmp_path / f"a.{'png' if kind == 'png' else 'tif'}"
    if kind == "png":
        path.write_bytes(imagecodecs.png_encode(deep))
    elif kind == "tiff":
        tifffile.imwrite(path, deep, photometric="rgb")
    else:
        tifffile.imwrite(path, deep.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(load_image(path), np.rint(deep * (255 / 4095)))


def test_transparency_of_16_bits_is_dropped(tmp_path, deep):
    both = np.dstack([deep, np.full(deep.shape[:2], 65535, np.uint16)])
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(both))
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), np.rint(deep * (255 / 4095)))


def test_pages_of_a_tiff(tmp_path, rng):
    pages = rng.integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pages, photometric="rgb")
    assert [str(f) for f in list_frames(path)] == [f"{path}#{i}" for i in range(3)]
    for i, frame in enumerate(list_frames(path)):
        np.testing.assert_array_equal(load_image(frame), pages[i])
    with pytest.raises(InputError, match="holds 3 images"):
        load_image(path)
    deep = (pages.astype(np.uint16) << 4) + 3
    tifffile.imwrite(path, deep, photometric="rgb")
    expected = np.rint((deep[2] - float(deep[2].min())) * (255 / (float(deep[2].max()) - deep[2].min())))
    np.testing.assert_array_equal(load_image(f"{path}#2"), expected)


def test_damaged_colour(tmp_path, deep):
    content = imagecodecs.png_encode(deep)
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"a\.png' is corrupt or truncated"):
        load_image(tmp_path / "a.png")


# ------------------------------------------------------------------------------- data sets, the store


@pytest.fixture
def study(tmp_path):
    """Two classes; three patients, one of them with a file of two frames and a file without an ending."""
    root = tmp_path / "study"
    for i, (kind, patient) in enumerate((("a", "P1"), ("a", "P2"), ("b", "P2"), ("b", "P3"))):
        (root / kind).mkdir(parents=True, exist_ok=True)
        write_dicom(root / kind / f"{i}.dcm", RAMP + i, bits=12, PatientID=f"patient {patient}")
    write_dicom(root / "b" / "IM_0001", RAMP + 5, bits=12, PatientID="patient P1")
    two = np.stack([RAMP, RAMP + 9])
    write_dicom(root / "b" / "two.dcm", two, bits=12, frames=2, PatientID="patient P3")
    return root


def test_patients_are_groups_that_name_nobody(study):
    data = load_image_folder(study)
    names = [path.relative_to(study).as_posix() for path in data.paths]
    assert names == ["a/0.dcm", "a/1.dcm", "b/2.dcm", "b/3.dcm", "b/IM_0001", "b/two.dcm#0", "b/two.dcm#1"]
    groups = data.groups.tolist()
    assert groups[1] == groups[2]
    assert groups[0] == groups[4]
    assert groups[3] == groups[5] == groups[6]
    assert len(set(groups)) == 3
    assert not any("patient" in group for group in groups)
    assert len(list_images(study)) == 7


def test_frames_of_one_file_stay_together_whoever_it_is(study):
    for path in study.glob("*/*"):
        data = pydicom.dcmread(path)
        data.PatientID = ""
        data.save_as(path)
    groups = load_image_folder(study).groups.tolist()
    assert groups[5] == groups[6] == "b/two.dcm"
    assert len(set(groups)) == 6


def test_the_study_stands_in_for_a_patient(tmp_path):
    for name, uid in (("a", "1.2"), ("b", "1.2")):
        (tmp_path / name).mkdir()
        write_dicom(tmp_path / name / "x.dcm", RAMP, bits=12, StudyInstanceUID=uid)
    groups = load_image_folder(tmp_path).groups.tolist()
    assert groups[0] == groups[1]
    assert "1.2" not in groups[0]


def test_frames_stay_together_whatever_the_pattern(study):
    pattern = r"/(\d)\.dcm"
    groups = load_image_folder(study, group_pattern=pattern).groups.tolist()
    assert groups == ["0", "1", "2", "3", "b/IM_0001", "b/two.dcm", "b/two.dcm"]
    groups = load_image_folder(study, group_pattern="(nobody)").groups.tolist()
    assert groups[5] == groups[6]
    assert len(set(groups)) == 6


def test_keys_of_frames(study):
    path = study / "b" / "two.dcm"
    digests = {}
    assert [image_key(f, digests) for f in (f"{path}#0", path)] == [f"{image_key(path)}#0", image_key(path)]
    digests = {}
    keys = [image_key(f"{path}#{i}", digests) for i in range(2)]
    assert keys == [f"{image_key(path)}#{i}" for i in range(2)]
    assert list(digests) == [path]
    assert [image_key(f"{path}#{i}") for i in range(2)] == keys


def test_without_the_extra(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtraError, match=r"DICOM needs .*pip install 'medvlad\[medical\]'"):
        load_image(study / "a" / "0.dcm")
    with pytest.raises(MissingExtraError, match=r"medvlad\[medical\]"):
        load_image_folder(study)


def test_the_whole_way(study, tmp_path, small_weights, capsys, monkeypatch):
    """Extraction, a store, and prediction of each frame; no identifier is in any file."""
    from medvlad import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["medvlad", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, capsys.readouterr()

    network = ["--model", "mobilenetv2", "--layer", "block_5_add", "--weights", small_weights]
    network += ["--store", tmp_path / "store"]
    status, captured = run("extract", study, *network)
    assert status == 0
    assert captured.out.startswith("7 images, 7 of them extracted now")
    model = tmp_path / "model"
    assert run("train", study, *network, "--encode", "avg", "-o", model)[0] == 0
    status, captured = run("predict", model, study / "b" / "two.dcm", study / "a" / "0.dcm", "--json")
    assert status == 0
    assert captured.out.count('"label"') == 3
    assert "two.dcm#1" in captured.out
    for path in [model, *(p for p in (tmp_path / "store").rglob("*") if p.is_file())]:
        assert b"patient P" not in path.read_bytes()
