"""What altered copies change in mean descriptors."""

import numpy as np
import pytest
from PIL import Image
from support.colour_profiles import WIDE

from medvlad.audit import changes
from medvlad.audit.changes import changes_of_copies
from medvlad.audit.descriptor_pairs import window_means
from medvlad.descriptors.ragged import Descriptors
from medvlad.images.altered_copies import altered_copy
from medvlad.images.read import load_image


class MeanColours:
    """A network whose map has one place: the mean colour."""

    grids_ = ((1, 1),)

    def __init__(self, colour_profile="ignore"):
        self.colour_profile = colour_profile

    def transform(self, images):
        colours = [np.asarray(images[i], np.float32).mean(axis=(0, 1)) for i in range(len(images))]
        return Descriptors.from_array(np.stack(colours)[:, None])


@pytest.mark.parametrize(("n", "expected"), [(3, 30), (40, 320), (299, 598), (300, 300), (450, 400)])
def test_number_of_copies(rng, monkeypatch, n, expected):
    monkeypatch.setattr(changes, "_MOST", 400)
    images = list(rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8))
    network = MeanColours()
    means = window_means(network.transform(images), network.grids_)
    found = changes_of_copies(network, images, means, 0)
    assert [one.shape for one in found] == [(expected, 3)] * len(means)


def test_the_largest_seed_has_further_ones(rng):
    images = list(rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8))
    network = MeanColours()
    means = window_means(network.transform(images), network.grids_)
    (last, *_), (first, *_) = (changes_of_copies(network, images, means, seed) for seed in (2**32 - 1, 0))
    np.testing.assert_array_equal(last[3:], first[:-3])


def test_copies_have_the_colour_profile_of_the_network(rng, tmp_path):
    pixels = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    for i in range(3):
        Image.fromarray(pixels[i]).save(tmp_path / f"{i}.png", icc_profile=WIDE)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    network = MeanColours("srgb")
    converted = [load_image(path, colour_profile="srgb") for path in paths]
    means = window_means(network.transform(converted), network.grids_)
    for a, b in zip(*(changes_of_copies(network, one, means, 0) for one in (paths, converted)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_changes_are_copies_minus_their_images(rng):
    images = list(rng.integers(0, 256, (300, 8, 8, 3), dtype=np.uint8))
    network = MeanColours()
    means = window_means(network.transform(images), network.grids_)
    colours = np.stack([altered_copy(one, 7).mean(axis=(0, 1)) - one.mean(axis=(0, 1)) for one in images])
    for found in changes_of_copies(network, images, means, 7):
        np.testing.assert_allclose(found, colours, rtol=0, atol=1e-3)
