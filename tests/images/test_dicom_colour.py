"""Colour inside DICOM comes out right, also if the header says something else than the compressed picture."""

import numpy as np
import pytest
from support.medical_files import grey
from support.unusual_dicom import (
    BIG,
    EXPLICIT,
    image_of,
    imagecodecs,
    jpeg,
    pydicom,
    rle,
    smooth_colours,
    write,
    write_frames,
)

from medvlad import InputError
from medvlad.images.read import load_image

RGB = smooth_colours()
BASELINE = pydicom.uid.JPEGBaseline8Bit


def error_of(path):
    return np.abs(load_image(path).astype(int) - RGB).max()


# (stored colours, other arguments): streams that say which colours they store
TELLING = {
    "JFIF": ("YBR", {"marker": "JFIF"}),
    "Adobe YBR": ("YBR", {"marker": "Adobe"}),
    "Adobe RGB": ("RGB", {"marker": "Adobe"}),
    "Adobe RGB with letters": ("RGB", {"marker": "Adobe", "ids": b"RGB"}),
    "letters": ("RGB", {"ids": b"RGB"}),
    "small letters": ("RGB", {"ids": b"rgb"}),
}


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_PARTIAL_420"])
@pytest.mark.parametrize("kind", TELLING)
def test_jpeg_that_tells_its_colours_is_right_under_any_header(tmp_path, kind, photometric):
    stored, options = TELLING[kind]
    data = image_of(RGB, photometric=photometric)
    assert error_of(write_frames(tmp_path / "a.dcm", [jpeg(RGB, stored, **options)], BASELINE, data)) <= 4


@pytest.mark.parametrize(
    ("stored", "photometric"), [("RGB", "RGB"), ("YBR", "YBR_FULL_422"), ("YBR", "YBR_FULL")]
)
def test_jpeg_without_markers_has_the_colours_of_the_header(tmp_path, stored, photometric):
    data = image_of(RGB, photometric=photometric)
    assert error_of(write_frames(tmp_path / "a.dcm", [jpeg(RGB, stored)], BASELINE, data)) <= 4


@pytest.mark.parametrize("subsampling", ["422", "420"])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422"])
def test_jpeg_whose_components_differ_in_size_is_not_rgb(tmp_path, subsampling, photometric):
    data = image_of(RGB, photometric=photometric)
    frame = jpeg(RGB, "YBR", subsampling=subsampling)
    assert error_of(write_frames(tmp_path / "a.dcm", [frame], BASELINE, data)) <= 16


@pytest.mark.parametrize("photometric", ["RGB", "YBR_RCT", "YBR_ICT", "YBR_FULL", "YBR_FULL_422"])
def test_jpeg_2000_that_transforms_its_colours_is_right_under_any_header(tmp_path, photometric):
    frame = imagecodecs.jpeg2k_encode(RGB, level=0, codecformat="j2k", reversible=True, mct=True)
    data = image_of(RGB, photometric=photometric)
    assert error_of(write_frames(tmp_path / "a.dcm", [frame], pydicom.uid.JPEG2000Lossless, data)) == 0


def test_jpeg_2000_without_a_transform_has_the_colours_of_the_header(tmp_path):
    ybr = pydicom.pixels.convert_color_space(RGB, "RGB", "YBR_FULL")
    for stored, photometric in ((RGB, "RGB"), (RGB, "YBR_RCT"), (ybr, "YBR_FULL")):
        frame = imagecodecs.jpeg2k_encode(stored, level=0, codecformat="j2k", reversible=True, mct=False)
        data = image_of(RGB, photometric=photometric)
        assert error_of(write_frames(tmp_path / "a.dcm", [frame], pydicom.uid.JPEG2000Lossless, data)) <= 1


def test_a_jp2_file_as_a_frame_is_read(tmp_path):
    frame = imagecodecs.jpeg2k_encode(RGB, level=0, codecformat="jp2", reversible=True)
    data = image_of(RGB, photometric="YBR_RCT")
    assert error_of(write_frames(tmp_path / "a.dcm", [frame], pydicom.uid.JPEG2000Lossless, data)) == 0


