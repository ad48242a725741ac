"""The built resizing gives Pillow's numbers, and reads nothing but the pixels."""

import numpy as np
import pytest
from PIL import Image

from medvlad.images.resize import resize_image, resize_square

native = pytest.importorskip("medvlad.images._resize", reason="the package was not built")

#: Width and height. The last two are so tall that Pillow decides.
SIZES = [(32, 32), (33, 41), (600, 450), (450, 600), (1001, 333), (227, 225), (40, 120), (100, 191)]
BOXES = [None, (0.0, 0.0, 31.5, 31.25), (0.5, 0.125, 32.0, 31.875)]


def lent(image):
    if not hasattr(image, "__arrow_c_array__"):
        pytest.skip("this version of Pillow does not lend its memory")
    return image.__arrow_c_array__()[1]


def whole(image):
    return (0.0, 0.0, float(image.width), float(image.height))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_squares_are_those_of_pillow(rng, size, mode):
    noise = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    for pixels in (noise, np.uint8(255) * (noise > 200), np.full_like(noise, 255)):
        image = Image.fromarray(pixels).convert(mode)
        for side in (1, 7, 31, 32, 224, 640):
            for box in BOXES:
                expected = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=box))
                np.testing.assert_array_equal(resize_image(image, side, "bilinear", box=box), expected)
                if mode == "RGB":
                    np.testing.assert_array_equal(resize_square(pixels, side, box=box), expected)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_built_code_is_what_resizes(rng, monkeypatch, mode):
    image = Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)).convert(mode)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    if native.of_arrow(lent(image), 120, 90, whole(image), 32) is None:
        pytest.skip("this processor has no AVX2")
    monkeypatch.setattr(Image.Image, "resize", None)
    np.testing.assert_array_equal(resize_image(image, 32, "bilinear"), expected)
    if mode == "RGB":
        np.testing.assert_array_equal(resize_square(np.asarray(image), 32), expected)


def test_rows_with_gaps_between_them_are_resized_by_pillow(rng):
    pixels = rng.integers(0, 256, (90, 121, 3), dtype=np.uint8)
    expected = resize_square(pixels, 32)
    Image.core.set_alignment(64)
    try:
        image = Image.fromarray(pixels)
        np.testing.assert_array_equal(resize_image(image, 32, "bilinear"), expected)
    finally:
        Image.core.set_alignment(1)


def test_an_image_in_several_pieces_is_resized_by_pillow(rng):
    image = Image.fromarray(rng.integers(0, 256, (2100, 2100, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="contiguous"):
        lent(image)
    expected = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize_image(image, 64, "bilinear"), expected)


def test_an_image_smaller_than_a_vector_is_left_to_pillow(rng):
    image = Image.fromarray(rng.integers(0, 256, (5, 5), dtype=np.uint8))
    assert native.of_arrow(lent(image), 5, 5, whole(image), 2) is None
    expected = np.asarray(image.resize((2, 2), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize_image(image, 2, "bilinear"), expected)


def test_sizes_that_do_not_fit_the_memory_are_refused():
    image = Image.new("RGB", (40, 30))
    assert native.of_arrow(lent(image), 40, 31, (0.0, 0.0, 40.0, 31.0), 8) is None
    boxes = [
        (0.0, 0.0, 41.0, 30.0),
        (-1.0, 0.0, 40.0, 30.0),
        (5.0, 0.0, 5.0, 30.0),
        (0.0, float("nan"), 4.0, 5.0),
    ]
    for box in boxes:
        with pytest.raises(ValueError, match="the box or the side is not possible"):
            native.of_arrow(lent(image), 40, 30, box, 8)
    with pytest.raises(ValueError, match="the box or the side"):
        native.of_arrow(lent(image), 40, 30, whole(image), 0)
    with pytest.raises(ValueError, match="four ends"):
        native.of_arrow(lent(image), 40, 30, (0.0, 0.0, 40.0), 8)
    with pytest.raises(ValueError, match="the capsule holds no array"):
        native.of_arrow(image.__arrow_c_schema__(), 40, 30, whole(image), 8)
    with pytest.raises(ValueError, match=r"shape \(H, W, 3\)"):
        native.of_array(np.zeros((30, 40), np.uint8), whole(image), 8)
