"""Shifted copies: the same in every run, changed in every way, and lazy."""

import pickle

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from support.at_a_time import AtATime
from support.colour_profiles import WIDE
from support.jpegs import picture, surely_damaged

from medvlad._util.validate import InputError
from medvlad.images import large_files
from medvlad.images import shifted_copies as copying
from medvlad.images.prefetch import load_squares
from medvlad.images.read import load_image
from medvlad.images.shifted_copies import ShiftedCopies, shifted_copy


@pytest.fixture(scope="module")
def images():
    """Pictures without black pixels, with coarse and fine structure."""
    rng = np.random.default_rng(0)
    coarse = [gaussian_filter(rng.uniform(0, 255, (96, 128, 1)), (9, 9, 0)) for _ in range(60)]
    scaled = [80 + 100 * (one - one.min()) / np.ptp(one) for one in coarse]
    return [np.repeat(one + rng.uniform(0, 30, one.shape), 3, axis=2).astype(np.uint8) for one in scaled]


def test_an_image_has_the_same_copy_wherever_it_stands(images):
    forward, backward = ShiftedCopies(images), ShiftedCopies(images[::-1])
    for i in (0, 7):
        np.testing.assert_array_equal(forward[i], backward[len(images) - 1 - i])


def test_the_image_itself_is_not_changed(images):
    before = images[0].copy()
    shifted_copy(images[0])
    np.testing.assert_array_equal(images[0], before)


def test_another_seed_makes_another_copy(images):
    same = [np.array_equal(shifted_copy(one, 0), shifted_copy(one, 1)) for one in images]
    assert sum(same) < len(images) // 4


def test_copies_keep_the_size_and_differ(images):
    copies = list(ShiftedCopies(images))
    assert {one.shape for one in copies} == {(96, 128, 3)}
    assert {one.dtype for one in copies} == {np.dtype(np.uint8)}
    assert sum(np.array_equal(a, b) for a, b in zip(images, copies, strict=True)) < len(images) // 4


def test_some_copies_have_black_frames_some_are_blurred_and_some_sharpened(images):
    copies = list(ShiftedCopies(images))
    framed = [(one[:, 0] < 20).mean() > 0.9 or (one[0] < 20).mean() > 0.9 for one in copies]
    assert 5 < sum(framed) < 40

    def fine(one):
        grey = one[10:-10, 10:-10, 0].astype(float)
        return (grey - gaussian_filter(grey, 1)).std() / grey.std()

    ratio = np.array([fine(b) / fine(a) for a, b in zip(images, copies, strict=True)])
    assert (ratio < 0.6).sum() > 10
    assert (ratio > 1.05).sum() > 3


def test_large_images_are_reduced(images):
    large = np.asarray(Image.fromarray(images[0]).resize((1200, 900)))
    assert shifted_copy(large).shape == (408, 544, 3)


def test_a_slice_has_the_copies_of_the_slice(images):
    np.testing.assert_array_equal(ShiftedCopies(images)[3:5][1], ShiftedCopies(images)[4])


def test_an_unreadable_file_is_named_when_its_copy_is_made(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    copies = ShiftedCopies([tmp_path / "broken.png"])
    with pytest.raises(InputError, match=r"broken\.png"):
        copies[0]


def test_colour_profiles_are_applied_as_to_the_image(images, tmp_path):
    Image.fromarray(images[0]).save(tmp_path / "a.png", icc_profile=WIDE)
    converted = load_image(tmp_path / "a.png", colour_profile="srgb")
    copies = ShiftedCopies([tmp_path / "a.png"], colour_profile="srgb")
    np.testing.assert_array_equal(copies[0], shifted_copy(converted))
    np.testing.assert_array_equal(copies[:1][0], copies[0])
    assert not np.array_equal(copies[0], ShiftedCopies([tmp_path / "a.png"])[0])


def test_damage_is_not_told_again(rng, tmp_path, caplog):
    (tmp_path / "damaged.jpg").write_bytes(surely_damaged(picture(rng), rng))
    assert ShiftedCopies([tmp_path / "damaged.jpg"])[0].shape == (96, 120, 3)
    assert not caplog.records


def test_only_two_large_files_are_decoded_at_a_time(images, tmp_path, monkeypatch):
    paths = [tmp_path / f"{i}.png" for i in range(8)]
    for path, one in zip(paths, images, strict=False):
        Image.fromarray(one).save(path)
    for size, expected in ((0, 2), (1 << 30, 6)):
        monkeypatch.setattr(large_files, "_LARGE_FILE", size)
        slow = AtATime(load_image)
        monkeypatch.setattr(copying, "load_image", slow)
        copies = ShiftedCopies(paths)
        assert len(list(load_squares(copies, range(8), (16,), "nearest", n_threads=6))) == 8
        assert slow.most <= expected
        assert slow.most > 2 or size == 0


def test_copies_can_be_pickled(images):
    copies = ShiftedCopies(images[:2], 3)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(copies))[1], copies[1])


def test_a_wrong_seed_is_refused():
    with pytest.raises(InputError, match="seed must be an integer"):
        ShiftedCopies([], -1)
