"""Colours are converted from a file's own ICC profile to sRGB, if asked for."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms
from support.colour_profiles import WIDE, profile_of
from support.image_bytes import rgb

from medvlad import InputError
from medvlad.images.read import load_image


def by_hand(pixels, primaries, gamma):
    """Convert to sRGB by the formulas of IEC 61966-2-1, with both white points at D50."""
    white = np.array([0.9642, 1.0, 0.8249])

    def matrix(points):
        columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in points]).T
        return columns * np.linalg.solve(columns, white)

    srgb = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
    linear = (pixels / 255.0) ** gamma @ (np.linalg.inv(srgb) @ matrix(primaries)).T
    linear = np.clip(linear, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return curved * 255


@pytest.fixture
def pixels():
    return rgb(20, 30, seed=4)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_colours_are_those_of_the_formulas(tmp_path, pixels, name):
    primaries, gamma = [(0.7, 0.29), (0.17, 0.79), (0.14, 0.05)], 2.2
    options = {"lossless": True} if name == "a.webp" else {}
    Image.fromarray(pixels).save(tmp_path / name, icc_profile=WIDE, **options)
    found = load_image(tmp_path / name, colour_profile="srgb")
    expected = by_hand(pixels, primaries, int(gamma * 256) / 256)
    assert np.abs(found - expected).max() < 2.5
    assert np.abs(found.astype(int) - pixels).max() > 30


def test_profiles_are_ignored_by_default(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=WIDE)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), pixels)


def test_a_file_without_a_profile_stays_as_it_is(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", colour_profile="srgb"), pixels)


def test_the_profile_of_srgb_changes_nothing_but_rounding(tmp_path, pixels):
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=own)
    found = load_image(tmp_path / "a.png", colour_profile="srgb")
    assert np.abs(found.astype(int) - pixels).max() <= 1


def test_a_turned_image_is_converted_where_it_is(tmp_path, pixels):
    """The EXIF orientation is applied once."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", icc_profile=WIDE, exif=exif)
    Image.fromarray(pixels).save(tmp_path / "upright.png", icc_profile=WIDE)
    upright = load_image(tmp_path / "upright.png", colour_profile="srgb")
    turned = load_image(tmp_path / "turned.png", colour_profile="srgb")
    np.testing.assert_array_equal(turned, np.rot90(upright, -1))


@pytest.mark.parametrize("mode", ["P", "RGBA", "L"])
def test_palettes_transparency_and_grey_are_converted(tmp_path, pixels, mode):
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "with.png", icc_profile=WIDE)
    image.convert("RGB").save(tmp_path / "as_rgb.png", icc_profile=WIDE)
    np.testing.assert_array_equal(
        load_image(tmp_path / "with.png", colour_profile="srgb"),
        load_image(tmp_path / "as_rgb.png", colour_profile="srgb"),
    )


def test_grey_is_converted_by_its_own_curve(tmp_path, pixels):
    image = Image.fromarray(pixels).convert("L")
    image.save(tmp_path / "a.png", icc_profile=profile_of(None, 1.0, b"GRAY"))
    found = load_image(tmp_path / "a.png", colour_profile="srgb")
    linear = np.asarray(image) / 255
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    assert np.abs(found[..., 0] - expected).max() < 2.5


def test_deep_colour_is_stretched_and_not_converted(tmp_path, pixels):
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    deep.save(tmp_path / "with.png", icc_profile=WIDE)
    deep.save(tmp_path / "without.png")
    np.testing.assert_array_equal(
        load_image(tmp_path / "with.png", colour_profile="srgb"), load_image(tmp_path / "without.png")
    )


@pytest.mark.parametrize("profile", [b"no profile", WIDE[:200], WIDE.replace(b"RGB ", b"CMYK")])
def test_a_profile_that_cannot_be_used_is_refused_by_name(tmp_path, pixels, profile):
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    load_image(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png' has a colour profile that cannot be used .*: remove"):
        load_image(tmp_path / "a.png", colour_profile="srgb")


def test_cmyk_is_converted_from_its_own_numbers(tmp_path, pixels):
    """No CMYK profile comes with Pillow, so a wrong one shows that the numbers are looked at."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(buffer, "JPEG", icc_profile=WIDE)
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="it is for RGB, the image is CMYK"):
        load_image(tmp_path / "a.jpg", colour_profile="srgb")


def test_a_wrong_choice_is_refused(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="colour_profile must be one of ignore, srgb, got 'adobe'"):
        load_image(tmp_path / "a.png", colour_profile="adobe")


def test_a_medical_file_has_no_profile_to_look_for(tmp_path, rng):
    pytest.importorskip("nibabel", reason="the extra medical is not installed")
    import nibabel

    nibabel.Nifti1Image(rng.integers(0, 99, (8, 8, 1)).astype(np.int16), np.eye(4)).to_filename(
        tmp_path / "a.nii"
    )
    np.testing.assert_array_equal(
        load_image(tmp_path / "a.nii#0", colour_profile="srgb"), load_image(tmp_path / "a.nii#0")
    )
