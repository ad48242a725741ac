"""Pairs of images of one scene: candidates by descriptors, and alignment of pixels."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, rotate
from support.clean_sets import most_found, number_of_sets

from medvlad.audit.alignment import SAME_SCENE, align_pairs, details
from medvlad.audit.descriptor_pairs import UNCERTAIN, nearest_pairs, scene_pairs, window_means
from medvlad.audit.images import FINE_SIDE
from medvlad.descriptors.ragged import Descriptors
from medvlad.images.resize import resize_square
from medvlad.store.store import DescriptorStore
from medvlad.store.stored_descriptors import StoredDescriptors

SIDE = 192


def textures(rng, n, *, common=0.0):
    """Return pictures with the spectrum of photographs. `common` is the share of variance that all have."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    frequency[0, 0] = 1
    noise = np.sqrt(1 - common) * rng.normal(size=(n, SIDE, SIDE))
    noise += np.sqrt(common) * rng.normal(size=(SIDE, SIDE))
    pictures = np.fft.irfft2(np.fft.rfft2(noise) * frequency**-1.2)
    return 128 + 45 * pictures / pictures.std(axis=(1, 2), keepdims=True)


def small(picture):
    grey = np.clip(picture, 0, 255).astype(np.uint8)
    return resize_square(np.repeat(grey[..., None], 3, axis=2), FINE_SIDE, "box")[..., 0]


def cut(picture, rng, most=0.15):
    left, right, top, bottom = (rng.uniform(0, most, 4) * SIDE).round().astype(int)
    return picture[top : SIDE - bottom, left : SIDE - right]


def turned(picture, rng):
    moved = rotate(picture, rng.uniform(-4, 4), reshape=False, mode="reflect")
    return moved[12:-12, 12:-12] + rng.normal(0, 4, (SIDE - 24, SIDE - 24))


