"""Pairs of thumbnails that show nearly the same picture."""

import logging

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medvlad.audit import near_pairs as audit_near_pairs
from medvlad.audit.near_pairs import near_pairs
from medvlad.images.resize import resize_square


def thumbnails(rng, n, sigma=1.0):
    return gaussian_filter(rng.normal(128, 60, (n, 32, 32)), (0, sigma, sigma)).astype(np.float32)


PLANTED = {(0, 1): False, (5, 2199): False, (1023, 1024): False, (1500, 2100): True, (7, 1030): True}


@pytest.fixture(scope="module")
def across_blocks():
    """Thumbnails of three blocks with planted pairs (True: mirrored)."""
    rng = np.random.default_rng(20261122)
    thumbs = thumbnails(rng, 2200)
    for (i, j), mirrored in PLANTED.items():
        thumbs[j] = 0.7 * (thumbs[i, :, ::-1] if mirrored else thumbs[i]) + 30
        thumbs[j] += rng.normal(0, 1, (32, 32))
    return thumbs, near_pairs(thumbs, n_threads=3)


def test_near_pairs_are_found_within_and_across_blocks(across_blocks):
    pairs, mirrored, correlation, complete = across_blocks[1]
    assert dict(zip(map(tuple, pairs.tolist()), mirrored.tolist(), strict=True)) == PLANTED
    assert complete
    assert (correlation > 0.95).all()


def test_near_pairs_do_not_depend_on_the_number_of_threads(across_blocks):
    thumbs, found = across_blocks
    for one, other in zip(found[:3], near_pairs(thumbs, n_threads=1)[:3], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_mask_turns_a_hash_into_that_of_the_mirror_image(rng):
    thumbs = thumbnails(rng, 20)
    hashes = audit_near_pairs._hashes(thumbs)
    mirrored = audit_near_pairs._hashes(np.ascontiguousarray(thumbs[:, :, ::-1]))
    np.testing.assert_array_equal(hashes ^ audit_near_pairs._mirror_mask(), mirrored)
    assert (hashes != mirrored).any(axis=1).all()


def test_brightness_and_contrast_do_not_change_a_hash(rng):
    thumbs = thumbnails(rng, 20)
    hashes = audit_near_pairs._hashes(thumbs)
    np.testing.assert_array_equal(audit_near_pairs._hashes(0.5 * thumbs + 40), hashes)


def test_a_symmetric_image_is_one_pair(rng):
    thumbs = thumbnails(rng, 3)
    thumbs[0] += thumbs[0, :, ::-1]
    thumbs[2] = thumbs[0]
    pairs, mirrored, _, _ = near_pairs(thumbs)
    assert pairs.tolist() == [[0, 2]]
    assert mirrored.tolist() == [False]


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_images_that_look_alike_are_no_copies(rng, share):
    """A common subject makes up that share of the variance of each picture."""
    thumbs = np.sqrt(share) * thumbnails(rng, 1) + np.sqrt(1 - share) * thumbnails(rng, 100)
    assert len(near_pairs(thumbs)[0]) == 0


def test_images_without_detail_are_no_copies(rng):
    ramp = np.linspace(0, 200, 32, dtype=np.float32)
    thumbs = np.stack([np.tile(ramp, (32, 1)), np.tile(ramp, (32, 1)) * 0.5, np.zeros((32, 32), np.float32)])
    assert len(near_pairs(thumbs)[0]) == 0


@pytest.fixture
def alike(rng):
    """Twelve thumbnails that are all nearly the same: 66 pairs."""
    return np.repeat(thumbnails(rng, 1), 12, axis=0) + rng.normal(0, 0.5, (12, 32, 32)).astype(np.float32)


def test_all_pairs_of_similar_images_are_found(alike):
    pairs, _, _, complete = near_pairs(alike)
    assert (len(pairs), complete) == (66, True)


def test_pairs_of_one_image_are_limited_and_a_warning_says_so(alike, monkeypatch, caplog):
    monkeypatch.setattr(audit_near_pairs, "_PER_IMAGE", 2)
    with caplog.at_level(logging.WARNING):
        pairs, _, _, complete = near_pairs(alike)
    assert (len(pairs), complete) == (21, False)
    assert "not all near duplicates are listed" in caplog.text
    assert len(set(pairs.ravel().tolist())) == 12  # still connected


def test_candidates_are_limited(alike, monkeypatch):
    monkeypatch.setattr(audit_near_pairs, "_PER_IMAGE", 2)
    monkeypatch.setattr(audit_near_pairs, "_MAX_CANDIDATES", 5)
    pairs, _, _, complete = near_pairs(alike)
    assert (len(pairs), complete) == (5, False)


def cut_thumbnails(rng, n, cut):
    """Return thumbnails of pictures with the spectrum of photographs, and of copies that `cut` makes."""
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256))
    frequency[0, 0] = 1
    noise = rng.normal(size=(n, 256, 256))
    pictures = np.fft.irfft2(np.fft.rfft2(noise) * frequency**-1.3)
    pictures = 128 + 50 * pictures / pictures.std(axis=(1, 2), keepdims=True)
    pictures = np.clip(pictures, 0, 255).astype(np.uint8)

    def small(picture):
        return resize_square(np.repeat(picture[..., None], 3, axis=2), 32)[..., 0].astype(np.float32)

    copies = []
    for picture in pictures:
        left, right, top, bottom = (np.asarray(cut(rng)) * 256).round().astype(int)
        copies.append(small(picture[top : 256 - bottom, left : 256 - right]))
    return np.concatenate([np.stack([small(picture) for picture in pictures]), np.stack(copies)])


@pytest.mark.parametrize(
    ("cut", "least"),
    [
        (lambda rng: [0.03] * 4, 0.99),
        (lambda rng: rng.uniform(0, 0.03, 4), 0.99),
        (lambda rng: rng.permutation([0.03, 0, 0, 0]), 0.99),
        (lambda rng: [0.03, 0, 0.03, 0], 0.97),
    ],
    ids=["all sides", "at random", "one side", "two sides"],
)
def test_copies_with_3_percent_cut_off_are_found(rng, cut, least):
    n = 150
    thumbs = cut_thumbnails(rng, n, cut)
    pairs = set(map(tuple, near_pairs(thumbs, n_threads=2)[0].tolist()))
    copies = {(i, i + n) for i in range(n)}
    assert len(pairs & copies) >= least * n
    assert not pairs - copies
