"""Reading and resizing images: what each kind of file becomes, and what is refused in which words."""

import importlib.util
import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from medvlad._validate import InputError
from medvlad.images import IMAGE_SUFFIXES, RESIZE_FILTERS, load_image, resize_square

H, W = 6, 9


def rgb(height=H, width=W, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(image, fmt, **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def refusal(source, *parts):
    """Check that `source` is refused in one line that holds all `parts`; return the message."""
    with pytest.raises(InputError) as caught:
        load_image(source)
    message = str(caught.value)
    assert "\n" not in message
    assert ":" in message, "what to do stands after the colon"
    for part in parts:
        assert str(part) in message
    return message


def png(pixels, colour_type, depth):
    """Write a PNG by hand: Pillow does not write colour of 16 bits."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(pixels, sample_format=1, photometric=None):
    """Write an uncompressed little-endian TIFF by hand, for number formats that Pillow does not write."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    bits = pixels.dtype.itemsize * 8
    if photometric is None:
        photometric = 1 if channels == 1 else 2
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    extra_at = 8 + 2 + 10 * 12 + 4
    extra = b""
    entries = b""
    for tag, kind, values in (
        (256, "H", [width]),
        (257, "H", [height]),
        (258, "H", [bits] * channels),
        (259, "H", [1]),
        (262, "H", [photometric]),
        (273, "I", None),
        (277, "H", [channels]),
        (278, "H", [height]),
        (279, "I", [len(data)]),
        (339, "H", [sample_format] * channels),
    ):
        if values is None:
            values = [extra_at + (4 * channels if channels > 2 else 0) * (2 if channels > 2 else 1)]
        packed = struct.pack(f"<{len(values)}{kind}", *values)
        count = len(values)
        if len(packed) > 4:
            packed = packed.ljust(4 * channels, b"\0")
            extra, packed = extra + packed, struct.pack("<I", extra_at + len(extra))
        entries += struct.pack("<HHI", tag, {"H": 3, "I": 4}[kind], count) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, 10) + entries + b"\0" * 4 + extra + data


def pgm(values):
    """Write a PGM of 16 bits by hand: old Pillows do not."""
    height, width = values.shape
    return f"P5\n{width} {height}\n65535\n".encode() + values.astype(">u2").tobytes()


def stretched(values):
    """Map minimum..maximum to 0..255, written out pixel by pixel."""
    low, high = int(values.min()), int(values.max())
    return np.array([[round((int(v) - low) * 255 / (high - low)) for v in row] for row in values], np.uint8)


# ---------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("suffix", "fmt", "options"),
    [
        (".png", "PNG", {}),
        (".bmp", "BMP", {}),
        (".tif", "TIFF", {}),
        (".tiff", "TIFF", {"compression": "tiff_lzw"}),
        (".webp", "WEBP", {"lossless": True}),
        (".ppm", "PPM", {}),
    ],
)
def test_lossless_formats_give_the_stored_pixels(tmp_path, suffix, fmt, options):
    pixels = rgb()
    path = write(tmp_path, f"a{suffix}", encode(Image.fromarray(pixels), fmt, **options))
    for source in (path, str(path)):
        loaded = load_image(source)
        assert loaded.dtype == np.uint8
        assert loaded.flags.c_contiguous
        assert loaded.flags.writeable
        np.testing.assert_array_equal(loaded, pixels)


def test_jpeg_gives_the_decoder_s_pixels(tmp_path):
    content = encode(Image.fromarray(rgb()), "JPEG", quality=95)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.array(image)
    np.testing.assert_array_equal(load_image(write(tmp_path, "a.jpg", content)), expected)


def test_the_format_is_told_by_the_content_not_by_the_name(tmp_path):
    path = write(tmp_path, "a.jpg", encode(Image.fromarray(rgb()), "PNG"))
    np.testing.assert_array_equal(load_image(path), rgb())


def test_suffixes_are_lower_case_with_a_dot():
    assert {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp"} <= IMAGE_SUFFIXES
    assert all(s == s.lower() and s.startswith(".") for s in IMAGE_SUFFIXES)


@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "JPEG", "BMP", "PPM"])
def test_grey_is_repeated_in_three_channels(tmp_path, fmt):
    grey = np.full((H, W), 77, np.uint8)
    loaded = load_image(write(tmp_path, "a", encode(Image.fromarray(grey), fmt)))
    np.testing.assert_array_equal(loaded, np.full((H, W, 3), 77))


