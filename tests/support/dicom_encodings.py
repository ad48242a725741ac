"""One picture in many DICOM encodings: signs, bits, slopes, windows, tables, padding, byte orders."""

import numpy as np
import pytest
from support.medical_files import write_dicom

pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")

ENCODINGS = {}
"""Functions by name. Each writes a picture to a path and returns the path."""

UNUSED = 200
"""A grey level that `picture` must not hold, so that encodings of 8 bits have a number for padding."""


def encoding(write):
    ENCODINGS[write.__name__] = write
    return write


def table(entries, first=0, bits=16, *, sign="US", data="US", order="<"):
    """Return the sequence of a lookup table. `data`: US, OW, or packed, 8 bits in OW."""
    entries = np.asarray(entries)
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", sign, [len(entries) % 65536, first, bits])
    if data == "US":
        item.add_new("LUTData", "US", entries.tolist())
        return [item]
    raw = entries.astype(f"{order}u2").tobytes() if data == "OW" else entries.astype(np.uint8).tobytes()
    item.add_new("LUTData", "OW", raw + b"\0" * (len(raw) % 2))
    return [item]


def with_vr(path, tag, vr, value):
    """Write a value in a value representation that pydicom would not choose, into an explicit VR file."""
    data = pydicom.dcmread(path)
    data.add_new(tag, vr, value)
    data.save_as(path)
    return path


def implicit(path):
    """Write a file again without value representations."""
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    data.save_as(path, implicit_vr=True, little_endian=True)
    return path


def big_endian(path):
    """Write a file again with the other byte order. pydicom leaves the bytes of OW as they are."""
    data = pydicom.dcmread(path)
    data.walk(lambda _, element: swap(element))
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    pydicom.dcmwrite(path, data, implicit_vr=False, little_endian=False, force_encoding=True)
    return path


def swap(element):
    size = {"OW": 2, "OF": 4, "OD": 8}.get(element.VR)
    if size is not None:
        element.value = np.frombuffer(element.value, f"u{size}").byteswap().tobytes()


def write_floats(path, values, keyword, **tags):
    """Write FloatPixelData or DoubleFloatPixelData."""
    write_dicom(path, np.zeros(values.shape, np.uint16), **tags)
    data = pydicom.dcmread(path)
    del data.PixelData, data.BitsStored, data.HighBit, data.PixelRepresentation
    data.BitsAllocated = 8 * values.dtype.itemsize
    setattr(data, keyword, values.tobytes())
    data.save_as(path)
    return path


def stored(picture, padding, value, dtype=np.uint16, change=lambda levels: levels):
    """Return the numbers of a picture, with `value` in place of padding."""
    return np.where(padding, value, change(picture.astype(np.int64))).astype(dtype)


WINDOW = {"WindowCenter": 1127.5, "WindowWidth": 255, "VOILUTFunction": "LINEAR_EXACT"}
"""Shows 1000 as black and 1255 as white."""

FALLING = {"photometric": "MONOCHROME1"}


def from_1000(levels):
    return levels + 1000


def negative(levels):
    return 255 - levels


TWELVE = np.rint(np.arange(256) * 4095 / 255).astype(int)
"""A table from grey levels to numbers of 12 bits."""


@encoding
def plain(path, picture, padding):
    pixels = stored(picture, padding, 5000, change=lambda levels: 3 * levels + 7)
    return write_dicom(path, pixels, PixelPaddingValue=5000)


@encoding
def eight_bits(path, picture, padding):
    return write_dicom(path, stored(picture, padding, UNUSED, np.uint8), PixelPaddingValue=UNUSED)


@encoding
def signed(path, picture, padding):
    pixels = stored(picture, padding, -2000, np.int16, lambda levels: levels - 100)
    return write_dicom(path, pixels, signed=True, PixelPaddingValue=-2000)


@encoding
def unsigned_value_in_signed_data(path, picture, padding):
    pixels = stored(picture, padding, -2000, np.int16, lambda levels: levels - 100)
    return with_vr(write_dicom(path, pixels, signed=True), "PixelPaddingValue", "US", 63536)


@encoding
def signed_value_in_unsigned_data(path, picture, padding):
    pixels = stored(picture, padding, 63536)
    return with_vr(write_dicom(path, pixels), "PixelPaddingValue", "SS", -2000)


@encoding
def signed_12_bits(path, picture, padding):
    pixels = stored(picture, padding, -2000, np.int16) & 0x0FFF
    return with_vr(write_dicom(path, pixels, bits=12, signed=True), "PixelPaddingValue", "US", 63536)


@encoding
def value_of_12_bits(path, picture, padding):
    pixels = stored(picture, padding, -2000, np.int16) & 0x0FFF
    return with_vr(write_dicom(path, pixels, bits=12, signed=True), "PixelPaddingValue", "US", 0x0830)


