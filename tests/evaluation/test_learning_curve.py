"""Learning curves: nested subsets by patient, and metrics that a larger subset improves."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.target_sets import target_set

from medvlad import VLAD, Descriptors, GlobalPool, InputError, WideLinearSVC
from medvlad.datasets.folders import ImageFolder
from medvlad.evaluation.cross_validation import held_out
from medvlad.evaluation.learning_curve import learning_curve, nested_subsets


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 15)), min_size=3, max_size=80), st.integers(0, 5))
def test_subsets_are_nested_whole_patients_with_every_class(pairs, seed):
    labels, patients = (np.array(one) for one in zip(*pairs, strict=True))
    labels = np.unique(labels, return_inverse=True)[1]
    subsets = nested_subsets(labels, patients, seed)
    assert subsets[-1].tolist() == list(range(len(labels)))
    for small, large in pairwise(subsets):
        assert set(small) <= set(large)
    for subset in subsets:
        inside = set(patients[subset])
        assert set(np.flatnonzero(np.isin(patients, list(inside)))) == set(subset)
        assert set(labels[subset]) == set(labels)


def test_subsets_halve_each_class():
    labels = np.repeat([0, 1], [64, 32])
    sizes = [np.bincount(labels[one]).tolist() for one in nested_subsets(labels, None, 0)]
    assert sizes == [[4, 2], [8, 4], [16, 8], [32, 16], [64, 32]]


def test_other_seeds_draw_other_patients():
    labels = np.repeat([0, 1], 32)
    first, second = (set(nested_subsets(labels, None, seed)[0].tolist()) for seed in (0, 1))
    assert first != second


def evaluated(rng, encoder, splits=True, n=160):
    labels = np.arange(n) % 2
    x = rng.normal(0, 1, (n, 4, 12)).astype(np.float32)
    x[..., 0] += labels[:, None] * 1.2
    part = np.array(["train", "test"])[(np.arange(n) >= n // 2).astype(int)] if splits else None
    data = ImageFolder([f"{i}.png" for i in range(n)], labels, ["a", "b"], splits=part)
    descriptors = Descriptors.from_array(x)
    return descriptors, data, held_out(descriptors, data, encoder, WideLinearSVC(), folds=4)


def test_the_last_point_is_the_evaluation_itself(rng):
    descriptors, data, decided = evaluated(rng, GlobalPool())
    points = learning_curve(descriptors, data, decided, n_repeats=2)
    accuracy = (decided.decision.argmax(1) == data.labels[decided.tested]).mean()
    assert [one["accuracy"] for one in points if one["n_images"] == 80] == [accuracy] * 2


def test_more_images_help(rng):
    descriptors, data, decided = evaluated(rng, GlobalPool(), n=400)
    points = learning_curve(descriptors, data, decided, n_repeats=3)
    mean = {n: np.mean([one["auc"] for one in points if one["n_images"] == n]) for n in (6, 200)}
    assert mean[200] > mean[6] + 0.03


def test_the_share_counts_from_all_images(rng):
    descriptors, data, decided = evaluated(rng, GlobalPool())
    points = learning_curve(descriptors, data, decided, n_repeats=2)
    found = {one["share"]: one["n_images"] for one in points}
    assert found == {1.0: 80, 0.5: 40, 0.25: 20, 0.125: 10, 0.0625: 4}


def test_without_a_test_part_repetitions_use_the_folds(rng):
    descriptors, data, decided = evaluated(rng, GlobalPool(), splits=False, n=80)
    points = learning_curve(descriptors, data, decided, n_repeats=4)
    right = decided.decision.argmax(1) == data.labels[decided.tested]
    own = [right[np.isin(decided.tested, fold.test)].mean() for fold in decided.fitted]
    assert [one["accuracy"] for one in points if one["n_images"] == 60] == pytest.approx(own)


def test_the_codebook_is_fitted_on_each_subset(rng, monkeypatch):
    seen = []
    fit = VLAD.fit
    descriptors, data, decided = evaluated(rng, VLAD(2, random_state=0))
    monkeypatch.setattr(VLAD, "fit", lambda self, x, y=None: seen.append(len(x)) or fit(self, x, y))
    learning_curve(descriptors, data, decided, n_repeats=1)
    assert seen == [4, 10, 20, 40, 80]


def test_the_fitted_encoders_of_the_evaluation_stay_as_they_are(rng):
    descriptors, data, decided = evaluated(rng, VLAD(2, random_state=7))
    before = decided.fitted[0].encoder.cluster_centers_.copy()
    learning_curve(descriptors, data, decided, n_repeats=1)
    assert decided.fitted[0].encoder.random_state == 7
    np.testing.assert_array_equal(decided.fitted[0].encoder.cluster_centers_, before)


def test_several_labels_are_refused():
    data, descriptors = target_set("labels")
    with pytest.raises(InputError, match="needs one class an image"):
        learning_curve(descriptors, data, None)
