"""decode="fast": large JPEG files are decoded at reduced size, and everything else stays as it is."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms
from support.jpegs import jpeg, picture, surely_damaged

from medvlad import InputError
from medvlad.images.prefetch import load_squares
from medvlad.images.read import load_image, read_image
from medvlad.images.resize import RESIZE_FILTERS, resize_square

SIDE = 32
#: Largest mean difference from the full decode, in grey levels. Measured: at most 0.5 for these pictures.
CLOSE = 1.0
#: Bounds for real photographs that were saved with 1 megapixel: mean over all pixels, and worst pixel.
MEAN_OF_REAL, WORST_OF_REAL = 0.5, 30


def smooth(rng, height, width):
    """Return a picture without noise, whose halves differ much."""
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def squares(data, *sides, method="bilinear", fast=True, **options):
    read = read_image(data, hashed=False, sides=sides if fast else (), **options)
    return [square.astype(int) for square in read.squares(sides, method)]


def divisors(data, *sides):
    return [one.divisor for one in read_image(data, hashed=False, sides=sides).pictures]


def assert_close(data, side=SIDE, **options):
    (fast,), (full,) = squares(data, side, **options), squares(data, side, fast=False, **options)
    assert fast.shape == full.shape == (side, side, 3)
    assert np.abs(fast - full).mean() < CLOSE
    return fast, full


# ------------------------------------------------------------------------------------ what is reduced


@pytest.mark.parametrize(
    ("height", "width", "divisor"),
    [
        (127, 400, 1),
        (128, 128, 2),
        (255, 900, 2),
        (256, 300, 4),
        (511, 513, 4),
        (512, 512, 8),
        (2000, 513, 8),
    ],
)
def test_both_sides_stay_at_least_twice_those_of_the_square(rng, height, width, divisor):
    data = jpeg(smooth(rng, height, width))
    assert divisors(data, SIDE) == [divisor]
    (one,) = read_image(data, hashed=False, sides=(SIDE,)).pictures
    assert one.content.size == (-(-width // divisor), -(-height // divisor))
    assert_close(data)


def test_each_scale_has_its_own_size_so_that_it_is_the_same_alone_and_with_others(rng):
    data = jpeg(picture(rng, 512, 520))
    together = squares(data, 32, 64, 128, 300)
    assert divisors(data, 32, 64, 128, 300) == [8, 4, 2, 1]
    for square, side in zip(together, (32, 64, 128, 300), strict=True):
        np.testing.assert_array_equal(square, squares(data, side)[0])


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "WEBP", "TIFF", "GIF"])
def test_other_formats_are_not_touched(rng, fmt):
    buffer = io.BytesIO()
    Image.fromarray(picture(rng, 300, 300)).save(buffer, fmt)
    (fast,), (full,) = squares(buffer.getvalue(), SIDE), squares(buffer.getvalue(), SIDE, fast=False)
    np.testing.assert_array_equal(fast, full)


def test_jpeg_inside_tiff_is_not_touched(rng):
    buffer = io.BytesIO()
    Image.fromarray(picture(rng, 304, 304)).save(buffer, "TIFF", compression="jpeg")
    (fast,), (full,) = squares(buffer.getvalue(), SIDE), squares(buffer.getvalue(), SIDE, fast=False)
    np.testing.assert_array_equal(fast, full)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_small_files_are_not_touched(rng, mode):
    data = jpeg(picture(rng, 2 * SIDE + 40, 300), mode)
    (fast,), (full,) = squares(data, SIDE), squares(data, SIDE, fast=False)
    np.testing.assert_array_equal(fast, full)


# -------------------------------------------------------------------------- squares without full copies


@pytest.mark.parametrize("method", RESIZE_FILTERS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_squares_are_those_of_the_pixels_to_the_last_bit(rng, mode, method):
    data = jpeg(picture(rng, 301, 277), mode)
    expected = resize_square(load_image(data), SIDE, method)
    np.testing.assert_array_equal(squares(data, SIDE, method=method, fast=False)[0], expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_squares_of_every_mode_are_those_of_the_pixels(rng, mode):
    grey = picture(rng, 40, 50)
    image = (
        Image.fromarray(grey[..., 0].astype(np.uint16) * 16)
        if mode == "I;16"
        else Image.fromarray(grey).convert(mode)
    )
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = buffer.getvalue()
    expected = resize_square(load_image(data), SIDE)
    np.testing.assert_array_equal(squares(data, SIDE, fast=False)[0], expected)


def test_an_image_that_has_the_size_of_the_square_is_not_resized(rng):
    for mode in ("RGB", "L"):
        data = jpeg(picture(rng, SIDE, SIDE), mode)
        np.testing.assert_array_equal(squares(data, SIDE)[0], load_image(data))


# ----------------------------------------------------------------------- as in the full decode


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(rng, mode, orientation):
    """Odd sizes: the last column and row stand for less than two pixels of the file."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(smooth(rng, 141, 153), mode, exif=exif)
    assert divisors(data, SIDE) == [2]
    assert_close(data)


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 7}, {"quality": 30}]
)
def test_every_coding_is_read(rng, options):
    assert_close(jpeg(picture(rng, 300, 300), **options))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_colour_profiles_are_applied(rng, mode):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = jpeg(smooth(rng, 300, 300), mode, icc_profile=profile)
    assert_close(data, colour_profile="srgb")


