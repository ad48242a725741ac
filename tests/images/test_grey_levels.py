"""No step turns a picture that varies into one colour unless a warning says so."""

import logging

import numpy as np
import pytest
from PIL import Image
from support.image_bytes import encode, refusal, write

from medvlad.images.grey_levels import keep_contrast, stretch
from medvlad.images.read import load_image

RAMP = np.arange(12).reshape(3, 4) * 10


@pytest.fixture
def warned(caplog):
    caplog.set_level(logging.WARNING, "medvlad")
    return caplog


@pytest.mark.parametrize("level", [0, 255])
def test_a_picture_that_became_one_level_gets_its_own_range(level, warned):
    black = np.full(RAMP.shape, level, np.uint8)
    kept = keep_contrast(black, RAMP, "image 'a.dcm'", "the window of center 9 and width 1")
    np.testing.assert_array_equal(kept, np.rint(RAMP * (255 / 110)))
    (record,) = warned.records
    assert record.levelno == logging.WARNING
    assert "image 'a.dcm': the window of center 9 and width 1 turns" in record.getMessage()


def test_a_picture_of_few_neighbouring_levels_is_as_good_as_one_level(warned):
    dark = (RAMP // 40).astype(np.uint8)
    assert dark.max() == 2
    np.testing.assert_array_equal(keep_contrast(dark, RAMP, "a", "b"), stretch(RAMP, "a"))
    assert len(warned.records) == 1


def test_a_picture_where_large_numbers_are_dark_stays_so():
    kept = keep_contrast(np.zeros(RAMP.shape, np.uint8), RAMP, "a", "b", inverted=True)
    assert (kept.ravel()[0], kept.ravel()[-1]) == (255, 0)


@pytest.mark.parametrize(
    ("pixels", "stored"),
    [
        (np.full((2, 2), 7), np.full((2, 2), 900)),
        (np.array([[0, 1], [1, 0]]), np.array([[0, 1], [1, 0]])),
        (np.array([[0, 255], [0, 0]]), np.arange(4).reshape(2, 2)),
        (np.array([[[9, 9, 9], [9, 9, 10]]] * 2), np.arange(4).reshape(2, 2)),
    ],
    ids=["a constant picture", "two levels of two numbers", "black and white", "two colours"],
)
def test_other_pictures_do_not_change(pixels, stored, warned):
    pixels = pixels.astype(np.uint8)
    assert keep_contrast(pixels, stored, "a", "b") is pixels
    assert not warned.records


@pytest.mark.parametrize("span", [510, 700, 1000])
def test_inverted_numbers_have_the_levels_of_negated_numbers(span):
    """Also if a level lies halfway between two integers."""
    values = np.arange(span + 1).reshape(1, -1)
    np.testing.assert_array_equal(stretch(values, "a", inverted=True), stretch(-values, "a"))


INDICES = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize("fmt", ["PNG", "GIF", "BMP", "TIFF"])
def test_a_palette_of_one_colour_is_ignored(tmp_path, fmt, warned):
    image = Image.fromarray(INDICES)
    image.putpalette(bytes([40, 50, 60] * 256))
    path = write(tmp_path, f"a.{fmt.lower()}", encode(image, fmt))
    pixels = load_image(path)
    np.testing.assert_array_equal(pixels[..., 0], np.rint(INDICES * (255 / 11)))
    assert str(path) in warned.records[0].getMessage()


def test_a_picture_of_one_colour_with_transparency_stays_as_it_is(tmp_path, warned):
    """Transparency is dropped, so it is no part of what varies."""
    pixels = np.full((3, 4, 4), 200, np.uint8)
    pixels[..., 3] = INDICES
    loaded = load_image(write(tmp_path, "a.png", encode(Image.fromarray(pixels), "PNG")))
    assert (loaded == 200).all()
    assert not warned.records


def test_ink_that_hides_the_picture_is_refused(tmp_path):
    ink = np.zeros((3, 4, 4), np.uint8)
    ink[..., 0], ink[..., 3] = RAMP, 255
    path = write(tmp_path, "a.tif", encode(Image.fromarray(ink, "CMYK"), "TIFF"))
    refusal(path, "a.tif", "one colour", "CMYK")


tifffile = pytest.importorskip("tifffile", reason="needs the extra medical")

COLOURS = np.random.default_rng(0).permuted(np.arange(256 * 3).reshape(3, 256) % 256, axis=1)


@pytest.mark.parametrize(
    "entries", [COLOURS, COLOURS << 8, COLOURS * 257], ids=["low byte", "high byte", "16 bits"]
)
@pytest.mark.parametrize("frames", [1, 2])
def test_a_colour_map_of_tiff_is_read_by_what_it_holds(tmp_path, entries, frames):
    indices = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for page in range(frames):
            tif.write(
                indices if page == 0 else indices.T, photometric="palette", colormap=entries.astype("u2")
            )
    for page in range(frames):
        loaded = load_image(path if frames == 1 else f"{path}#{page}")
        expected = COLOURS.T[indices if page == 0 else indices.T]
        np.testing.assert_array_equal(loaded, expected)