@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "BMP", "GIF"])
def test_one_bit_becomes_black_and_white(tmp_path, fmt):
    bits = rgb()[:, :, 0] > 127
    loaded = load_image(write(tmp_path, "a", encode(Image.fromarray(bits), fmt)))
    np.testing.assert_array_equal(loaded, np.repeat(bits[:, :, None] * np.uint8(255), 3, axis=2))


def test_alpha_is_dropped_and_the_colour_beneath_stays(tmp_path):
    pixels = np.dstack([rgb(), rgb(seed=1)[:, :, 0]])
    assert (pixels[:, :, 3] < 255).any()
    loaded = load_image(write(tmp_path, "a.png", encode(Image.fromarray(pixels), "PNG")))
    np.testing.assert_array_equal(loaded, pixels[:, :, :3])


def test_grey_with_alpha(tmp_path):
    pixels = rgb()[:, :, :2].copy()
    loaded = load_image(
        write(tmp_path, "a.png", encode(Image.frombytes("LA", (W, H), pixels.tobytes()), "PNG"))
    )
    np.testing.assert_array_equal(loaded, np.repeat(pixels[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("transparency", [None, 2, bytes([0, 128, 255, 7])])
@pytest.mark.parametrize("fmt", ["PNG", "GIF"])
def test_palette_is_looked_up_without_warning(tmp_path, fmt, transparency):
    if fmt == "GIF" and isinstance(transparency, bytes):
        transparency = 1
    colours = rgb(1, 4)[0]
    index = np.arange(H * W, dtype=np.uint8).reshape(H, W) % 4
    image = Image.frombytes("P", (W, H), index.tobytes())
    image.putpalette(colours.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    loaded = load_image(write(tmp_path, "a", encode(image, fmt, **options)))
    np.testing.assert_array_equal(loaded, colours[index])


@pytest.mark.parametrize("fmt", ["TIFF", "JPEG"])
def test_cmyk_is_converted_as_pillow_does(tmp_path, fmt):
    image = Image.new("CMYK", (W, H), (20, 40, 60, 80))
    content = encode(image, fmt)
    with Image.open(io.BytesIO(content)) as stored:
        expected = np.array(stored.convert("RGB"))
    loaded = load_image(write(tmp_path, "a", content))
    np.testing.assert_array_equal(loaded, expected)
    assert loaded[0, 0, 0] > loaded[0, 0, 1] > loaded[0, 0, 2]


def test_a_gif_of_one_frame(tmp_path):
    image = Image.fromarray(rgb()).quantize(8)
    loaded = load_image(write(tmp_path, "a.gif", encode(image, "GIF")))
    np.testing.assert_array_equal(loaded, np.array(image.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("fmt", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_exif_orientation_is_applied_once(tmp_path, orientation, fmt, options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(rgb()), fmt, exif=exif, **options)
    with Image.open(io.BytesIO(content)) as stored:
        stored.load()
        upright = ImageOps.exif_transpose(stored)
        expected = np.array(upright)
    loaded = load_image(write(tmp_path, "a", content))
    np.testing.assert_array_equal(loaded, expected)
    assert loaded.shape == ((W, H, 3) if 5 <= orientation <= 8 else (H, W, 3))
    assert loaded.flags.c_contiguous


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_image(write(tmp_path, "a", encode(Image.fromarray(rgb()), "PNG", exif=exif)))
    np.testing.assert_array_equal(loaded, rgb())


def test_orientation_6_turns_clockwise(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    loaded = load_image(write(tmp_path, "a", encode(Image.fromarray(rgb()), "PNG", exif=exif)))
    np.testing.assert_array_equal(loaded, np.rot90(rgb(), -1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_cost_the_image(tmp_path):
    content = encode(Image.fromarray(rgb()), "JPEG", quality=95)
    block = b"Exif\0\0" + b"II*\0\xff\xff\xff\x7f" + bytes(range(40))
    damaged = content[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + content[2:]
    with Image.open(io.BytesIO(content)) as image:
        expected = np.array(image)
    np.testing.assert_array_equal(load_image(write(tmp_path, "a.jpg", damaged)), expected)


def test_multi_picture_jpeg_gives_the_photograph(tmp_path):
    photo, preview = (Image.fromarray(rgb(seed=s)) for s in (0, 1))
    content = encode(photo, "MPO", save_all=True, append_images=[preview], quality=95)
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == 2
        expected = np.array(image)
    np.testing.assert_array_equal(load_image(write(tmp_path, "a.jpg", content)), expected)


# --------------------------------------------------------------------------- more than eight bits


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
def test_tiff_number_formats(tmp_path, dtype, sample_format):
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


@pytest.fixture
def without_codecs(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tifffile" else find(name))


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
    refusal(path, path, "more than 8 bits")


def test_cmyk_of_sixteen_bits_is_refused(tmp_path):
    """Read as RGB with transparency, its colours would be their opposites."""
    path = write(tmp_path, "a.tif", tiff(np.zeros((H, W, 4), "u2"), photometric=5))
    refusal(path, path, "CMYK", "convert it to RGB")


def test_tiff_of_signed_bytes_is_refused(tmp_path):
    path = write(tmp_path, "a.tif", tiff(np.zeros((H, W), "i1"), sample_format=2))
    refusal(path, path, "signed 8-bit")


def test_tiff_of_float64_is_refused(tmp_path):
    path = write(tmp_path, "a.tif", tiff(np.zeros((H, W), "f8"), sample_format=3))
    refusal(path, path)


# ----------------------------------------------------------------------------------------- arrays


def test_an_rgb_array_is_returned_itself():
    pixels = rgb()
    assert load_image(pixels) is pixels


@pytest.mark.parametrize("shape", [(H, W), (H, W, 1)])
def test_grey_arrays(shape):
    grey = rgb()[:, :, 0]
    np.testing.assert_array_equal(load_image(grey.reshape(shape)), np.repeat(grey[:, :, None], 3, axis=2))


def test_colour_arrays_of_sixteen_bits_share_one_range():
    pixels = np.random.default_rng(0).integers(0, 4096, (H, W, 3)).astype(np.uint16)
    loaded = load_image(pixels)
    np.testing.assert_array_equal(loaded.reshape(H, -1), stretched(pixels.reshape(H, -1)))


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8", "i1", "?", "c8", "U3", "O"])
def test_arrays_of_other_dtypes_are_refused(dtype):
    array = np.zeros((H, W, 3), dtype)
    refusal(array, "uint8 or uint16", array.dtype, "astype('uint8')")


@pytest.mark.parametrize("shape", [(), (5,), (H, W, 4), (H, W, 2), (3, H, W), (H, W, 0), (2, H, W, 3)])
def test_arrays_of_other_shapes_are_refused(shape):
    refusal(np.zeros(shape, np.uint8), str(shape), "(height, width, 3)")


@pytest.mark.parametrize("shape", [(0, 0), (0, 5, 3), (5, 0), (1, 5), (5, 1, 3), (1, 1, 1)])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_arrays_without_2_x_2_pixels_are_refused(shape, dtype):
    refusal(np.zeros(shape, dtype), f"{shape[1]} x {shape[0]} pixels", "2 x 2")


@pytest.mark.parametrize("source", [None, 3, [[1, 2], [3, 4]], b"a.jpg", Image.new("L", (4, 4))])
def test_other_things_are_refused(source):
    refusal(source, type(source).__name__, "path or a NumPy array")


# ------------------------------------------------------------------------------------------ files


def test_missing_file(tmp_path):
    refusal(tmp_path / "no.jpg", tmp_path / "no.jpg", "does not exist")
    write(tmp_path, "file", b"x")
    refusal(tmp_path / "file" / "no.jpg", tmp_path / "file" / "no.jpg", "does not exist")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    refusal(tmp_path / "broken.jpg", "broken.jpg", "does not exist")


def test_folder(tmp_path):
    refusal(tmp_path, tmp_path, "is a folder")


def test_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    refusal(tmp_path / "a.jpg", tmp_path / "a.jpg", "not a regular file")


def test_empty_file(tmp_path):
    refusal(write(tmp_path, "a.jpg", b""), "a.jpg", "empty")


@pytest.mark.parametrize("name", ["a\0b.jpg", "x" * 5000 + ".jpg"])
def test_impossible_names(tmp_path, name):
    refusal(tmp_path / name, "cannot be opened", "check the path")


def test_a_name_with_a_line_break_stays_on_one_line(tmp_path):
    refusal(write(tmp_path, "a\nb.jpg", b"no image"), "a\\nb.jpg")


def test_unreadable_file(tmp_path):
    path = write(tmp_path, "a.png", encode(Image.fromarray(rgb()), "PNG"))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user (root?) may read everything: see the next test")
    refusal(path, path, "may not be read")


def test_unreadable_file_as_seen_by_open(tmp_path, monkeypatch):
    path = write(tmp_path, "a.png", encode(Image.fromarray(rgb()), "PNG"))

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    refusal(path, path, "may not be read", "permissions")


def test_a_disk_error_while_reading_is_told(tmp_path, monkeypatch):
    path = write(tmp_path, "a.png", encode(Image.fromarray(rgb()), "PNG"))

    def fail(*_args, **_kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    refusal(path, path, "Input/output error")


@pytest.mark.parametrize(
    "content",
    [b"this is no image", b"\0" * 200, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xff\xd8\xff"],
    ids=["text", "zeros", "eps", "head of a jpeg"],
)
def test_no_image(tmp_path, content):
    path = write(tmp_path, "a.jpg", content)
    refusal(path, path, "is not an image", "JPEG, PNG")


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_truncated(tmp_path, fmt, kept):
    content = encode(Image.fromarray(rgb(40, 40)), fmt)
    path = write(tmp_path, "a.img", content[: int(len(content) * kept)])
    refusal(path, path)


def test_corrupt_png_is_told_apart_from_no_image(tmp_path):
    content = bytearray(encode(Image.fromarray(rgb(40, 40)), "PNG"))
    content[60:90] = bytes(30)
    path = write(tmp_path, "a.png", bytes(content))
    refusal(path, path, "corrupt or truncated", "copy it again or remove it")


@pytest.mark.parametrize("fmt", ["PNG", "GIF", "WEBP", "TIFF"])
def test_animations_and_pages_are_refused(tmp_path, fmt):
    frames = [Image.fromarray(rgb(seed=s)) for s in range(3)]
    path = write(tmp_path, "a", encode(frames[0], fmt, save_all=True, append_images=frames[1:]))
    refusal(
        path, path, *(("holds 3 images", "FILE#0") if fmt == "TIFF" else ("holds 3 frames", "save the one"))
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1)])
@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_a_side_of_one_pixel_is_refused(tmp_path, size, mode):
    path = write(tmp_path, "a.png", encode(Image.new(mode, size), "PNG"))
    refusal(path, path, f"{size[0]} x {size[1]} pixels", "2 x 2")


def test_two_by_two_is_enough(tmp_path):
    assert load_image(write(tmp_path, "a.png", encode(Image.fromarray(rgb(2, 2)), "PNG"))).shape == (2, 2, 3)


@pytest.mark.parametrize("action", ["error", "ignore"])
@pytest.mark.parametrize("limit", [H * W - 1, H * W // 3], ids=["Pillow warns", "Pillow raises"])
def test_decompression_bomb(tmp_path, monkeypatch, action, limit):
    path = write(tmp_path, "a.png", encode(Image.fromarray(rgb()), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        filters = list(warnings.filters)
        refusal(path, path, "safe to decode", limit, "MAX_IMAGE_PIXELS")
        assert warnings.filters == filters
    assert limit == Image.MAX_IMAGE_PIXELS


def test_no_limit_means_no_limit(tmp_path, monkeypatch):
    path = write(tmp_path, "a.png", encode(Image.fromarray(rgb()), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(path).shape == (H, W, 3)


def _samples():
    picture = Image.fromarray(rgb(12, 10))
    frames = {"save_all": True, "append_images": [Image.fromarray(rgb(12, 10, seed=1))]}
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.arange(120, dtype=np.uint16).reshape(12, 10) * 9)
    return [
        encode(picture, "JPEG", exif=exif),
        encode(picture, "JPEG", progressive=True),
        encode(picture.convert("CMYK"), "JPEG"),
        encode(picture, "PNG", exif=exif),
        encode(deep, "PNG"),
        encode(picture.quantize(7), "PNG", transparency=bytes(7)),
        encode(picture, "TIFF", exif=exif),
        encode(picture, "TIFF", compression="tiff_lzw"),
        encode(picture, "TIFF", compression="jpeg"),
        encode(deep, "TIFF", compression="tiff_adobe_deflate"),
        encode(picture, "TIFF", **frames),
        encode(Image.fromarray(np.linspace(-1, 1, 120, dtype=np.float32).reshape(12, 10)), "TIFF"),
        encode(picture, "BMP"),
        encode(picture.convert("1"), "BMP"),
        encode(picture.quantize(9), "GIF"),
        encode(picture, "GIF", **frames),
        encode(picture, "WEBP", exif=exif),
        encode(picture, "WEBP", lossless=True),
        pgm(np.asarray(deep)),
        encode(picture, "PPM"),
    ]


_SAMPLES = _samples()


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damaged_files_load_or_are_refused_and_nothing_else(data, tmp_path_factory):
    content = bytearray(data.draw(st.sampled_from(_SAMPLES)))
    for _ in range(data.draw(st.integers(0, 6))):
        # Headers are short and the pixels long: half of the changes go to the first 64 bytes.
        end = data.draw(st.sampled_from([min(64, len(content)), len(content)]))
        content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path_factory.getbasetemp() / "mutated.img"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)  # a damaged size must not cost seconds
        try:
            loaded = load_image(path)
        except InputError as error:
            loaded, message = None, str(error)
    if loaded is None:
        assert "mutated.img" in message
        assert "\n" not in message
    else:
        assert loaded.dtype == np.uint8
        assert loaded.ndim == 3
        assert loaded.shape[2] == 3
        assert min(loaded.shape) >= 2


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=300))
def test_random_bytes_are_refused(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "random.img"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"random\.img"):
        load_image(path)


# ----------------------------------------------------------------------------------------- resize


@pytest.mark.parametrize("method", RESIZE_FILTERS)
@pytest.mark.parametrize("side", [1, 4, 16])
def test_resize_is_pillow_s(method, side):
    pixels = rgb(11, 7)
    resized = resize_square(pixels, side, method)
    expected = Image.fromarray(pixels).resize((side, side), getattr(Image.Resampling, method.upper()))
    assert resized.dtype == np.uint8
    assert resized.shape == (side, side, 3)
    assert resized.flags.writeable
    np.testing.assert_array_equal(resized, np.asarray(expected))


def test_bilinear_is_the_default_and_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 254
    resized = resize_square(stripes, 8)
    np.testing.assert_array_equal(resized, resize_square(stripes, 8, "bilinear"))
    assert abs(resized.astype(int) - 127).max() <= 5, "a filter without antialiasing gives 0 or 254"


@pytest.mark.parametrize("method", RESIZE_FILTERS)
def test_an_image_of_the_right_size_is_returned_itself(method):
    pixels = rgb(8, 8)
    assert resize_square(pixels, 8, method) is pixels


def test_resize_takes_views():
    pixels = rgb(12, 10)[::2, ::-1]
    np.testing.assert_array_equal(resize_square(pixels, 4), resize_square(pixels.copy(), 4))


@pytest.mark.parametrize("side", [0, -3, 2.0, True, "8", None])
def test_bad_side(side):
    with pytest.raises(InputError, match="side must be an integer of at least 1"):
        resize_square(rgb(), side)


@pytest.mark.parametrize("method", ["area", "BILINEAR", "", None, 2])
def test_bad_method(method):
    with pytest.raises(InputError, match="method must be one of nearest, bilinear"):
        resize_square(rgb(), 8, method)


@pytest.mark.parametrize(
    "pixels",
    [
        rgb()[:, :, 0],
        rgb().astype(float),
        np.zeros((3, 3, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        None,
        [1],
    ],
    ids=["grey", "float", "four channels", "empty", "None", "list"],
)
def test_bad_pixels(pixels):
    with pytest.raises(InputError, match=r"pixels must be uint8 of shape \(height, width, 3\), got"):
        resize_square(pixels, 8)