@pytest.mark.parametrize("photometric", ["RGB", "MONOCHROME2"])
def test_a_stream_of_another_number_of_components_is_refused(tmp_path, photometric):
    grey_stream, colour_stream = imagecodecs.jpeg8_encode(RGB[..., 0].copy()), jpeg(RGB, "YBR", marker="JFIF")
    colour = photometric == "RGB"
    data = image_of(RGB if colour else RGB[..., 0], photometric=photometric)
    path = write_frames(tmp_path / "a.dcm", [grey_stream if colour else colour_stream], BASELINE, data)
    with pytest.raises(
        InputError, match=r"the header describes 24 x 16 x . numbers, the compressed frame 24 x 16 x ."
    ):
        load_image(path)


DARK = RGB // 3 + 20
"""Colours from 32 on, which would change if they were stretched."""


@pytest.mark.parametrize("encoding", [EXPLICIT, BIG])
@pytest.mark.parametrize("above", [0, 0xAB00])
def test_colour_of_8_bits_in_cells_of_16_does_not_change(tmp_path, encoding, above):
    data = image_of(DARK.astype(np.uint16) | np.uint16(above), bits=8, encoding=encoding)
    np.testing.assert_array_equal(load_image(write(tmp_path / "a.dcm", data, encoding)), DARK)


def test_colour_of_8_bits_in_planes_of_16_does_not_change(tmp_path):
    data = image_of(DARK.astype(np.uint16), bits=8, PlanarConfiguration=1)
    data.PixelData = DARK.transpose(2, 0, 1).astype("<u2").tobytes()
    np.testing.assert_array_equal(load_image(write(tmp_path / "a.dcm", data)), DARK)


def test_colour_of_8_bits_does_not_change_under_a_header_of_16(tmp_path):
    frame = imagecodecs.jpeg2k_encode(DARK, level=0, codecformat="j2k", reversible=True)
    path = write_frames(
        tmp_path / "a.dcm", [frame], pydicom.uid.JPEG2000Lossless, image_of(DARK.astype(np.uint16))
    )
    np.testing.assert_array_equal(load_image(path), DARK)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colour_of_8_bits_in_cells_of_16_does_not_change_as_rle(tmp_path, dtype):
    """Also if the bytes that are always zero are left out."""
    data = image_of(DARK.astype(np.uint16), bits=8)
    path = write_frames(tmp_path / "a.dcm", [rle(DARK.astype(dtype))], pydicom.uid.RLELossless, data)
    np.testing.assert_array_equal(load_image(path), DARK)


@pytest.mark.parametrize("codec", ["jpeg2k", "jpegls", "jpeg8"])
def test_colour_of_8_bits_does_not_change_in_compressed_cells_of_16(tmp_path, codec):
    options = {"jpeg2k": {"level": 0, "reversible": True}, "jpegls": {}, "jpeg8": {"lossless": True}}[codec]
    frame = getattr(imagecodecs, f"{codec}_encode")(DARK.astype(np.uint16), **options)
    data = image_of(DARK.astype(np.uint16), bits=8)
    path = write_frames(tmp_path / "a.dcm", [frame], pydicom.uid.JPEG2000Lossless, data)
    np.testing.assert_array_equal(load_image(path), DARK)


def test_colour_of_12_bits_is_not_cut_to_the_8_bits_of_the_header(tmp_path):
    deep = RGB.astype(np.uint16) * 16
    frame = imagecodecs.jpeg2k_encode(deep, level=0, codecformat="j2k", reversible=True, bitspersample=12)
    path = write_frames(tmp_path / "a.dcm", [frame], pydicom.uid.JPEG2000Lossless, image_of(RGB))
    expected = np.rint((deep - float(deep.min())) * (255 / float(np.ptp(deep))))
    np.testing.assert_array_equal(load_image(path), expected)


@pytest.mark.parametrize("compressed", [False, True])
def test_colour_of_12_bits_is_stretched_in_all_channels_together(tmp_path, compressed):
    deep = RGB.astype(np.uint16) * 10 + 100
    expected = np.rint((deep - deep.min()) * (255 / float(np.ptp(deep))))
    if compressed:
        frame = imagecodecs.jpeg2k_encode(deep, level=0, codecformat="j2k", reversible=True, bitspersample=12)
        path = write_frames(
            tmp_path / "a.dcm", [frame], pydicom.uid.JPEG2000Lossless, image_of(deep, bits=12)
        )
    else:
        path = write(tmp_path / "a.dcm", image_of(deep, bits=12))
    np.testing.assert_array_equal(load_image(path), expected)


