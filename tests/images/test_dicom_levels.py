"""Stored numbers of DICOM become grey levels: windows, tables, rescaling and padding, worked out by hand."""

import numpy as np
import pytest
from support.dicom_encodings import write_floats
from support.medical_files import RAMP, grey, write_dicom

from medvlad import InputError
from medvlad.images.read import load_image

pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")


def test_a_file_without_a_window_is_stretched(tmp_path):
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
def test_a_window_gives_these_levels(tmp_path, function, expected):
    tags = {"WindowCenter": 2000, "WindowWidth": 2000} | ({"VOILUTFunction": function} if function else {})
    got = grey(write_dicom(tmp_path / "a.dcm", RAMP, bits=12, **tags))
    assert got.ravel().tolist() == expected


FOUR = np.array([[8, 9], [10, 11]], np.uint16)
MONOCHROME1 = {"photometric": "MONOCHROME1"}


def test_linear_levels_between_the_ends_of_a_window(tmp_path):
    got = grey(write_dicom(tmp_path / "a.dcm", FOUR, WindowCenter=10, WindowWidth=5))
    # (x - 9.5) / 4 + 0.5 = 0.125, 0.375, 0.625, 0.875
    assert got.ravel().tolist() == [32, 96, 159, 223]


def test_linear_exact_levels_between_the_ends_of_a_window(tmp_path):
    tags = {"WindowCenter": 9, "WindowWidth": 8, "VOILUTFunction": "LINEAR_EXACT"}
    exact = grey(write_dicom(tmp_path / "b.dcm", FOUR, **tags))
    # (x - 9) / 8 + 0.5 = 0.375, 0.5, 0.625, 0.75
    assert exact.ravel().tolist() == [96, 128, 159, 191]


def test_a_linear_window_of_width_1_is_a_step(tmp_path):
    step = grey(write_dicom(tmp_path / "c.dcm", FOUR, WindowCenter=10, WindowWidth=1))
    assert step.ravel().tolist() == [0, 0, 255, 255]


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_an_unknown_function_counts_as_linear(tmp_path):
    tags = {"WindowCenter": 10, "WindowWidth": 5, "VOILUTFunction": "CUBIC"}
    got = grey(write_dicom(tmp_path / "a.dcm", FOUR, **tags))
    assert got.ravel().tolist() == [32, 96, 159, 223]


@pytest.mark.parametrize(
    ("width", "function"), [(0, "LINEAR"), (0.5, "LINEAR"), (0, "SIGMOID"), (-2, "SIGMOID")]
)
def test_a_window_of_impossible_width_is_ignored(tmp_path, width, function):
    tags = {"WindowCenter": 10, "WindowWidth": width, "VOILUTFunction": function}
    got = grey(write_dicom(tmp_path / "a.dcm", FOUR, **tags))
    assert got.ravel().tolist() == [0, 85, 170, 255]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_sigmoid_far_below_its_window_is_black_without_a_warning(tmp_path):
    tags = {"WindowCenter": 4000, "WindowWidth": 1, "VOILUTFunction": "SIGMOID"}
    got = grey(write_dicom(tmp_path / "a.dcm", RAMP, bits=12, **tags))
    assert got.ravel().tolist() == [0, 0, 0, 0, 128, 255]


@pytest.mark.filterwarnings("ignore")  # so that a NaN cast to a grey level would pass
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(
    ("tag", "value"), [("Center", "nan"), ("Center", "inf"), ("Width", "inf"), ("Width", "nan")]
)
def test_a_window_that_is_not_a_number_is_ignored(tmp_path, tag, value, function):
    tags = {"WindowCenter": 2000, "WindowWidth": 2000, "VOILUTFunction": function} | {f"Window{tag}": 55555.5}
    path = with_text(write_dicom(tmp_path / "a.dcm", RAMP, bits=12, **tags), value)
    np.testing.assert_array_equal(grey(path), np.rint(RAMP * (255 / 4095)))


INVALID = ["2048,25", "\\2000", "abc", "1e"]