def test_a_wrong_colour_profile_is_refused(rng):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    data = jpeg(picture(rng, 300, 300), icc_profile=profile)
    with pytest.raises(InputError, match="has a colour profile that cannot be used"):
        squares(data, SIDE, colour_profile="srgb")


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["sequential", "progressive"])
def test_truncated_files_are_refused_as_in_the_full_decode(rng, options):
    data = jpeg(picture(rng, 300, 300), **options)
    for share in (0.1, 0.5, 0.9):
        cut = data[: int(len(data) * share)]
        reasons = []
        for fast in (False, True):
            with pytest.raises(InputError) as error:
                squares(cut, SIDE, fast=fast)
            reasons.append(str(error.value))
        assert reasons[0] == reasons[1]


def test_damage_is_found_as_in_the_full_decode(rng):
    for _ in range(5):
        data = surely_damaged(picture(rng, 200, 200), rng)
        fast = read_image(data, hashed=True, sides=(SIDE,))
        full = read_image(data, hashed=True)
        assert fast.pictures[0].divisor == 2
        assert fast.damage == full.damage != ""
        assert fast.key == full.key


def test_files_with_too_many_pixels_are_refused_by_their_full_size(rng, monkeypatch):
    data = jpeg(picture(rng, 300, 300))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300 * 299)
    with pytest.raises(InputError, match="more pixels than are safe"):
        squares(data, SIDE)


def test_loading_threads_decode_as_they_are_asked_to(tmp_path, rng):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(picture(rng, 300, 310)))
    for fast in (True, False):
        keys = {}
        ((_, (found,)),) = load_squares(
            [path], [0], (SIDE,), "bilinear", n_threads=1, keys=keys, decode="fast" if fast else "full"
        )
        np.testing.assert_array_equal(found, squares(path.read_bytes(), SIDE, fast=fast)[0])
        assert keys[0] == read_image(path, hashed=True).key


# ------------------------------------------------------------------------------------- real pictures


def test_real_pictures_of_one_megapixel_change_little(data_dir):
    """docs/howto/images.md publishes the numbers of all pictures. Here are 8 of each set."""
    worst, means = 0, []
    sets = (data_dir / name for name in ("rooms_dev", "hyperkvasir_dev", "chest_xray_224"))
    for path in (path for one in sets for path in sorted(one.rglob("*.jp*g"))[::7][:8]):
        pixels = load_image(path)
        height, width = pixels.shape[:2]
        scale = max(900 / min(height, width), (1.08e6 / (height * width)) ** 0.5)
        size = (round(width * scale), round(height * scale))
        large = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
        data = jpeg(np.asarray(large), quality=90)
        assert divisors(data, 224) == [2]
        (fast,), (full,) = squares(data, 224), squares(data, 224, fast=False)
        worst = max(worst, np.abs(fast - full).max())
        means.append(np.abs(fast - full).mean())
    assert np.mean(means) < MEAN_OF_REAL
    assert worst < WORST_OF_REAL
