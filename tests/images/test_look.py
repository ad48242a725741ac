"""The look of an image: sharpness and dark borders."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support import jpegs
from support.at_a_time import AtATime
from support.colour_profiles import WIDE

from medvlad._util.validate import InputError
from medvlad.images import large_files, look
from medvlad.images.look import look_of, looks_of
from medvlad.images.read import load_image


@pytest.fixture
def picture():
    """Grey noise without dark pixels, 224 pixels."""
    grey = np.random.default_rng(0).uniform(60, 250, (224, 224, 1))
    return np.repeat(grey, 3, axis=2).astype(np.uint8)


def test_blur_lowers_the_sharpness_only(picture):
    blurred = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(2)))
    sharp, dark, columns = look_of(picture) - look_of(blurred)
    assert sharp > 0.5
    assert dark == columns == 0


def test_brightness_and_contrast_do_not_change_the_sharpness(picture):
    darker = (20 + picture // 2).astype(np.uint8)
    assert look_of(darker)[0] == pytest.approx(look_of(picture)[0], abs=0.02)


def test_dark_columns_and_the_dark_border_are_shares(picture):
    picture[:, :28] = 0
    picture[:, -14:] = 0
    _, dark, columns = look_of(picture)
    assert columns == pytest.approx(42 / 224)
    ring = 224**2 - 212**2
    assert dark == pytest.approx((2 * 6 * 224 + 2 * 6 * (28 - 6 + 14 - 6)) / ring)


def test_a_dark_column_inside_the_image_does_not_count(picture):
    picture[:, 40:50] = 0
    assert look_of(picture)[2] == 0


def test_an_image_of_one_grey_has_finite_numbers():
    assert np.isfinite(look_of(np.zeros((30, 40, 3), np.uint8))).all()


def test_files_and_arrays_are_read_in_order(picture, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    framed = picture.copy()
    framed[:, :28] = 0
    looks = looks_of([path, framed], n_threads=2)
    np.testing.assert_allclose(looks, [look_of(picture), look_of(framed)])
    assert looks_of([]).shape == (0, 3)


def test_colour_profiles_are_applied(picture, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path, icc_profile=WIDE)
    converted = look_of(load_image(path, colour_profile="srgb"))
    np.testing.assert_allclose(looks_of([path], colour_profile="srgb"), [converted])
    assert not np.allclose(looks_of([path]), [converted])


def test_damage_is_not_told_again(rng, tmp_path, caplog):
    (tmp_path / "damaged.jpg").write_bytes(jpegs.surely_damaged(jpegs.picture(rng), rng))
    assert looks_of([tmp_path / "damaged.jpg"]).shape == (1, 3)
    assert not caplog.records


def test_only_two_large_files_are_decoded_at_a_time(picture, tmp_path, monkeypatch):
    Image.fromarray(picture).save(tmp_path / "a.png")
    for size, expected in ((0, 2), (1 << 30, 6)):
        monkeypatch.setattr(large_files, "_LARGE_FILE", size)
        slow = AtATime(load_image)
        monkeypatch.setattr(look, "load_image", slow)
        assert len(looks_of([tmp_path / "a.png"] * 8, n_threads=6)) == 8
        assert slow.most <= expected
        assert slow.most > 2 or size == 0


def test_an_unreadable_file_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken\.png"):
        looks_of([tmp_path / "broken.png"])
