"""Grey of more than 8 bits is stretched from its minimum to its maximum."""

import importlib.util

import numpy as np
import pytest
from PIL import Image
from support.image_bytes import H, W, encode, pgm, png, refusal, stretched, tiff, write

from medvlad.images.read import load_image


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1023), (0, 4095), (0, 65535), (1000, 1255), (40, 41), (65535 - 700, 65535)]
)
@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "LZW", "array", "PGM"])
def test_sixteen_bits_are_stretched_from_minimum_to_maximum(tmp_path, low, high, fmt):
    values = np.random.default_rng(0).integers(low, high + 1, (H, W)).astype(np.uint16)
    values[0, 0], values[-1, -1] = low, high
    if fmt == "array":
        source = values
    elif fmt == "PGM":
        source = write(tmp_path, "a", pgm(values))
    else:
        options = {"compression": "tiff_lzw"} if fmt == "LZW" else {}
        source = write(tmp_path, "a", encode(Image.fromarray(values), "TIFF" if options else fmt, **options))
    loaded = load_image(source)
    assert loaded.shape == (H, W, 3)
    np.testing.assert_array_equal(loaded, np.repeat(stretched(values)[:, :, None], 3, axis=2))
    assert (loaded.min(), loaded.max()) == (0, 255)


@pytest.mark.parametrize("value", [0, 500, 65535])
def test_a_constant_image_of_sixteen_bits_becomes_zeros(tmp_path, value):
    values = np.full((H, W), value, np.uint16)
    assert not load_image(values).any()
    assert not load_image(write(tmp_path, "a.png", encode(Image.fromarray(values), "PNG"))).any()


@pytest.mark.parametrize(
    ("dtype", "sample_format"), [("u2", 1), ("i2", 2), ("u4", 1), ("i4", 2), ("f4", 3)], ids=str
)
def test_every_number_format_of_tiff_is_stretched(tmp_path, dtype, sample_format):
    values = np.arange(H * W).reshape(H, W) * 7
    if dtype.startswith(("i", "f")):
        values = values - 100
    if dtype == "u4":
        values = values + 2**31 - 150  # on both sides of where a signed number would turn negative
    path = write(tmp_path, "a.tif", tiff(values.astype(dtype), sample_format))
    np.testing.assert_array_equal(load_image(path)[:, :, 0], stretched(values))


@pytest.mark.parametrize(("dtype", "sample_format"), [("u1", 1), ("u2", 1), ("f4", 3)])
def test_tiff_whose_zero_is_white_is_inverted(tmp_path, dtype, sample_format):
    values = np.arange(H * W).reshape(H, W)
    values[0, 0], values[-1, -1] = 0, 255
    path = write(tmp_path, "a.tif", tiff(values.astype(dtype), sample_format, photometric=0))
    np.testing.assert_array_equal(load_image(path)[:, :, 0], 255 - values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_float_tiff_with_nan_or_infinity_is_refused(tmp_path, bad):
    values = np.ones((H, W), np.float32)
    values[2, 3] = bad
    path = write(tmp_path, "a.tif", encode(Image.fromarray(values), "TIFF"))
    refusal(path, path, "NaN or infinite", "repair")


CODECS = ("imagecodecs", "tifffile")


@pytest.fixture
def without_codecs(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in CODECS else find(name))


@pytest.mark.parametrize("colour_type", [2, 4, 6])
def test_png_colour_of_sixteen_bits_needs_the_extra(tmp_path, colour_type, without_codecs):
    pixels = np.arange(H * W * 4).reshape(H, W, 4)[:, :, : {2: 3, 4: 2, 6: 4}[colour_type]]
    assert load_image(write(tmp_path, "b.png", png(pixels, colour_type, 8))).shape == (H, W, 3)
    path = write(tmp_path, "a.png", png(pixels, colour_type, 16))
    refusal(path, path, "more than 8 bits", "medvlad[medical]", "convert it to 8 bits")


def test_tiff_colour_of_sixteen_bits_needs_the_extra(tmp_path, without_codecs):
    pixels = np.arange(H * W * 3).reshape(H, W, 3)
    np.testing.assert_array_equal(load_image(write(tmp_path, "b.tif", tiff(pixels.astype("u1")))), pixels)
    path = write(tmp_path, "a.tif", tiff(pixels.astype("u2")))
    refusal(path, path, "16-bit RGB", "medvlad[medical]", "convert it to 8 bits")


def test_cmyk_of_sixteen_bits_is_refused(tmp_path):
    """Read as RGB with transparency, its colours would be their opposites."""
    path = write(tmp_path, "a.tif", tiff(np.zeros((H, W, 4), "u2"), photometric=5))
    refusal(path, path, "CMYK", "convert it to RGB")