@pytest.mark.parametrize("tag", ["Center", "Width"])
@pytest.mark.parametrize("text", INVALID)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_window_whose_text_is_no_number_is_ignored(tmp_path, tag, text):
    tags = {"WindowCenter": 2000, "WindowWidth": 2000} | {f"Window{tag}": 55555.5}
    path = with_text(write_dicom(tmp_path / "a.dcm", RAMP, bits=12, **tags), text)
    np.testing.assert_array_equal(grey(path), np.rint(RAMP * (255 / 4095)))


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_frame_whose_window_is_no_number_has_the_window_of_the_file(tmp_path):
    group, frame = pydicom.Dataset(), pydicom.Dataset()
    group.WindowCenter, group.WindowWidth = 55555.5, 2
    frame.FrameVOILUTSequence = [group]
    tags = {"WindowCenter": 10, "WindowWidth": 1, "PerFrameFunctionalGroupsSequence": [frame]}
    path = with_text(write_dicom(tmp_path / "a.dcm", FOUR[np.newaxis], frames=1, **tags), "abc")
    assert grey(path).ravel().tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("tag", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("text", INVALID)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_rescaling_whose_text_is_no_number_is_refused_by_name(tmp_path, tag, text):
    tags = {"RescaleSlope": 1, "RescaleIntercept": 0} | {tag: 55555.5}
    path = with_text(write_dicom(tmp_path / "a.dcm", RAMP, bits=12, **tags), text)
    with pytest.raises(InputError, match=f"{tag} is not a number"):
        load_image(path)


def with_text(path, text):
    """Write a text in place of the number 55555.5 of a file."""
    content = path.read_bytes()
    assert content.count(b"55555.5") == 1
    path.write_bytes(content.replace(b"55555.5", text.encode().ljust(7)))
    return path


def test_the_first_of_several_windows_is_used(tmp_path):
    values = np.array([[0, 100], [200, 300]], np.uint16)
    tags = {"WindowCenter": [150, 1000], "WindowWidth": [2, 5000]}
    assert grey(write_dicom(tmp_path / "a.dcm", values, **tags)).ravel().tolist() == [0, 0, 255, 255]


def test_a_window_acts_after_rescaling(tmp_path):
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


@pytest.fixture
def enhanced(tmp_path):
    """A file of two equal frames; the functional groups of each give a window and a rescaling of its own."""
    pixels = np.array([[[0, 100], [200, 300]]] * 2, np.uint16)
    groups = []
    for center, intercept in ((150, 0), (150, 100)):
        voi, transformation, frame = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 2
        transformation.RescaleSlope, transformation.RescaleIntercept = 1, intercept
        frame.FrameVOILUTSequence = [voi]
        frame.PixelValueTransformationSequence = [transformation]
        groups.append(frame)
    return write_dicom(tmp_path / "a.dcm", pixels, frames=2, PerFrameFunctionalGroupsSequence=groups)


def test_each_frame_of_an_enhanced_object_has_its_own_window_and_rescaling(enhanced):
    assert grey(f"{enhanced}#0").ravel().tolist() == [0, 0, 255, 255]
    assert grey(f"{enhanced}#1").ravel().tolist() == [0, 255, 255, 255]  # 0 + 100, 100 + 100, ...


def test_pydicoms_own_functions_ignore_the_groups_of_a_frame(enhanced):
    """This is why `_found` is our own code. If this test fails, pydicom may have become right."""
    header = pydicom.dcmread(enhanced)
    stored = pydicom.pixels.pixel_array(enhanced, index=1)
    rescaled = pydicom.pixels.apply_modality_lut(stored, header)
    np.testing.assert_array_equal(rescaled, stored)
    np.testing.assert_array_equal(pydicom.pixels.apply_voi_lut(rescaled, header), stored)


def test_pydicoms_own_window_raises_an_error_for_an_impossible_width(tmp_path):
    """This is why `_window` checks the width first. If this test fails, pydicom may have become right."""
    path = write_dicom(tmp_path / "a.dcm", FOUR, WindowCenter=10, WindowWidth=0)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        pydicom.pixels.apply_windowing(FOUR, pydicom.dcmread(path))


def test_monochrome1_is_inverted(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, bits=12, photometric="MONOCHROME1")
    np.testing.assert_array_equal(grey(path), 255 - np.rint(RAMP * (255 / 4095)))


def test_bits_above_those_stored_do_not_count(tmp_path):
    """An overlay in bit 15, as old files have it."""
    path = write_dicom(tmp_path / "a.dcm", RAMP | 0x8000, bits=12)
    np.testing.assert_array_equal(grey(path), np.rint(RAMP * (255 / 4095)))


def test_numbers_of_12_bits_extend_their_sign(tmp_path):
    """Stored -1 is 0x0FFF, whether or not the bits above repeat the sign."""
    values = np.array([[-2048, -1], [0, 2047]], np.int16)
    for name, stored in (("a", values), ("b", values & 0x0FFF)):
        path = write_dicom(tmp_path / f"{name}.dcm", stored, bits=12, signed=True)
        np.testing.assert_array_equal(grey(path), np.rint((values + 2048.0) * (255 / 4095)))


def test_padding_is_black_and_not_part_of_the_range(tmp_path):
    values = np.array([[-2000, 0], [80, 200]], np.int16)
    path = write_dicom(tmp_path / "a.dcm", values, signed=True, PixelPaddingValue=-2000)
    assert grey(path).ravel().tolist() == [0, 0, 102, 255]


def test_a_frame_of_padding_is_black(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.full((2, 2), 9, np.uint16), PixelPaddingValue=9, **MONOCHROME1)
    assert not grey(path).any()


def test_a_limit_without_a_padding_value_declares_no_padding(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", FOUR, PixelPaddingRangeLimit=9)
    assert grey(path).ravel().tolist() == [0, 85, 170, 255]


def test_a_padding_value_outside_the_stored_numbers_marks_no_pixel(tmp_path):
    """It must not be cut to 12 bits, because 65535 would become 4095, a white that the detector delivers."""
    path = write_dicom(tmp_path / "a.dcm", RAMP, bits=12, PixelPaddingValue=65535)
    np.testing.assert_array_equal(grey(path), np.rint(RAMP * (255 / 4095)))


def test_undeclared_nan_is_refused_beside_declared_padding(tmp_path):
    values = np.array([[-1, 0.5], [np.nan, 2]], np.float32)
    path = write_floats(tmp_path / "a.dcm", values, "FloatPixelData", FloatPixelPaddingValue=-1.0)
    with pytest.raises(InputError, match=r"a\.dcm' holds NaN or infinite"):
        load_image(path)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("center", [-9000, 9000])
def test_a_window_off_the_data_is_ignored_with_a_warning(tmp_path, caplog, center, function, photometric):
    tags = {"WindowCenter": center, "WindowWidth": 400, "VOILUTFunction": function}
    path = write_dicom(tmp_path / "a.dcm", RAMP, bits=12, photometric=photometric, **tags)
    levels = np.rint(RAMP * (255 / 4095))
    np.testing.assert_array_equal(grey(path), 255 - levels if photometric == "MONOCHROME1" else levels)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert (
        f"'{path}': the window of center {center} and width 400 turns pixels that vary" in record.getMessage()
    )


@pytest.mark.parametrize("padding", [{}, {"PixelPaddingValue": 0}])
def test_a_window_over_a_constant_picture_is_not_ignored(tmp_path, caplog, padding):
    """Padding does not make a picture vary."""
    values = np.array([[9, 9], [0 if padding else 9, 9]], np.uint16)
    tags = {"WindowCenter": 9, "WindowWidth": 4, "VOILUTFunction": "LINEAR_EXACT"}
    path = write_dicom(tmp_path / "a.dcm", values, **tags, **padding)
    assert grey(path).ravel().tolist() == [128, 128, 0 if padding else 128, 128]
    assert not caplog.records


def test_a_voi_table_off_the_data_is_ignored_with_a_warning(tmp_path, caplog, table):
    path = write_dicom(tmp_path / "a.dcm", FOUR + 100, VOILUTSequence=table)
    assert grey(path).ravel().tolist() == [0, 85, 170, 255]
    assert "the VOI lookup table turns" in caplog.records[0].getMessage()


@pytest.mark.parametrize("slope", ["0", "0.0", "-0"])
def test_a_slope_of_0_counts_as_1_with_a_warning(tmp_path, caplog, slope):
    window = {"WindowCenter": 10.5, "WindowWidth": 5}
    path = write_dicom(tmp_path / "a.dcm", FOUR, RescaleSlope=slope, RescaleIntercept="0.5", **window)
    assert grey(path).ravel().tolist() == [32, 96, 159, 223]
    (record,) = caplog.records
    assert f"'{path}': RescaleSlope is 0" in record.getMessage()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_constant_frame_without_a_window_is_black(tmp_path, photometric):
    path = write_dicom(tmp_path / "a.dcm", np.full((2, 2), 9, np.uint16), photometric=photometric)
    assert not grey(path).any()


@pytest.fixture
def table():
    """A VOI lookup table: 10, 11, 12 and 13 become 5, 50, 100 and 255."""
    item = pydicom.Dataset()
    item.LUTDescriptor = [4, 10, 8]
    item["LUTDescriptor"].VR = "US"
    item.add_new("LUTData", "US", [5, 50, 100, 255])
    return [item]


TABLE_INPUT = np.array([[9, 10], [12, 40]], np.uint16)


def test_a_voi_table_is_looked_up_and_its_ends_go_on(tmp_path, table):
    path = write_dicom(tmp_path / "a.dcm", TABLE_INPUT, VOILUTSequence=table)
    assert grey(path).ravel().tolist() == [5, 5, 100, 255]


def test_a_voi_table_acts_after_rescaling(tmp_path, table):
    rescaled = {"RescaleSlope": 1, "RescaleIntercept": -5}
    path = write_dicom(tmp_path / "b.dcm", TABLE_INPUT + 5, VOILUTSequence=table, **rescaled)
    assert grey(path).ravel().tolist() == [5, 5, 100, 255]


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 5, "WindowWidth": 10}])
def test_rescaling_to_infinity_is_refused(tmp_path, window):
    path = write_dicom(
        tmp_path / "a.dcm", RAMP, bits=12, RescaleSlope="1e308", RescaleIntercept="9", **window
    )
    with pytest.raises(InputError, match="NaN or infinite"), np.errstate(over="ignore"):
        load_image(path)


def test_a_palette_is_looked_up(tmp_path):
    tables = {}
    for i, colour in enumerate(("Red", "Green", "Blue")):
        tables[f"{colour}PaletteColorLookupTableDescriptor"] = [3, 0, 16]
        entries = np.array([0, 0x8000 + i, 0xFFFF], "<u2").tobytes()
        tables[f"{colour}PaletteColorLookupTableData"] = entries
    values = np.array([[0, 1], [2, 1]], np.uint8)
    path = write_dicom(tmp_path / "a.dcm", values, photometric="PALETTE COLOR", **tables)
    assert grey(path).ravel().tolist() == [0, 128, 255, 128]