@encoding
def padding_range(path, picture, padding):
    pixels = stored(picture, padding, 60500)
    return write_dicom(path, pixels, PixelPaddingValue=61000, PixelPaddingRangeLimit=60000)


@encoding
def unsigned_range_in_signed_data(path, picture, padding):
    pixels = stored(picture, padding, -500, np.int16)
    path = with_vr(write_dicom(path, pixels, signed=True), "PixelPaddingValue", "US", 63536)
    return with_vr(path, "PixelPaddingRangeLimit", "US", 65535)


@encoding
def monochrome1(path, picture, padding):
    return write_dicom(path, stored(picture, padding, 300, change=negative), PixelPaddingValue=300, **FALLING)


@encoding
def negative_slope(path, picture, padding):
    rescaling = {"RescaleSlope": -0.1, "RescaleIntercept": 17, "PixelPaddingValue": 300}
    return write_dicom(path, stored(picture, padding, 300, change=negative), **rescaling)


@encoding
def monochrome1_and_negative_slope(path, picture, padding):
    rescaling = {"RescaleSlope": -2, "RescaleIntercept": 17, "PixelPaddingValue": 300}
    return write_dicom(path, stored(picture, padding, 300), **rescaling, **FALLING)


@encoding
def window_with_padding(path, picture, padding):
    return write_dicom(
        path, stored(picture, padding, 5000, change=from_1000), PixelPaddingValue=5000, **WINDOW
    )


@encoding
def window_and_monochrome1(path, picture, padding):
    pixels = stored(picture, padding, 0, change=lambda levels: from_1000(negative(levels)))
    return write_dicom(path, pixels, PixelPaddingValue=0, **WINDOW, **FALLING)


@encoding
def window_and_negative_slope(path, picture, padding):
    rescaling = {"RescaleSlope": -1, "RescaleIntercept": 1255, "PixelPaddingValue": 40000}
    return write_dicom(path, stored(picture, padding, 40000, change=negative), **rescaling, **WINDOW)


@encoding
def off_window(path, picture, padding):
    off = {"WindowCenter": 30000, "WindowWidth": 100}
    return write_dicom(path, stored(picture, padding, 30000), PixelPaddingValue=30000, **off)


@encoding
def off_window_and_monochrome1(path, picture, padding):
    off = {"WindowCenter": -30000, "WindowWidth": 100}
    pixels = stored(picture, padding, 300, change=negative)
    return write_dicom(path, pixels, PixelPaddingValue=300, **off, **FALLING)


@encoding
def slope_0(path, picture, padding):
    rescaling = {"RescaleSlope": 0, "RescaleIntercept": 5, "PixelPaddingValue": 300}
    return write_dicom(path, stored(picture, padding, 300), **rescaling)


@encoding
def voi_table_of_12_bits_that_says_16(path, picture, padding):
    tags = {"VOILUTSequence": table(TWELVE, first=1000, bits=16), "PixelPaddingValue": 5000}
    return write_dicom(path, stored(picture, padding, 5000, change=from_1000), **tags)


@encoding
def voi_table_and_monochrome1(path, picture, padding):
    tags = {"VOILUTSequence": table(255 - np.arange(256), bits=8), "PixelPaddingValue": 300, **FALLING}
    return write_dicom(path, stored(picture, padding, 300), **tags)


@encoding
def voi_table_in_words(path, picture, padding):
    tags = {"VOILUTSequence": table(TWELVE, bits=12, data="OW"), "PixelPaddingValue": 300}
    return write_dicom(path, stored(picture, padding, 300), **tags)


@encoding
def packed_voi_table(path, picture, padding):
    tags = {"VOILUTSequence": table(np.arange(256), bits=8, data="packed"), "PixelPaddingValue": 300}
    return write_dicom(path, stored(picture, padding, 300), **tags)


@encoding
def voi_table_of_8_bits_and_many_entries(path, picture, padding):
    tags = {"VOILUTSequence": table(np.repeat(np.arange(256), 16), bits=8), "PixelPaddingValue": 5000}
    return write_dicom(path, stored(picture, padding, 5000, change=lambda levels: levels * 16 + 3), **tags)


@encoding
def voi_table_from_minus_1024(path, picture, padding, sign="SS", first=-1024):
    tags = {"RescaleSlope": 1, "RescaleIntercept": -1024, "PixelPaddingValue": 4000}
    tags["VOILUTSequence"] = table(np.repeat(TWELVE, 4), first=first, bits=12, sign=sign, data="OW")
    pixels = stored(picture, padding, 4000, change=lambda levels: levels * 4)
    return write_dicom(path, pixels, bits=12, **tags)


@encoding
def voi_table_from_64512(path, picture, padding):
    return voi_table_from_minus_1024(path, picture, padding, sign="US", first=64512)


