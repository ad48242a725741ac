"""Stored numbers of DICOM in less usual encodings: bits, signs, compressed frames, number of frames."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from support.medical_files import grey
from support.unusual_dicom import (
    BIG,
    EXPLICIT,
    IMPLICIT,
    image_of,
    imagecodecs,
    pydicom,
    rle,
    write,
    write_frames,
)

from medvlad import InputError
from medvlad.images.dicom_file import open_dicom
from medvlad.images.dicom_pixels import decode_frame
from medvlad.images.read import list_frames, load_image

UNSIGNED = np.linspace(0, 4095, 16).astype(np.uint16).reshape(4, 4)
SIGNED = np.linspace(-2048, 2047, 16).astype(np.int16).reshape(4, 4)
LEVELS = np.rint((UNSIGNED - 0.0) * (255 / 4095))
SIGNED_LEVELS = np.rint((SIGNED + 2048.0) * (255 / 4095))


# ---------------------------------------------------------------------------------------- bits


@pytest.mark.parametrize("encoding", [IMPLICIT, EXPLICIT, BIG], ids=["implicit", "explicit", "big"])
@pytest.mark.parametrize("high", [11, 12, 15])
def test_numbers_may_end_at_any_high_bit(tmp_path, encoding, high):
    for values, levels in ((UNSIGNED, LEVELS), (SIGNED, SIGNED_LEVELS)):
        cells = values << (high - 11)
        data = image_of(cells, bits=12, encoding=encoding, HighBit=high)
        np.testing.assert_array_equal(grey(write(tmp_path / "a.dcm", data, encoding)), levels)


def test_bits_below_and_above_the_number_do_not_count(tmp_path):
    cells = (UNSIGNED << 2) | 0x8003
    data = image_of(cells, bits=12, HighBit=13)
    np.testing.assert_array_equal(grey(write(tmp_path / "a.dcm", data)), LEVELS)


def test_a_high_bit_that_the_numbers_contradict_is_ignored(tmp_path):
    data = image_of(UNSIGNED, bits=12, HighBit=15)
    np.testing.assert_array_equal(grey(write(tmp_path / "a.dcm", data)), LEVELS)


@pytest.mark.parametrize("high", [0, 7, 16, 200])
def test_an_impossible_high_bit_is_ignored(tmp_path, high):
    data = image_of(UNSIGNED, bits=12, HighBit=high)
    np.testing.assert_array_equal(grey(write(tmp_path / "a.dcm", data)), LEVELS)


def test_the_high_bit_counts_in_rle(tmp_path):
    data = image_of(UNSIGNED, bits=12, HighBit=15)
    path = write_frames(tmp_path / "a.dcm", [rle(UNSIGNED << 4)], pydicom.uid.RLELossless, data)
    np.testing.assert_array_equal(grey(path), LEVELS)


@pytest.mark.parametrize("encoding", [EXPLICIT, BIG])
@pytest.mark.parametrize("size", [(5, 5), (3, 7), (4, 4), (1 << 4, 9)])
def test_frames_of_one_bit_may_begin_inside_a_byte(tmp_path, rng, size, encoding):
    masks = rng.integers(0, 2, (5, *size)).astype(np.uint8)
    packed = np.packbits(masks.ravel(), bitorder="little")
    packed = np.concatenate([packed, np.zeros(len(packed) % 2, np.uint8)])
    if not encoding[1]:  # words of two bytes
        packed = packed.view(np.uint16).byteswap().view(np.uint8)
    data = image_of(masks, NumberOfFrames=5, encoding=encoding)
    data.BitsAllocated, data.BitsStored, data.HighBit = 1, 1, 0
    data.PixelData = packed.tobytes()
    data["PixelData"].VR = "OB" if encoding[1] else "OW"
    path = write(tmp_path / "a.dcm", data, encoding)
    assert len(list_frames(path)) == 5
    for i, mask in enumerate(masks):
        np.testing.assert_array_equal(grey(f"{path}#{i}"), 255 * mask)


# --------------------------------------------------------------------------- signs of JPEG 2000


def jpeg_2000(values, bits=None):
    return imagecodecs.jpeg2k_encode(values, level=0, codecformat="j2k", reversible=True, bitspersample=bits)


def wrapped(values, bits):
    """Return the numbers as a program writes them that takes unsigned numbers for signed ones."""
    return (values.astype(np.int32) << (32 - bits) >> (32 - bits)).astype(np.int16)


@pytest.mark.parametrize(
    ("written", "truth"),
    [
        (np.arange(16, dtype=np.int16).reshape(4, 4) * 100, None),
        (np.arange(16, dtype=np.int16).reshape(4, 4) * 100 - 800, None),
        (wrapped(UNSIGNED, 12), UNSIGNED),
        (wrapped(UNSIGNED * 16, 16), UNSIGNED * 16),
    ],
    ids=["positive", "around zero", "wrapped at 12 bits", "wrapped at 16 bits"],
)
def test_signed_jpeg_2000_under_an_unsigned_header_is_right(tmp_path, written, truth):
    truth = (written if truth is None else truth).astype(np.int64)
    frame = jpeg_2000(written, 16 if truth.max() > 4095 else 12)
    center, width = float(truth.mean()), float(np.ptp(truth))
    data = image_of(UNSIGNED, bits=16 if truth.max() > 4095 else 12, WindowCenter=center, WindowWidth=width)
    data.VOILUTFunction = "LINEAR_EXACT"
    path = write_frames(tmp_path / "a.dcm", [frame], pydicom.uid.JPEG2000Lossless, data)
    expected = np.rint(((truth - center) / width + 0.5) * 255)
    assert np.abs(grey(path) - expected).max() <= 1


def test_unsigned_jpeg_2000_under_a_signed_header_is_right(tmp_path):
    frame = jpeg_2000((SIGNED & 0x0FFF).astype(np.uint16), 12)
    data = image_of(SIGNED, bits=12)
    path = write_frames(tmp_path / "a.dcm", [frame], pydicom.uid.JPEG2000Lossless, data)
    np.testing.assert_array_equal(grey(path), SIGNED_LEVELS)


def test_signed_jpeg_2000_under_a_signed_header_is_right(tmp_path):
    data = image_of(SIGNED, bits=12)
    path = write_frames(tmp_path / "a.dcm", [jpeg_2000(SIGNED, 12)], pydicom.uid.JPEG2000Lossless, data)
    np.testing.assert_array_equal(grey(path), SIGNED_LEVELS)


# ------------------------------------------------------------------------------ compressed frames


def lossless_jpeg(values, bits):
    return imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=bits)


LOSSLESS = {
    "lossless JPEG of 12 bits": (lambda v: lossless_jpeg(v, 12), pydicom.uid.JPEGLosslessSV1),
    "lossless JPEG of 16 bits": (lambda v: lossless_jpeg(v, 16), pydicom.uid.JPEGLosslessSV1),
    "JPEG-LS": (imagecodecs.jpegls_encode, pydicom.uid.JPEGLSLossless),
    "JPEG 2000": (jpeg_2000, pydicom.uid.JPEG2000Lossless),
    "JPEG 2000, high throughput": (imagecodecs.htj2k_encode, pydicom.uid.HTJ2KLossless),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_the_extra_medical_reads_every_usual_compression(tmp_path, kind):
    encode, syntax = LOSSLESS[kind]
    path = write_frames(tmp_path / "a.dcm", [encode(UNSIGNED)], syntax, image_of(UNSIGNED, bits=12))
    np.testing.assert_array_equal(grey(path), LEVELS)


@pytest.mark.parametrize("kind", ["lossless JPEG of 12 bits", "lossless JPEG of 16 bits", "JPEG-LS"])
def test_compressions_that_know_no_sign_take_it_from_the_header(tmp_path, kind):
    encode, syntax = LOSSLESS[kind]
    whole = kind == "lossless JPEG of 16 bits"
    stored = SIGNED.view(np.uint16) if whole else (SIGNED & 0x0FFF).astype(np.uint16)
    if kind == "JPEG-LS":
        stored = np.ascontiguousarray(stored)
    path = write_frames(tmp_path / "a.dcm", [encode(stored)], syntax, image_of(SIGNED, bits=12))
    np.testing.assert_array_equal(grey(path), SIGNED_LEVELS)


def test_jpeg_of_12_bits_is_read(tmp_path):
    y, x = np.mgrid[:32, :32]
    values = (y * 60 + x * 70).astype(np.uint16)
    frame = imagecodecs.jpeg8_encode(values, level=100, bitspersample=12)
    path = write_frames(tmp_path / "a.dcm", [frame], pydicom.uid.JPEGExtended12Bit, image_of(values, bits=12))
    assert np.abs(grey(path) - values * (255 / values.max())).max() <= 1


@pytest.mark.parametrize(("bits", "stored"), [(8, 7), (12, 8), (12, 10)])
def test_lossy_jpeg_of_more_bits_than_the_header_says_keeps_them(tmp_path, bits, stored):
    y, x = np.mgrid[:32, :32]
    values = ((y + x) * ((1 << bits) - 1) // 62).astype(np.uint8 if bits == 8 else np.uint16)
    frame = imagecodecs.jpeg8_encode(values, level=100, bitspersample=bits)
    data = image_of(values, bits=stored)
    path = write_frames(tmp_path / "a.dcm", [frame], pydicom.uid.JPEGExtended12Bit, data)
    assert np.abs(grey(path) - values * (255 / values.max())).max() <= 2


def test_lossless_jpeg_in_colour_is_not_converted(tmp_path, rng):
    pixels = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    frame = imagecodecs.jpeg8_encode(pixels, lossless=True)
    path = write_frames(tmp_path / "a.dcm", [frame], pydicom.uid.JPEGLosslessSV1, image_of(pixels))
    np.testing.assert_array_equal(load_image(path), pixels)


def noise(rng, bits=12):
    return rng.integers(0, 1 << bits, (32, 32)).astype(np.uint16)


STREAMS = {
    "JPEG of 12 bits": lambda v: imagecodecs.jpeg8_encode(v, level=95, bitspersample=12),
    **{kind: encode for kind, (encode, _) in LOSSLESS.items()},
}


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("part", [0.5, 0.95])
def test_a_frame_without_its_end_is_refused(tmp_path, rng, kind, part):
    values = noise(rng)
    frame = STREAMS[kind](values)
    frame = frame[: int(len(frame) * part)]
    path = write_frames(tmp_path / "a.dcm", [frame], pydicom.uid.JPEGExtended12Bit, image_of(values, bits=12))
    with pytest.raises(InputError, match=r"a\.dcm' is .*damaged"):
        load_image(path)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_frame_of_another_size_is_refused(tmp_path, rng, kind):
    values = noise(rng)
    data = image_of(values[:16], bits=12)
    path = write_frames(tmp_path / "a.dcm", [STREAMS[kind](values)], pydicom.uid.JPEG2000, data)
    with pytest.raises(
        InputError, match="the header describes 16 x 32 x 1 numbers, the compressed frame 32 x 32"
    ):
        load_image(path)


@pytest.mark.parametrize(
    ("kind", "packages"),
    [
        ("JPEG of 12 bits", "pylibjpeg pylibjpeg-libjpeg"),
        ("lossless JPEG of 12 bits", "pylibjpeg pylibjpeg-libjpeg"),
        ("JPEG-LS", "pylibjpeg pylibjpeg-libjpeg"),
        ("JPEG 2000", "pylibjpeg pylibjpeg-openjpeg"),
    ],
)
def test_a_refusal_names_the_package_that_helps(tmp_path, rng, monkeypatch, kind, packages):
    values = noise(rng)
    frame = STREAMS[kind](values)
    path = write_frames(tmp_path / "a.dcm", [frame], pydicom.uid.JPEG2000, image_of(values, bits=12))
    monkeypatch.setattr("medvlad.images.dicom_pixels._by_pydicom", lambda *_: 1 / 0)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "imagecodecs", None)
        with pytest.raises(InputError, match=r"pip install 'medvlad\[medical\]'"):
            load_image(path)
    monkeypatch.setattr("medvlad.images.dicom_pixels._by_imagecodecs", lambda *_: 1 / 0)
    with pytest.raises(InputError, match=f"pip install {packages}, or convert it") as error:
        load_image(path)
    assert "gdcm" not in str(error.value)


def test_pydicoms_plugins_are_used_if_imagecodecs_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    for values, levels in ((UNSIGNED, LEVELS), (SIGNED, SIGNED_LEVELS)):
        data = image_of(values, bits=12)
        path = write_frames(tmp_path / "a.dcm", [jpeg_2000(values, 12)], pydicom.uid.JPEG2000Lossless, data)
        np.testing.assert_array_equal(grey(path), levels)


def test_a_film_is_refused_by_the_name_of_its_compression(tmp_path):
    syntax = pydicom.uid.MPEG4HP41
    path = write_frames(tmp_path / "a.dcm", [b"\0\0\1\xb3" * 30], syntax, image_of(UNSIGNED))
    with pytest.raises(InputError, match=r"compressed as MPEG-4 .* which is not supported"):
        load_image(path)


@pytest.mark.parametrize("syntax", [pydicom.uid.MPEG2MPML, pydicom.uid.MPEG4HP41, pydicom.uid.HEVCMP51])
def test_every_frame_of_a_film_is_refused_by_the_name_of_its_compression(tmp_path, syntax):
    """All frames are in one piece, so none of them can be fetched."""
    data = image_of(UNSIGNED, NumberOfFrames=50)
    path = write_frames(tmp_path / "a.dcm", [b"\0\0\1\xb3" * 30], syntax, data)
    for frame in (0, 1, 49):
        with pytest.raises(InputError, match=r"compressed as .* which is not supported") as error:
            load_image(f"{path}#{frame}")
        assert syntax.name in str(error.value)


@pytest.mark.parametrize("kind", ["JPEG-LS", "JPEG 2000"])
@pytest.mark.parametrize(("values", "levels"), [(UNSIGNED, LEVELS), (SIGNED, SIGNED_LEVELS)])
def test_an_overlay_in_the_bits_above_a_compressed_number_does_not_count(tmp_path, kind, values, levels):
    encode, syntax = LOSSLESS[kind]
    overlay = np.where(np.arange(16).reshape(4, 4) % 3 == 0, 0x8000, 0).astype(np.uint16)
    data = image_of(values, bits=12)
    data.add_new((0x6000, 0x0100), "US", 16)
    data.add_new((0x6000, 0x0102), "US", 15)
    frame = encode((values.view(np.uint16) & 0x0FFF) | overlay)
    path = write_frames(tmp_path / "a.dcm", [frame], syntax, data)
    np.testing.assert_array_equal(grey(path), levels)


@pytest.mark.parametrize("kind", ["JPEG-LS", "JPEG 2000"])
def test_an_overlay_of_its_own_does_not_cut_the_numbers(tmp_path, kind):
    """Its bit is 0, so the bits above those that the header counts belong to the number."""
    encode, syntax = LOSSLESS[kind]
    data = image_of(UNSIGNED, bits=10)
    data.add_new((0x6000, 0x0102), "US", 0)
    path = write_frames(tmp_path / "a.dcm", [encode(UNSIGNED)], syntax, data)
    np.testing.assert_array_equal(grey(path), LEVELS)


# ------------------------------------------------------------------------------- number of frames


@pytest.fixture
def four(rng):
    frames = rng.integers(0, 256, (4, 6, 5), dtype=np.uint8)
    frames[:, 0, 0], frames[:, 0, 1] = 0, 255
    return frames


@pytest.mark.parametrize("stated", [None, 1, 2, 3])
@pytest.mark.parametrize("kind", ["native", "jpeg 2000", "jpeg 2000 with a table"])
def test_more_frames_than_stated_are_all_used_and_logged(tmp_path, caplog, four, stated, kind):
    data = image_of(four, NumberOfFrames=stated or 4)
    if stated is None:
        del data.NumberOfFrames
    path = tmp_path / "a.dcm"
    if kind == "native":
        write(path, data)
    else:
        frames = [jpeg_2000(frame) for frame in four]
        write_frames(path, frames, pydicom.uid.JPEG2000Lossless, data)
        if kind.endswith("table"):
            data.PixelData = pydicom.encaps.encapsulate(frames, has_bot=True)
            data.file_meta = pydicom.dataset.FileMetaDataset()
            data.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
            data.save_as(path, enforce_file_format=True)
    with caplog.at_level(logging.WARNING):
        listed = list_frames(path)
    assert [str(frame) for frame in listed] == [f"{path}#{i}" for i in range(4)]
    assert f"holds 4 frames, but its NumberOfFrames is {stated or 1}" in caplog.text
    for i, frame in enumerate(four):
        np.testing.assert_array_equal(grey(f"{path}#{i}"), frame)
    if stated in (None, 1):
        with pytest.raises(InputError, match="holds 4 images"):
            load_image(path)


@pytest.mark.parametrize("stated", [2, 3])
def test_excess_frames_without_marks_of_their_end_are_right(tmp_path, four, stated):
    """RLE, without an offset table: only the number of frames tells which fragments belong to a frame."""
    frames = []
    for frame in four:
        single = image_of(frame)
        single.file_meta = pydicom.dataset.FileMetaDataset()
        single.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        single.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        frames += pydicom.encaps.generate_frames(single.PixelData, number_of_frames=1)
    path = tmp_path / "a.dcm"
    write_frames(path, frames, pydicom.uid.RLELossless, image_of(four, NumberOfFrames=stated))
    for i, frame in enumerate(four):
        np.testing.assert_array_equal(grey(f"{path}#{i}"), frame)


@pytest.mark.parametrize("padding", [1, 2, 7, 28])
def test_padding_is_no_frame(tmp_path, caplog, four, padding):
    data = image_of(four[0])
    data.PixelData += bytes(padding + padding % 2)
    assert list_frames(write(tmp_path / "a.dcm", data)) == [tmp_path / "a.dcm"]
    np.testing.assert_array_equal(grey(tmp_path / "a.dcm"), four[0])
    assert not caplog.records


def test_the_pieces_of_one_frame_are_one_frame(tmp_path, caplog, four):
    frame = jpeg_2000(four[0])
    pieces = [frame[:40], frame[40:60], frame[60:]]
    path = write_frames(tmp_path / "a.dcm", pieces, pydicom.uid.JPEG2000Lossless, image_of(four[0]))
    assert list_frames(path) == [path]
    np.testing.assert_array_equal(grey(path), four[0])
    assert not caplog.records


def test_pixels_that_are_too_few_are_refused(tmp_path, four):
    """The elements behind the pixels are not read as pixels."""
    data = image_of(four[0])
    data.PixelData = data.PixelData[:-10]
    data.DataSetTrailingPadding = bytes(100)
    path = write(tmp_path / "a.dcm", data)
    with pytest.raises(InputError, match="its pixels have only 20 bytes"):
        load_image(path)


# ---------------------------------------------------------------------- beside another decoder

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


def stored(path):
    """Return the stored numbers of the first frame of a file."""
    with path.open("rb") as file:
        opened = open_dicom(pydicom, file)
        return decode_frame(pydicom, opened, 0, 1, path.name)


@pytest.mark.parametrize(
    "name", ["693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "JPEG2000.dcm", "MR_small_jp2klossless.dcm"]
)
def test_jpeg_2000_has_the_numbers_that_pydicom_decodes_with_pillow(name):
    if not (SAMPLES / name).exists():
        pytest.skip("not in this version of pydicom")
    expected = pydicom.pixels.pixel_array(SAMPLES / name, decoding_plugin="pillow")
    np.testing.assert_array_equal(stored(SAMPLES / name), expected)


def test_lossless_jpeg_has_the_numbers_of_two_other_decoders():
    path = SAMPLES / "SC_rgb_jpeg_gdcm.dcm"
    if not path.exists():
        pytest.skip("not in this version of pydicom")
    frame = pydicom.encaps.get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)
    for other in (imagecodecs.ljpeg_decode, imagecodecs.jpegsof3_decode):
        np.testing.assert_array_equal(stored(path), other(frame))


def test_a_picture_has_the_same_numbers_uncompressed_and_as_jpeg_ls():
    names = ("MR_small.dcm", "MR_small_jpeg_ls_lossless.dcm")
    if not all((SAMPLES / name).exists() for name in names):
        pytest.skip("not in this version of pydicom")
    np.testing.assert_array_equal(*(stored(SAMPLES / name) for name in names))
