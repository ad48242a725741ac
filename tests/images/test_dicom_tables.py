"""Lookup tables and palettes of DICOM: what they hold counts, not what their descriptors say."""

import numpy as np
import pytest
from support.dicom_encodings import big_endian, implicit, palette, table
from support.image_bytes import refusal
from support.medical_files import grey, write_dicom

from medvlad.images.dicom_tables import read_table
from medvlad.images.read import load_image

pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")

FOUR = np.array([[8, 9], [10, 11]], np.uint16)
CURVE = [0, 10, 200, 255]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15, 16])
@pytest.mark.parametrize("said", [8, 10, 12, 16])
def test_the_largest_entry_tells_the_bits_of_a_table(tmp_path, bits, said):
    entries = np.rint(np.array(CURVE) * ((1 << bits) - 1) / 255).astype(int)
    path = write_dicom(tmp_path / "a.dcm", FOUR, VOILUTSequence=table(entries, 8, said))
    assert grey(path).ravel().tolist() == CURVE


def test_entries_of_8_bits_in_the_high_byte_are_read(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", FOUR, VOILUTSequence=table(np.array(CURVE) << 8, 8, 8))
    assert grey(path).ravel().tolist() == CURVE


def test_a_modality_table_of_8_bits_in_the_high_byte_has_the_units_of_the_window(tmp_path):
    tables = {"ModalityLUTSequence": table(np.array(CURVE) << 8, 8, 8)}
    window = {"WindowCenter": 127.5, "WindowWidth": 255, "VOILUTFunction": "LINEAR_EXACT"}
    assert grey(write_dicom(tmp_path / "a.dcm", FOUR, **tables, **window)).ravel().tolist() == CURVE


@pytest.mark.parametrize("order", [lambda path: path, implicit, big_endian])
@pytest.mark.parametrize("entries", [CURVE, [*CURVE, 255]], ids=["even", "odd"])
def test_entries_of_8_bits_may_be_packed(tmp_path, order, entries):
    path = write_dicom(tmp_path / "a.dcm", FOUR, VOILUTSequence=table(entries, 8, 8, data="packed"))
    assert grey(order(path)).ravel().tolist() == CURVE


def test_packed_entries_may_be_called_numbers_of_16_bits(tmp_path):
    item = table(CURVE, 8, 8)
    item[0].LUTData = [10 << 8 | 0, 255 << 8 | 200]
    assert grey(write_dicom(tmp_path / "a.dcm", FOUR, VOILUTSequence=item)).ravel().tolist() == CURVE


def test_a_table_of_fewer_entries_than_its_descriptor_says_is_refused(tmp_path):
    item = table(np.arange(40), 0, 8)
    item[0].LUTDescriptor = [60, 0, 8]
    path = write_dicom(tmp_path / "a.dcm", FOUR, VOILUTSequence=item)
    refusal(path, "a.dcm", "a lookup table of 80 bytes; its descriptor says 60 entries")


@pytest.mark.parametrize(
    ("low", "high", "number", "n_entries", "first"),
    [
        (-1024, 3071, 64512, 4096, -1024),  # CT: 12 bits and an intercept of -1024
        (-1024, 64511, 64512, 4096, -1024),  # 16 bits
        (-1024, 64511, 40000, 1000, 40000),
        (-32768, 32767, 40000, 1000, -25536),
        (0, 65535, 40000, 1000, 40000),
        (0, 65535, 40000 - 65536, 1000, 40000),
        (0, 4095, -1024, 4096, -1024),
        (-2048, 130000, 64000, 1000, -1536),
        (0, 130000, 64000, 1000, 64000),
    ],
)
def test_the_first_number_has_the_sign_of_what_can_be_looked_up(low, high, number, n_entries, first):
    sign = "SS" if number < 0 else "US"
    (item,) = table(np.zeros(n_entries, int), number, 16, sign=sign)
    assert read_table(item, low, high, little_endian=True).first == first


def test_an_item_without_a_table_leaves_the_window(tmp_path):
    item = table(CURVE, 8, 8)
    item[0].LUTData = None
    path = write_dicom(tmp_path / "a.dcm", FOUR, VOILUTSequence=item, WindowCenter=10, WindowWidth=1)
    assert grey(path).ravel().tolist() == [0, 0, 255, 255]


def _groups(*lookups):
    frames = []
    for one in lookups:
        group, frame = pydicom.Dataset(), pydicom.Dataset()
        group.VOILUTSequence = one
        frame.FrameVOILUTSequence = [group]
        frames.append(frame)
    return frames


def test_each_frame_has_its_own_voi_table(tmp_path):
    pixels = np.stack([FOUR, FOUR])
    groups = _groups(table(CURVE, 8, 8), table(CURVE[::-1], 8, 8))
    path = write_dicom(tmp_path / "a.dcm", pixels, frames=2, PerFrameFunctionalGroupsSequence=groups)
    assert grey(f"{path}#0").ravel().tolist() == CURVE
    assert grey(f"{path}#1").ravel().tolist() == CURVE[::-1]


def test_a_voi_table_may_be_shared_by_all_frames(tmp_path):
    pixels = np.stack([FOUR, FOUR])
    (shared,) = _groups(table(CURVE, 8, 8))
    path = write_dicom(tmp_path / "a.dcm", pixels, frames=2, SharedFunctionalGroupsSequence=[shared])
    assert grey(f"{path}#1").ravel().tolist() == CURVE


def test_the_window_of_a_frame_goes_before_the_table_of_the_file(tmp_path):
    group, frame = pydicom.Dataset(), pydicom.Dataset()
    group.WindowCenter, group.WindowWidth = 10, 2
    frame.FrameVOILUTSequence = [group]
    tags = {"VOILUTSequence": table(CURVE, 8, 8), "PerFrameFunctionalGroupsSequence": [frame]}
    path = write_dicom(tmp_path / "a.dcm", FOUR[np.newaxis], frames=1, **tags)
    assert grey(path).ravel().tolist() == [0, 0, 255, 255]


def test_a_table_after_a_fractional_slope_rounds(tmp_path):
    """0.9 x 8, 9, 10, 11 = 7.2, 8.1, 9, 9.9"""
    tags = {"RescaleSlope": 0.9, "RescaleIntercept": 0, "VOILUTSequence": table(CURVE, 7, 8)}
    assert grey(write_dicom(tmp_path / "a.dcm", FOUR, **tags)).ravel().tolist() == CURVE


@pytest.mark.parametrize("order", [lambda path: path, implicit, big_endian])
@pytest.mark.parametrize("shift", [0, 8], ids=["low byte", "high byte"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_of_8_bits_may_lie_in_either_byte_of_16(tmp_path, order, bits, shift):
    pixels = np.array([[0, 1], [2, 3]], np.uint8)
    path = write_dicom(tmp_path / "a.dcm", pixels, **palette(np.array(CURVE) << shift, bits))
    assert grey(order(path)).ravel().tolist() == CURVE


@pytest.mark.parametrize("order", [lambda path: path, implicit, big_endian])
@pytest.mark.parametrize("bits", [9, 10, 12, 16])
@pytest.mark.parametrize("said", [8, 16])
def test_the_largest_entry_tells_the_bits_of_a_palette(tmp_path, order, bits, said):
    entries = np.rint(np.array(CURVE) * ((1 << bits) - 1) / 255).astype(int)
    path = write_dicom(tmp_path / "a.dcm", np.array([[0, 1], [2, 3]], np.uint8), **palette(entries, said))
    assert grey(order(path)).ravel().tolist() == CURVE


@pytest.mark.parametrize("factor", [256, 257])
def test_a_dark_palette_of_16_bits_stays_dark(tmp_path, factor):
    """Its entries are levels of 8 bits in the high byte, or in both bytes."""
    dark = [0, 5, 40, 100]
    path = write_dicom(
        tmp_path / "a.dcm", np.array([[0, 1], [2, 3]], np.uint8), **palette(np.array(dark) * factor, 16)
    )
    assert grey(path).ravel().tolist() == dark


def test_a_palette_of_16_bits_that_never_reaches_half_brightness_stays_so(tmp_path):
    entries = np.array([0, 5000, 20_000, 30_000])
    path = write_dicom(tmp_path / "a.dcm", np.array([[0, 1], [2, 3]], np.uint8), **palette(entries, 16))
    assert grey(path).ravel().tolist() == (entries >> 8).tolist()


def test_a_colour_that_is_never_bright_does_not_change_the_bits_of_a_palette(tmp_path):
    tags = palette(np.array([0, 0x8000, 0xFF00]), 16)
    tags["BluePaletteColorLookupTableData"] = np.array([0, 90, 255], "<u2").tobytes()
    path = write_dicom(tmp_path / "a.dcm", np.array([[0, 1], [2, 1]], np.uint8), **tags)
    assert load_image(path).reshape(-1, 3).tolist() == [
        [0, 0, 0],
        [128] * 2 + [0],
        [255] * 2 + [0],
        [128] * 2 + [0],
    ]


def test_a_palette_of_8_bits_may_have_more_entries_than_8_bits_can_count(tmp_path):
    entries = np.repeat(CURVE, 300)
    pixels = np.array([[0, 300], [899, 1199]], np.uint16)
    path = write_dicom(tmp_path / "a.dcm", pixels, **palette(entries, 8))
    assert grey(path).ravel().tolist() == CURVE


@pytest.mark.parametrize("order", [lambda path: path, implicit])
def test_a_palette_of_packed_bytes_is_read(tmp_path, order):
    tags = palette(CURVE, 8)
    for colour in ("Red", "Green", "Blue"):
        tags[f"{colour}PaletteColorLookupTableData"] = bytes(CURVE)
    path = write_dicom(tmp_path / "a.dcm", np.array([[0, 1], [2, 3]], np.uint8), **tags)
    assert grey(order(path)).ravel().tolist() == CURVE


def test_a_palette_of_segments_is_read_by_what_it_holds(tmp_path):
    """A discrete segment of one entry, then a line of 254 steps to 255, in the low byte of 16 bits."""
    tags = palette(CURVE, 16)
    for colour in ("Red", "Green", "Blue"):
        del tags[f"{colour}PaletteColorLookupTableData"]
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        segments = np.array([0, 1, 0, 1, 255, 255], "<u2").tobytes()
        tags[f"Segmented{colour}PaletteColorLookupTableData"] = segments
    pixels = np.array([[0, 1], [200, 255]], np.uint8)
    path = write_dicom(tmp_path / "a.dcm", pixels, **tags)
    assert grey(path).ravel().tolist() == [0, 1, 200, 255]


def test_pydicom_believes_the_descriptor_of_a_palette(tmp_path):
    """This is why palettes are read by our own code. If this test fails, pydicom may have become right."""
    pixels = np.array([[0, 1], [2, 3]], np.uint8)
    path = write_dicom(tmp_path / "a.dcm", pixels, **palette(np.array(CURVE) << 8, 16, order=">"))
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    assert pydicom.pixels.apply_color_lut(pixels, data).max() < 256
