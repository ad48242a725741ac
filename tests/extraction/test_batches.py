"""The batch loop takes values and returns values: which images, which numbers, which were skipped."""

from dataclasses import replace

import numpy as np
import pytest

from medvlad import InputError
from medvlad.extraction.batches import BatchSettings, calibration_pixels, extract_batches
from medvlad.images.hashed_file import image_key

SIDES = (8, 4)


def engine(pixels):
    """Mean of each 4 x 4 pixels."""
    b, h, w, d = pixels.shape
    return pixels.reshape(b, h // 4, 4, w // 4, 4, d).mean(axis=(2, 4), dtype=np.float32)


@pytest.fixture
def settings():
    return BatchSettings(
        preprocess=lambda pixels: pixels,
        sides=SIDES,
        grids=((2, 2), (1, 1)),
        views=(False,),
        n_features=3,
        batch_size=2,
        resize="nearest",
        on_error="skip",
        on_damage="warn",
        colour_profile="ignore",
        decode="full",
        n_threads=2,
        progress=False,
        on_gpu=False,
    )


@pytest.fixture
def images(rng, tmp_path):
    """Five images, of which the third cannot be read."""
    found = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(5)]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    return [*found[:2], bad, *found[2:]][:5]


def test_batches_have_the_images_in_order(images, settings):
    batches = list(extract_batches(images, range(5), engine, settings))
    assert [batch.indices for batch in batches] == [[0, 1], [3], [4]]
    assert [batch.descriptors.shape for batch in batches] == [(2, 5, 3), (1, 5, 3), (1, 5, 3)]


def test_descriptors_are_those_of_the_engine(images, settings):
    settings = replace(settings, sides=(8,), grids=((2, 2),))
    for batch in extract_batches(images, [0, 1, 3, 4], engine, settings):
        for i, values in zip(batch.indices, batch.descriptors, strict=True):
            np.testing.assert_array_equal(values, engine(images[i][None].astype(np.float32)).reshape(4, 3))


def test_mirrored_descriptors_follow_at_each_scale(images, settings):
    settings = replace(settings, sides=(8,), grids=((2, 2), (2, 2)), views=(False, True))
    (batch,) = extract_batches(images, [1], engine, settings)
    mirrored = engine(images[1][None, :, ::-1].astype(np.float32)).reshape(4, 3)
    np.testing.assert_array_equal(batch.descriptors[0, 4:], mirrored)


def test_only_wanted_images_are_extracted(images, settings):
    batches = extract_batches(images, [4, 0], engine, settings)
    assert [i for batch in batches for i in batch.indices] == [4, 0]


def test_skipped_images_have_a_reason(images, settings):
    skipped = [one for batch in extract_batches(images, range(5), engine, settings) for one in batch.skipped]
    assert [index for index, _ in skipped] == [2]
    assert "bad.png" in skipped[0][1]


def test_an_unreadable_image_is_an_error_if_asked_for(images, settings):
    with pytest.raises(InputError, match=r"bad\.png.*on_error='skip'"):
        list(extract_batches(images, range(5), engine, replace(settings, on_error="raise")))


def test_keys_are_those_of_the_decoded_content(images, settings):
    batches = extract_batches(images, [0, 1, 3], engine, settings, with_keys=True)
    keys = {i: key for batch in batches for i, key in zip(batch.indices, batch.keys, strict=True)}
    assert keys == {i: image_key(images[i]) for i in (0, 1, 3)}


def test_without_keys_no_image_is_hashed(images, settings, monkeypatch):
    monkeypatch.setattr("medvlad.images.prefetch.image_key", None)
    assert [batch.keys for batch in extract_batches(images, [0, 1], engine, settings)] == [[]]


def test_one_array_takes_all_descriptors_without_gaps(images, settings):
    expected = [batch.descriptors for batch in extract_batches(images, range(5), engine, settings)]
    out = np.full((25, 3), np.nan, np.float32)
    for batch in extract_batches(images, range(5), engine, settings, out=out):
        assert np.shares_memory(batch.descriptors, out)
    np.testing.assert_array_equal(out[:20], np.concatenate(expected).reshape(20, 3))
    assert np.isnan(out[20:]).all()


def test_a_number_that_is_not_finite_names_the_image(images, settings):
    calls = []

    def broken(pixels):
        calls.append(len(pixels))
        return engine(pixels) * (np.nan if len(calls) > 2 else 1)

    with pytest.raises(InputError, match="not finite for image 3"):
        list(extract_batches(images, range(5), broken, settings))


@pytest.mark.parametrize(("batch_size", "expected"), [(None, [8, 1]), (3, [3, 3])])
def test_a_batch_has_about_as_many_pixels_at_every_scale(settings, batch_size, expected):
    assert replace(settings, sides=(224, 864), batch_size=batch_size).batch_sizes == expected


def test_calibration_leaves_unreadable_images_out(images, settings):
    shapes = [pixels.shape for pixels in calibration_pixels(images, settings)]
    assert shapes == [(1, side, side, 3) for _ in range(4) for side in SIDES]


def test_calibration_takes_at_most_128_images_spread_evenly(settings):
    images = [np.full((4, 4, 3), i // 2, np.uint8) for i in range(300)]
    pixels = [values.max() for values in calibration_pixels(images, replace(settings, sides=(4,)))]
    assert len(pixels) == 128
    assert (pixels[0], pixels[-1]) == (0, 149)
    assert np.diff(pixels).max() <= 2
