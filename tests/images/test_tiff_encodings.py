"""TIFF in every encoding gives the stored pixels. The files are written by hand, with known values."""

import importlib.util
import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from support.image_bytes import H, W, encode, refusal, rgb, write
from support.tiff_files import page, tiff_of

from medvlad.images.read import load_image


@pytest.fixture
def tifffile():
    pytest.importorskip("imagecodecs", reason="needs the extra medical")
    return pytest.importorskip("tifffile", reason="needs the extra medical")


def numbers(dtype, channels=1, largest=None, seed=0):
    """Return numbers over the whole range of a type, or from 0 to `largest`, of shape (H, W, channels)."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    shape = (H, W, channels)
    if kind.kind == "f":
        return rng.normal(size=shape).astype(kind)
    limits = np.iinfo(kind) if largest is None else None
    low, high = (limits.min, limits.max) if limits else (0, largest)
    values = rng.integers(low, high, shape, dtype=kind, endpoint=True)
    values[0, 0], values[-1, -1] = low, high
    return values


def levels(values):
    """Return numbers stretched to 0..255 as float64, with three channels."""
    values = values.astype(np.float64)
    grey = np.rint((values - values.min()) * (255 / (values.max() - values.min())))
    return np.repeat(grey, 3, axis=2) if grey.shape[2] == 1 else grey


def check(folder, content, expected, within=0):
    loaded = load_image(write(folder, "a.tif", content))
    assert loaded.shape == expected.shape
    assert np.abs(loaded.astype(float) - expected).max() <= within


ENCODINGS = [(order, packed) for order in "<>" for packed in (None, zlib.compress)]


@pytest.mark.parametrize(("order", "packed"), ENCODINGS)
@pytest.mark.parametrize("dtype", ["i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("kind", ["grey", "white", "grey alpha", "rgb", "rgb planes", "rgba"])
def test_numbers_of_every_kind_are_stretched(tmp_path, tifffile, dtype, kind, order, packed):
    values = numbers(dtype, {"grey alpha": 2, "rgba": 4}.get(kind, 3 if "rgb" in kind else 1))
    tags = {"t338": [2]} if "alpha" in kind or kind == "rgba" else {}
    stored = page(
        values,
        0 if kind == "white" else None,
        in_planes=kind == "rgb planes",
        t259=[8 if packed else 1],
        **tags,
    )
    expected = levels(values[..., : 3 if "rgb" in kind else 1])
    content = tiff_of(stored, order=order, packed=packed)
    check(tmp_path, content, 255 - expected if kind == "white" else expected)


def test_big_endian_compressed_int16_is_not_swapped_twice(tmp_path, tifffile):
    ramp = np.arange(-512, 512, dtype=np.int16).reshape(32, 32)
    content = tiff_of(page(ramp, t259=[8]), order=">", packed=zlib.compress)
    loaded = load_image(write(tmp_path, "a.tif", content))
    assert loaded[0, :6, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert (np.diff(loaded[..., 0].ravel().astype(int)) >= 0).all()


@pytest.mark.parametrize(
    ("compression", "predictor"),
    [(name, False) for name in ("lzw", "deflate", "packbits", "zstd", "lzma")]
    + [("lzw", True), ("deflate", True)],
)
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "f4"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_compressions_predictors_and_tiles(tmp_path, tifffile, compression, predictor, dtype, tile, order):
    values = numbers(dtype)
    file = io.BytesIO()
    tifffile.imwrite(
        file, values[..., 0], compression=compression, predictor=predictor, tile=tile, byteorder=order
    )
    check(tmp_path, file.getvalue(), np.repeat(values, 3, axis=2) if dtype == "u1" else levels(values))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_bigtiff_in_both_byte_orders(tmp_path, tifffile, order, big, dtype):
    values = numbers(dtype, 3)
    check(tmp_path, tiff_of(page(values), order=order, big=big), values if dtype == "u1" else levels(values))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("white", [False, True])
def test_up_to_8_bits_end_at_255(tmp_path, tifffile, bits, white, order):
    values = numbers("u1", largest=2**bits - 1)
    expected = np.rint(np.repeat(values, 3, axis=2) * (255 / (2**bits - 1)))
    content = tiff_of(page(values, 0 if white else 1, bits=bits), order=order)
    check(tmp_path, content, 255 - expected if white else expected)


@pytest.mark.parametrize(("order", "packed"), ENCODINGS)
@pytest.mark.parametrize("bits", [9, 10, 12, 14])
@pytest.mark.parametrize("photometric", [0, 1, 2])
def test_packed_bits_are_stretched(tmp_path, tifffile, bits, photometric, order, packed):
    values = numbers("u2", 3 if photometric == 2 else 1, largest=2**bits - 1)
    content = tiff_of(
        page(values, photometric, bits=bits, t259=[8 if packed else 1]), order=order, packed=packed
    )
    check(tmp_path, content, 255 - levels(values) if photometric == 0 else levels(values))


@pytest.mark.parametrize("width", [2, 3, 4, 5])
@pytest.mark.parametrize("height", [2, 3, 4, 5])
@pytest.mark.parametrize("in_planes", [False, True])
def test_planes_are_told_by_the_header_not_by_the_shape(tmp_path, tifffile, width, height, in_planes):
    values = numbers("u2", 3)[:height, :width]
    check(tmp_path, tiff_of(page(values, in_planes=in_planes)), levels(values))


# ------------------------------------------------------------------------------------ transparency


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f4"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("in_planes", [False, True])
def test_colour_is_divided_by_associated_alpha(tmp_path, tifffile, dtype, channels, order, in_planes):
    largest = 1.0 if dtype == "f4" else np.iinfo(dtype).max
    shares = np.full((H, W, 1), 200 / 255) * [1, 0.5, 0.25][:channels]
    alpha = np.linspace(0.3, 1, H * W).reshape(H, W, 1)
    stored = (np.dstack([shares * alpha, alpha]) * largest).astype(dtype)
    content = tiff_of(page(stored, 2 if channels == 3 else 1, in_planes=in_planes, t338=[1]), order=order)
    expected = np.repeat(shares, 3, axis=2) if channels == 1 else shares
    # Alpha of 8 bits is as low as 76, so a step of 1 is one of more than 3 levels.
    check(tmp_path, content, 255 * expected, within=4.5 if dtype == "u1" else 0.6)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_transparent_pixels_with_associated_alpha_are_black(tmp_path, tifffile, dtype):
    stored = np.zeros((H, W, 2), dtype)
    stored[1:] = np.iinfo(dtype).max
    loaded = load_image(write(tmp_path, "a.tif", tiff_of(page(stored, 1, t338=[1]))))
    assert not loaded[0].any()
    assert (loaded[1:] == 255).all()


@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_alpha_is_dropped(tmp_path, tifffile, extra, dtype, channels):
    values = numbers(dtype, channels + 1)
    content = tiff_of(page(values, 2 if channels == 3 else 1, t338=[extra]))
    colours = values[..., :channels]
    expected = levels(colours) if dtype == "u2" else colours
    check(tmp_path, content, np.repeat(expected, 3, axis=2) if expected.shape[2] == 1 else expected)


def test_floats_that_alpha_makes_infinite_are_white(tmp_path, tifffile):
    stored = np.ones((H, W, 2), np.float64)
    stored[0, 0] = 1e300, 1e-300
    assert (load_image(write(tmp_path, "a.tif", tiff_of(page(stored, 1, t338=[1])))) == 255).all()


def test_signed_colours_with_associated_alpha_are_not_divided(tmp_path, tifffile):
    values = numbers("i2", 2)
    check(tmp_path, tiff_of(page(values, 1, t338=[1])), levels(values[..., :1]))


# -------------------------------------------------------------------------------------- other colour


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg"])
def test_ycbcr_becomes_rgb(tmp_path, compression):
    y, x = np.mgrid[0:32, 0:40]
    smooth = np.stack([x * 6, y * 7, (x + y) * 3], -1).astype(np.uint8)
    image = Image.fromarray(smooth).convert("YCbCr")
    options = {"compression": compression} if compression else {}
    check(tmp_path, encode(image, "TIFF", **options), smooth, within=8)


@pytest.mark.parametrize(("mode", "photometric"), [("YCbCr", 6), ("CMYK", 5)])
@pytest.mark.parametrize("packed", [None, zlib.compress])
@pytest.mark.parametrize("in_planes", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_other_colour_of_8_bits_becomes_rgb(tmp_path, tifffile, mode, photometric, packed, in_planes, order):
    colours = Image.fromarray(rgb()).convert(mode)
    subsampling = {"t530": [1, 1]} if mode == "YCbCr" else {}
    stored = page(
        np.asarray(colours), photometric, in_planes=in_planes, t259=[8 if packed else 1], **subsampling
    )
    expected = np.asarray(colours.convert("RGB"))
    check(tmp_path, tiff_of(stored, order=order, packed=packed), expected, within=2)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_lab_becomes_rgb(tmp_path, compression):
    colours = Image.fromarray(
        np.array([[[200, 60, 40], [40, 160, 60]], [[50, 60, 170], [128, 128, 128]]], "u1")
    )
    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    lab = ImageCms.profileToProfile(colours, *profiles, outputMode="LAB")
    options = {"compression": compression} if compression else {}
    check(tmp_path, encode(lab, "TIFF", **options), np.asarray(colours), within=6)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax_compressions(tmp_path, compression):
    bits = np.kron(rgb(6, 5)[..., 0] > 127, np.ones((3, 4), bool))
    expected = np.repeat(bits[:, :, None] * 255.0, 3, axis=2)
    check(tmp_path, encode(Image.fromarray(bits), "TIFF", compression=compression), expected)


@pytest.mark.parametrize("compression", ["webp", "jpeg2000", "jpegxl", "jpegxr", "png", "lerc"])
def test_compressions_of_other_formats(tmp_path, tifffile, compression):
    pixels = rgb(20, 24)
    file = io.BytesIO()
    options = {"lossless": True} if compression == "webp" else {}
    tifffile.imwrite(file, pixels, photometric="rgb", compression=compression, compressionargs=options)
    check(tmp_path, file.getvalue(), pixels)


def test_a_missing_photometric_interpretation_is_black_is_zero(tmp_path, tifffile):
    values = numbers("u1")
    tags, data = page(values)
    del tags[262]
    check(tmp_path, tiff_of((tags, data)), np.repeat(values, 3, axis=2))


# ---------------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("dtype", "channels", "order"), [("u2", 1, "<"), ("u2", 3, "<"), ("i2", 1, ">")])
@pytest.mark.parametrize("number", [0, 1])
def test_orientation_of_16_bits_and_of_a_second_page(
    tmp_path, tifffile, orientation, dtype, channels, order, number
):
    values = numbers(dtype, channels)
    first, second = page(numbers("u1", 3, seed=1)), page(values, t274=[orientation], t259=[8])
    pages = [second] if number == 0 else [(first[0] | {259: [8]}, first[1]), second]
    path = write(tmp_path, "a.tif", tiff_of(*pages, order=order, packed=zlib.compress))
    loaded = load_image(path if number == 0 else f"{path}#1")
    turned = levels(values)
    if orientation >= 5:
        turned = turned.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    np.testing.assert_array_equal(loaded, turned)


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (page(np.zeros((H, W, 4), "u2"), 5), ["16-bit CMYK", "convert it to RGB"]),
        (page(np.zeros((H, W, 3), "u2"), 8), ["16-bit Lab", "convert it to RGB"]),
        (page(np.zeros((H, W, 3), "u1"), 6), ["8-bit YCbCr", "convert it to RGB"]),
        (page(np.zeros((H, W, 3), "u1"), 1), ["grey in 3 channels"]),
        (page(np.zeros((H, W), "u2"), 3), ["16-bit palette"]),
        (page(np.zeros((H, W), "u1"), 32803), ["raw camera data"]),
        (page(np.zeros((H, W), "u8"), t339=[6]), ["64-bit complex grey"]),
        (page(np.zeros((H, W, 3), "u1"), t258=[8, 16, 8]), ["8 and 16-bit RGB"]),
        (page(np.zeros((H, W), "u1"), t259=[4242]), ["compression 4242", "no decoder"]),
        (page(np.zeros((H, W), "u1"), 4), ["only masks"]),
        (page(np.zeros((H, W), "f4"), t258=[24]), ["24-bit floating-point grey"]),
    ],
    ids=lambda value: value[0] if isinstance(value[0], str) else "",
)
def test_what_cannot_be_read_is_named(tmp_path, tifffile, stored, words):
    message = refusal(write(tmp_path, "a.tif", tiff_of(stored)), "a.tif", *words)
    assert "corrupt" not in message
    assert "not an image" not in message


@pytest.mark.parametrize(
    ("dtype", "channels", "photometric", "order", "words"),
    [
        ("f2", 1, 1, "<", "16-bit floating-point grey"),
        ("f4", 3, 2, "<", "32-bit floating-point RGB"),
        ("f8", 1, 1, "<", "64-bit floating-point grey"),
        ("u2", 1, 0, ">", "16-bit grey (zero is white)"),
        ("u2", 3, 2, "<", "16-bit RGB"),
    ],
)
def test_without_tifffile_the_encoding_and_the_extra_are_named(
    tmp_path, monkeypatch, dtype, channels, photometric, order, words
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tifffile" else find(name))
    path = write(tmp_path, "a.tif", tiff_of(page(numbers(dtype, channels), photometric), order=order))
    message = refusal(path, words, "pip install 'medvlad[medical]'")
    assert "corrupt" not in message


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "f4"])
def test_usual_grey_needs_no_extra(tmp_path, monkeypatch, dtype, order):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tifffile" else find(name))
    values = numbers(dtype)
    expected = np.repeat(values, 3, axis=2) if dtype == "u1" else levels(values)
    check(tmp_path, tiff_of(page(values), order=order), expected)


def test_damaged_floats_are_not_called_unsupported(tmp_path, tifffile):
    content = tiff_of(page(numbers("f2"), t259=[8]), packed=lambda data: zlib.compress(data)[:-30])
    refusal(write(tmp_path, "a.tif", content), "corrupt or truncated")


def test_too_many_pixels_are_refused_before_tifffile_decodes_them(tmp_path, tifffile, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W - 1)
    refusal(write(tmp_path, "a.tif", tiff_of(page(numbers("f8", 3)))), "more pixels than are safe")
