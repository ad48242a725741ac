"""The look of an image: sharpness and dark borders."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from medvlad._util.validate import InputError
from medvlad.images.look import look_of, looks_of


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


def test_an_unreadable_file_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken\.png"):
        looks_of([tmp_path / "broken.png"])