CHANGES = {
    "cut": cut,
    "mirrored": lambda picture, rng: cut(picture, rng, 0.05)[:, ::-1],
    "gamma": lambda picture, rng: 255 * (np.clip(picture, 0, 255) / 255) ** rng.uniform(0.6, 1.6),
    "turned": turned,
    "blurred": lambda picture, rng: gaussian_filter(picture, 1.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_align(rng, change):
    pictures = textures(rng, 40)
    copies = [CHANGES[change](picture, rng) for picture in pictures]
    thumbs = np.stack([small(one) for one in [*pictures, *copies]])
    pairs = np.column_stack([np.arange(40), np.arange(40, 80)])
    correlation, mirrored = align_pairs(details(thumbs), pairs, n_threads=2)
    assert (correlation >= SAME_SCENE).mean() >= 0.97
    assert (mirrored == (change == "mirrored")).mean() >= 0.97


@pytest.mark.parametrize("common", [0.0, 0.3, 0.5])
def test_different_pictures_with_common_anatomy_do_not_align(rng, common):
    thumbs = np.stack([small(one) for one in textures(rng, 30, common=common)])
    correlation, _ = align_pairs(details(thumbs), np.column_stack(np.triu_indices(30, 1)), n_threads=2)
    assert correlation.max() < SAME_SCENE


def test_the_number_of_threads_changes_no_alignment(rng):
    thumbs = np.stack([small(one) for one in textures(rng, 14, common=0.6)])
    pairs = np.column_stack(np.triu_indices(14, 1))
    one, three = (align_pairs(details(thumbs), pairs, n_threads=n) for n in (1, 3))
    np.testing.assert_array_equal(one[0], three[0])


def test_flat_pictures_do_not_align():
    thumbs = np.full((2, FINE_SIDE, FINE_SIDE), 90, np.uint8)
    assert align_pairs(details(thumbs), np.array([[0, 1]]))[0].tolist() == [0.0]


def test_no_pairs_give_no_correlations():
    thumbs = np.full((2, FINE_SIDE, FINE_SIDE), 90, np.uint8)
    assert len(align_pairs(details(thumbs), np.empty((0, 2), np.intp))[0]) == 0


def test_nearest_pairs_are_those_of_all_cosines(rng, monkeypatch):
    monkeypatch.setattr("medvlad.audit.descriptor_pairs._BLOCK", 7)
    x = rng.normal(size=(40, 6)).astype(np.float32)
    changes = rng.normal(size=(50, 6)).astype(np.float32)
    total = np.cov(x.astype(np.float64).T, bias=True)
    within = changes.astype(np.float64).T @ changes / 50 + 0.01 * total
    values, axes = np.linalg.eig(np.linalg.inv(within) @ total)
    assert (values > 0).all()
    axes /= np.sqrt(np.einsum("ik,ij,jk->k", axes, within, axes))
    unit = (x - x.mean(axis=0)) @ axes
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    nearest = np.argsort(-cosine, axis=1)[:, :3]
    expected = {tuple(sorted((i, int(j)))) for i in range(40) for j in nearest[i]}
    assert set(map(tuple, nearest_pairs((x,), (changes,), 3).tolist())) == expected


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_images_have_no_pairs(n):
    ones = np.ones((n, 4), np.float32)
    assert nearest_pairs((ones,), (ones,)).shape == (0, 2)


def test_equal_vectors_have_pairs():
    ones = np.ones((3, 4), np.float32)
    assert len(nearest_pairs((ones,), (0 * ones,))) == 3


def test_the_centre_counts_as_much_as_the_whole(rng):
    """Images 0 and 1 have the same centre only, images 2 and 3 the same whole only."""
    whole, centre = rng.normal(size=(2, 60, 15)).astype(np.float32)
    centre[1], whole[3] = centre[0], whole[2]
    changes = rng.normal(size=(2, 60, 15)).astype(np.float32)
    pairs = set(map(tuple, nearest_pairs((whole, centre), changes, 3).tolist()))
    assert {(0, 1), (2, 3)} <= pairs


def test_vectors_wider_than_the_number_of_copies_have_pairs(rng):
    """Their covariances have a rank of 5. Computed in float32, they had negative eigenvalues."""
    directions = rng.normal(size=(5, 1280))
    x = (rng.normal(size=(40, 5)) @ directions).astype(np.float32)
    changes = (rng.normal(size=(300, 5)) @ directions).astype(np.float32)
    x[1] = x[0]
    pairs = nearest_pairs((x,), (changes,), 3)
    assert (0, 1) in set(map(tuple, pairs.tolist()))


def test_what_copies_change_does_not_separate_them(rng):
    """Copies differ along two axes, in which images differ far more than in the others."""
    spread = np.array([20.0, 20.0, 1, 1, 1, 1])
    x = (rng.normal(size=(200, 6)) * spread).astype(np.float32)
    changes = rng.normal(size=(300, 6)) * [20, 20, 0.1, 0.1, 0.1, 0.1]
    x[100:] = x[:100] + changes[:100]
    own = {(i, i + 100) for i in range(100)}
    known, unknown = changes[100:].astype(np.float32), np.zeros((200, 6), np.float32)
    assert own <= set(map(tuple, nearest_pairs((x,), (known,), 3).tolist()))
    assert not own <= set(map(tuple, nearest_pairs((x,), (unknown,), 3).tolist()))


@pytest.mark.parametrize("stored", [False, True])
def test_means_of_the_whole_map_and_of_its_parts(rng, tmp_path, stored):
    x = rng.integers(-8, 8, (5, 8 * 8 + 4 * 5, 3)).astype(np.float32)
    images = Descriptors.from_array(x)
    if stored:
        section = DescriptorStore(tmp_path).section({"a": 1})
        with section.writer() as writer:
            for i, one in enumerate(x):
                writer.add(f"key {i}", one)
        images = StoredDescriptors(section, [f"key {i}" for i in range(5)])
    whole, large, centre, small_part = window_means(images, [(8, 8), (4, 5)])
    first, second = x[:, :64].reshape(5, 8, 8, 3), x[:, 64:].reshape(5, 4, 5, 3)
    central = np.concatenate([first[:, 2:6, 2:6].reshape(5, -1, 3), second[:, 1:3, 1:4].reshape(5, -1, 3)], 1)
    np.testing.assert_allclose(whole, x.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(centre, central.mean(axis=1), rtol=1e-6)
    most = np.concatenate([first[:, 1:7, 1:7].reshape(5, -1, 3), second.reshape(5, -1, 3)], axis=1)
    np.testing.assert_allclose(large, most.mean(axis=1), rtol=1e-6)
    least = np.concatenate([first[:, 3:5, 3:5].reshape(5, -1, 3), second[:, 1:3, 2:3].reshape(5, -1, 3)], 1)
    np.testing.assert_allclose(small_part, least.mean(axis=1), rtol=1e-6)


def test_a_map_of_one_place_has_all_parts(rng):
    x = rng.normal(size=(3, 1, 5)).astype(np.float32)
    for mean in window_means(Descriptors.from_array(x), [(1, 1)]):
        np.testing.assert_array_equal(mean, x[:, 0])


def test_planted_pairs_are_found_and_sorted(rng):
    pictures = textures(rng, 60)
    pictures[41] = 0.8 * pictures[7][:, ::-1] + 10
    pictures[50] = gaussian_filter(pictures[3], 2)
    x = rng.normal(size=(60, 32)).astype(np.float32)
    x[41], x[50] = x[7] + 0.1, x[3] + 0.1
    changes = 0.1 * rng.normal(size=(300, 32)).astype(np.float32)
    found = scene_pairs((x,), (changes,), np.stack([small(one) for one in pictures]), n_threads=2)
    same = found.same()
    assert sorted(map(tuple, same.pairs.tolist())) == [(3, 50), (7, 41)]
    assert same.mirrored[same.pairs[:, 0] == 7].all()
    assert (np.diff(found.correlation) <= 0).all()
    assert ((found.uncertain().correlation >= UNCERTAIN) & (found.uncertain().correlation < SAME_SCENE)).all()


@pytest.mark.slow
@pytest.mark.parametrize("common", [0.0, 0.4])
def test_clean_sets_have_no_pairs_of_one_scene(common):
    """The level is one false pair in 1,000 images."""
    n_sets, n_images, n_found = number_of_sets(200), 24, 0
    for seed in range(n_sets):
        rng = np.random.default_rng([int(10 * common), seed])
        thumbs = np.stack([small(one) for one in textures(rng, n_images, common=common)])
        x = rng.normal(size=(n_images, 32)).astype(np.float32)
        changes = rng.normal(size=(100, 32)).astype(np.float32)
        n_found += len(scene_pairs((x,), (changes,), thumbs, n_threads=2).same().pairs)
    print(n_found)  # noqa: T201, for the table in docs/howto/audit.md
    assert n_found <= most_found(n_sets * n_images, 0.001)
