"""Every kind of file and array becomes RGB of 8 bits, and resizing is Pillow's."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps, features
from support.image_bytes import H, W, encode, refusal, rgb, stretched, write

from medvlad._util.validate import InputError
from medvlad.images.formats import IMAGE_SUFFIXES
from medvlad.images.read import load_image
from medvlad.images.resize import RESIZE_FILTERS, resize_square

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


def test_a_jpeg_gives_the_pixels_of_pillows_decoder(tmp_path):
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


def test_grey_with_alpha_keeps_its_grey(tmp_path):
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


def test_a_gif_of_one_frame_is_read(tmp_path):
    image = Image.fromarray(rgb()).quantize(8)
    loaded = load_image(write(tmp_path, "a.gif", encode(image, "GIF")))
    np.testing.assert_array_equal(loaded, np.array(image.convert("RGB")))


@pytest.mark.parametrize("local", [None, "ramp", "colours"])
def test_a_gif_takes_its_own_palette_before_that_of_the_file(tmp_path, local):
    index = np.arange(16, dtype=np.uint8).reshape(4, 4)
    palette = rgb(16, 16)[0]
    image = Image.frombytes("P", (4, 4), index.tobytes())
    image.putpalette(palette.tobytes())
    content = encode(image, "GIF", optimize=False)
    n_colours = 2 << (content[10] & 7)
    at = content.index(b"\x2c", 13 + 3 * n_colours)  # the descriptor of the only frame
    if local is not None:
        grey = np.repeat(np.arange(n_colours, dtype=np.uint8)[:, None], 3, axis=1)
        palette = grey if local == "ramp" else rgb(n_colours, 2, seed=1)[:, 0]
        flags = bytes([0x80 | (content[10] & 7)])
        content = content[: at + 9] + flags + palette.tobytes() + content[at + 10 :]
    np.testing.assert_array_equal(load_image(write(tmp_path, "a.gif", content)), palette[index])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("fmt", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        pytest.param(
            "AVIF", {}, marks=pytest.mark.skipif(not features.check("avif"), reason="this Pillow lacks it")
        ),
    ],
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


# ----------------------------------------------------------------------------------------- arrays


def test_an_rgb_array_is_returned_itself():
    pixels = rgb()
    assert load_image(pixels) is pixels


@pytest.mark.parametrize("shape", [(H, W), (H, W, 1)])
def test_grey_arrays_are_repeated_in_three_channels(shape):
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


@pytest.mark.parametrize("source", [None, 3, [[1, 2], [3, 4]]])
def test_other_objects_are_no_images(source):
    refusal(source, type(source).__name__, "path, bytes, a binary file, a Pillow image or an array")


# ----------------------------------------------------------------------------------------- resize


@pytest.mark.parametrize("method", RESIZE_FILTERS)
@pytest.mark.parametrize("side", [1, 4, 16])
def test_resizing_gives_pillows_pixels(method, side):
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


def test_a_view_is_resized_like_a_copy():
    pixels = rgb(12, 10)[::2, ::-1]
    np.testing.assert_array_equal(resize_square(pixels, 4), resize_square(pixels.copy(), 4))


@pytest.mark.parametrize("side", [0, -3, 2.0, True, "8", None])
def test_a_side_that_is_not_a_positive_integer_is_refused(side):
    with pytest.raises(InputError, match="side must be an integer of at least 1"):
        resize_square(rgb(), side)


@pytest.mark.parametrize("method", ["area", "BILINEAR", "", None, 2])
def test_an_unknown_method_is_refused(method):
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
def test_pixels_that_are_not_rgb_of_8_bits_are_refused(pixels):
    with pytest.raises(InputError, match=r"pixels must be uint8 of shape \(height, width, 3\), got"):
        resize_square(pixels, 8)
