"""The test for images that are unlike the training images."""

import numpy as np
import pytest
from conftest import DATA, VGG16_WEIGHTS
from hypothesis import given
from hypothesis import strategies as st

from medvlad import CNNDescriptors, Descriptors, GlobalPool, InputError, WideLinearSVC, load_image_folder
from medvlad.decisions import mean_descriptors
from medvlad.decisions.novelty import Novelty, make_references, novelty_of
from medvlad.evaluation.calibrated_training import train_classifier


def unit(rng, n, center):
    rows = rng.normal(center, 0.3, (n, 8))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_novelty_is_the_mean_distance_to_the_five_nearest():
    references = np.arange(8, dtype=np.float32)[:, None]
    np.testing.assert_allclose(novelty_of(references, np.array([[0.0], [10.0]])), [2.0, 5.0])
    np.testing.assert_allclose(novelty_of(references[:2], np.array([[3.0]])), [2.5])


def test_a_p_value_counts_held_out_images_that_are_at_least_as_novel():
    test = Novelty(np.zeros((1, 1), np.float32), np.array([1.0, 2.0, 2.0, 3.0]))
    np.testing.assert_allclose(test.p_values(np.array([[0.0], [2.0], [2.5], [9.0]])), [1, 0.8, 0.4, 0.2])


def test_references_are_a_subsample_in_their_order(rng):
    vectors = np.arange(50, dtype=np.float64)[:, None]
    kept = make_references(vectors, n_references=9, random_state=1)
    assert kept.dtype == np.float32
    assert (np.diff(kept[:, 0]) > 0).all()
    assert len(kept) == 9


@given(st.integers(1, 40), st.integers(0, 30))
def test_p_values_are_above_0_and_at_most_1(n_held_out, seed):
    rng = np.random.default_rng(seed)
    test = Novelty(rng.normal(size=(6, 3)).astype(np.float32), np.sort(rng.random(n_held_out)))
    found = test.p_values(rng.normal(size=(5, 3)) * 10)
    assert ((found > 0) & (found <= 1)).all()


def test_mean_descriptors_are_those_of_average_pooling(rng):
    images = Descriptors.from_list([rng.random((n, 4), dtype=np.float32) for n in (3, 0, 5)])
    np.testing.assert_array_equal(mean_descriptors(images), GlobalPool().fit_transform(images))


def test_vectors_of_another_width_are_refused():
    with pytest.raises(InputError, match=r"mean descriptors of shape \(n, 3\), got \(2, 4\)"):
        Novelty(np.zeros((1, 3), np.float32), np.zeros(1)).p_values(np.zeros((2, 4)))


def test_foreign_images_are_flagged_and_usual_ones_are_not():
    """Foreign images are flagged at 95 % or more, new images like the training images at 5 %."""
    rng = np.random.default_rng(0)
    false_alarms, found = [], []
    for _ in range(40):
        rows, new, foreign = unit(rng, 150, 1.0), unit(rng, 150, 1.0), unit(rng, 50, [3.0] + [0.0] * 7)
        held_out = np.concatenate(
            [novelty_of(np.delete(rows, part, axis=0), rows[part]) for part in np.split(np.arange(150), 5)]
        )
        test = Novelty(make_references(rows, n_references=120), np.sort(held_out))
        false_alarms.append((test.p_values(new) < 0.05).mean())
        found.append((test.p_values(foreign) < 0.05).mean())
    assert np.mean(false_alarms) < 0.06
    assert np.mean(found) >= 0.95


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not VGG16_WEIGHTS.exists(), reason="needs the real images and weights of MEDVLAD_DATA")
def test_rooms_among_x_rays_are_flagged():
    """Of planted photographs at least 95 % are flagged, and fewer than 6 % of X-rays that were held out."""
    chest = load_image_folder(DATA / "chest_xray_224")
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(chest.splits == "test")
    _, first = np.unique(chest.groups[rows], return_index=True)  # one image of a patient
    chest = chest.take(np.sort(rng.permutation(np.sort(rows[first]))[:240]))
    rooms = load_image_folder(DATA / "rooms_dev", split="test")
    network = CNNDescriptors("vgg16", weights=str(VGG16_WEIGHTS))
    x, foreign = network.transform(chest.paths), network.transform(rooms.paths)

    def trained(rows):
        given = x.take(rows), chest.labels[rows], chest.groups[rows]
        return train_classifier(*given, {"avg": GlobalPool()}, WideLinearSVC())[1]

    classifier = trained(np.arange(240))
    assert (classifier.novelty_p(mean_descriptors(foreign)) < 0.05).mean() >= 0.95
    false_alarms = []
    for _ in range(20):
        outside = np.zeros(240, bool)
        outside[rng.choice(240, 60, replace=False)] = True
        new, known = np.flatnonzero(outside), np.flatnonzero(~outside)
        false_alarms.append((trained(known).novelty_p(mean_descriptors(x.take(new))) < 0.05).mean())
    assert np.mean(false_alarms) < 0.06