@encoding
def voi_table_from_40000(path, picture, padding):
    tags = {"VOILUTSequence": table(np.arange(256), 40000, 8), "PixelPaddingValue": 4000}
    return write_dicom(path, stored(picture, padding, 4000, change=lambda levels: levels + 40000), **tags)


@encoding
def voi_table_from_40000_said_to_be_signed(path, picture, padding):
    tags = {"VOILUTSequence": table(np.arange(256), 40000 - 65536, 8, sign="SS"), "PixelPaddingValue": 4000}
    return write_dicom(path, stored(picture, padding, 4000, change=lambda levels: levels + 40000), **tags)


@encoding
def modality_table(path, picture, padding):
    tags = {"ModalityLUTSequence": table(TWELVE[::-1], bits=16), "PixelPaddingValue": 300}
    tags |= {"WindowCenter": 2047.5, "WindowWidth": 4095, "VOILUTFunction": "LINEAR_EXACT"}
    return write_dicom(path, stored(picture, padding, 300, change=negative), **tags)


@encoding
def packed_modality_table(path, picture, padding):
    tags = {"ModalityLUTSequence": table(np.arange(256), bits=8, data="packed"), "PixelPaddingValue": 300}
    return write_dicom(path, stored(picture, padding, 300), **tags)


@encoding
def modality_table_of_one_value(path, picture, padding):
    tags = {"ModalityLUTSequence": table(np.full(256, 7), bits=16), "PixelPaddingValue": 300}
    return write_dicom(path, stored(picture, padding, 300), **tags)


@encoding
def float32(path, picture, padding):
    values = np.where(padding, -1e30, picture / 256).astype(np.float32)
    return write_floats(path, values, "FloatPixelData", FloatPixelPaddingValue=float(np.float32(-1e30)))


@encoding
def float32_with_nan(path, picture, padding):
    values = np.where(padding, np.nan, picture / 256).astype(np.float32)
    return write_floats(path, values, "FloatPixelData", FloatPixelPaddingValue=float("nan"))


@encoding
def float32_range(path, picture, padding):
    values = np.where(padding, -5.5, picture / 256).astype(np.float32)
    tags = {"FloatPixelPaddingValue": -10.0, "FloatPixelPaddingRangeLimit": -1.0}
    return write_floats(path, values, "FloatPixelData", **tags)


@encoding
def float64_and_monochrome1(path, picture, padding):
    values = np.where(padding, 1e300, (255 - picture) / 256.0)
    return write_floats(path, values, "DoubleFloatPixelData", DoubleFloatPixelPaddingValue=1e300, **FALLING)


def _enhanced(path, picture, padding, change=from_1000, **voi):
    frame, group = pydicom.Dataset(), pydicom.Dataset()
    for keyword, value in voi.items():
        setattr(group, keyword, value)
    frame.FrameVOILUTSequence = [group]
    pixels = stored(picture, padding, 5000, change=change)[np.newaxis]
    groups = {"PerFrameFunctionalGroupsSequence": [frame]}
    return write_dicom(path, pixels, frames=1, PixelPaddingValue=5000, **groups)


@encoding
def window_of_a_frame(path, picture, padding):
    return _enhanced(path, picture, padding, **WINDOW)


@encoding
def voi_table_of_a_frame(path, picture, padding):
    falling = table(TWELVE[::-1], first=0, bits=12)
    return _enhanced(path, picture, padding, negative, VOILUTSequence=falling)


def palette(entries, bits, order="<"):
    """Return the elements of a palette with the same entries for each colour, in words of 16 bits."""
    tags = {}
    for colour in ("Red", "Green", "Blue"):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [len(entries) % 65536, 0, bits]
        tags[f"{colour}PaletteColorLookupTableData"] = np.asarray(entries).astype(f"{order}u2").tobytes()
    return tags | {"photometric": "PALETTE COLOR"}


@encoding
def palette_of_16_bits(path, picture, padding):
    return grey_palette(path, picture, padding, np.arange(256) * 257, 16)


def grey_palette(path, picture, padding, entries, bits):
    # The padding of a palette is a colour.
    return write_dicom(path, np.where(padding, 0, picture).astype(np.uint8), **palette(entries, bits))


@encoding
def palette_in_the_low_byte(path, picture, padding):
    return grey_palette(path, picture, padding, np.arange(256), 16)


@encoding
def palette_in_the_high_byte(path, picture, padding):
    return grey_palette(path, picture, padding, np.arange(256) << 8, 8)


@encoding
def palette_that_says_8(path, picture, padding):
    return grey_palette(path, picture, padding, np.arange(256), 8)


@encoding
def palette_of_one_colour(path, picture, padding):
    return grey_palette(path, picture, padding, np.full(256, 30000), 16)


def shown(picture, padding):
    """Return the grey levels that every encoding must have."""
    return np.where(padding, 0, picture).astype(np.uint8)