@pytest.mark.parametrize("photometric", ["YBR_FULL", "ybr_full"])
@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_ybr_of_more_than_8_bits_is_refused(tmp_path, photometric):
    path = write(tmp_path / "a.dcm", image_of(RGB.astype(np.uint16), bits=12, photometric=photometric))
    with pytest.raises(InputError, match="YBR colours of 12 bits: convert it to RGB"):
        load_image(path)


def subsampled(ybr):
    """Return YBR as YBR_FULL_422 stores it: two Y, then one Cb and one Cr for both."""
    pairs = ybr.reshape(-1, 2, 3)
    return np.concatenate([pairs[:, :, 0], pairs[:, 0, 1:]], axis=1).tobytes()


@pytest.mark.parametrize("encoding", [EXPLICIT, BIG])
def test_subsampled_pixels_of_ybr_full_422_are_read(tmp_path, encoding):
    grey_level = np.repeat(RGB[..., :1], 3, axis=2)
    data = image_of(grey_level, photometric="YBR_FULL_422", encoding=encoding)
    data.PixelData = subsampled(pydicom.pixels.convert_color_space(grey_level, "RGB", "YBR_FULL"))
    np.testing.assert_array_equal(load_image(write(tmp_path / "a.dcm", data, encoding)), grey_level)


def test_a_film_in_ybr_full_422_may_have_more_frames_than_it_says(tmp_path):
    grey_level = np.repeat(RGB[..., :1], 3, axis=2)
    data = image_of(grey_level, photometric="YBR_FULL_422")
    frame = subsampled(pydicom.pixels.convert_color_space(grey_level, "RGB", "YBR_FULL"))
    data.PixelData = frame + bytes(len(frame))
    np.testing.assert_array_equal(load_image(write(tmp_path / "a.dcm", data)), grey_level)


@pytest.mark.parametrize("n_more", [0, 2])
@pytest.mark.parametrize("n_frames", [None, 2])
def test_pixels_that_are_not_subsampled_as_ybr_full_422_says_are_refused(tmp_path, n_frames, n_more):
    """The result of some decompressors. Whether the numbers are RGB or YBR cannot be told."""
    data = image_of(RGB, photometric="YBR_FULL_422")
    data.PixelData = RGB.tobytes() * (n_frames or 1) + bytes(n_more)
    name = tmp_path / "a.dcm"
    if n_frames:
        data.NumberOfFrames = n_frames
    write(name, data)
    found, expected = 24 * 16 * 3 * (n_frames or 1) + n_more, 24 * 16 * 2 * (n_frames or 1)
    with pytest.raises(InputError, match="write RGB or YBR_FULL into PhotometricInterpretation") as error:
        load_image(f"{name}#1" if n_frames else name)
    assert f"{found} bytes of pixels where YBR_FULL_422 has {expected}" in str(error.value)


def palette(bits, encoding):
    """Return the elements of a palette of 16 entries, whose levels are 0, 17, ..., 255 in each channel."""
    tables = {}
    order = "<" if encoding[1] else ">"
    levels = np.arange(0, 256, 17)
    for colour in ("Red", "Green", "Blue"):
        tables[f"{colour}PaletteColorLookupTableDescriptor"] = [16, 0, bits]
        entries = (levels * 256 + 13).astype(f"{order}u2") if bits == 16 else levels.astype(np.uint8)
        if bits == 8:  # two entries a word, the first in its low byte
            entries = entries.view("<u2").astype(f"{order}u2")
        tables[f"{colour}PaletteColorLookupTableData"] = entries.tobytes()
    return tables


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("encoding", [EXPLICIT, BIG])
def test_a_palette_is_looked_up_in_either_byte_order(tmp_path, bits, encoding):
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    data = image_of(pixels, photometric="PALETTE COLOR", encoding=encoding, **palette(bits, encoding))
    path = write(tmp_path / "a.dcm", data, encoding)
    np.testing.assert_array_equal(grey(path), np.arange(0, 256, 17).reshape(4, 4))


def test_a_voi_table_is_looked_up_in_big_endian(tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor = [4, 0, 16]
    table["LUTDescriptor"].VR = "US"
    table.add_new("LUTData", "OW", np.array([0, 0x5566, 0xAA99, 0xFFFF], ">u2").tobytes())
    data = image_of(np.array([[0, 1], [2, 3]], np.uint16), encoding=BIG, VOILUTSequence=[table])
    assert grey(write(tmp_path / "a.dcm", data, BIG)).ravel().tolist() == [0, 85, 170, 255]
