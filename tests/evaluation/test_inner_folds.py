"""Choice of C and held-out decision values inside the training images."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold

from medvlad import Descriptors, GlobalPool, InputError, WideLinearSVC
from medvlad.encoders.recipe import Recipe
from medvlad.evaluation.cross_validation import inner_folds

PENALTIES = [10.0, 1e-4, 0.3, 0.01, 0.03, 0.1, 1.0, 100.0]


@pytest.fixture
def unequal(rng):
    """Descriptors and labels of 70 and 30 images of two overlapping classes."""
    labels = np.repeat([0, 1], [70, 30])
    x = np.eye(8)[labels][:, None] * 0.8 + rng.normal(0, 1, (100, 9, 8)) + rng.normal(0, 0.4, (100, 1, 8))
    return Descriptors.from_array(x.astype(np.float32)), labels


def test_the_smallest_c_within_a_standard_error_of_the_best_is_chosen(unequal):
    """Compare with scores of each fold and C, found one by one."""
    descriptors, labels = unequal
    found = inner_folds(descriptors, labels, None, GlobalPool(), WideLinearSVC(), PENALTIES, folds=5)
    scores = []
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(labels, labels):
        pool = GlobalPool().fit(descriptors.take(train))
        x, unseen = pool.transform(descriptors.take(train)), pool.transform(descriptors.take(test))
        decided = [WideLinearSVC(c).fit(x, labels[train]).predict(unseen) for c in sorted(PENALTIES)]
        scores.append([balanced_accuracy_score(labels[test], one) for one in decided])
    means, error = np.mean(scores, axis=0), np.std(scores, axis=0, ddof=1) / np.sqrt(5)
    best = int(means.argmax())
    expected = int(np.flatnonzero(means >= means[best] - error[best])[0])
    assert 0 < expected < best, "the case must tell the rule from the smallest and from the best C"
    assert found.penalty == sorted(PENALTIES)[expected]
    assert found.mean_score == pytest.approx(means[expected])


def test_decisions_are_those_of_the_chosen_c(unequal):
    descriptors, labels = unequal
    found = inner_folds(descriptors, labels, None, GlobalPool(), WideLinearSVC(), PENALTIES, folds=5)
    alone = inner_folds(descriptors, labels, None, GlobalPool(), WideLinearSVC(), [found.penalty], folds=5)
    np.testing.assert_allclose(found.decision, alone.decision, atol=1e-8)


def test_labels_without_meaning_are_decided_at_chance(rng):
    """The decisions are held-out, so this is true even with more features than images."""
    descriptors = Descriptors.from_array(rng.normal(size=(80, 3, 400)).astype(np.float32))
    labels = rng.permutation(np.arange(80) % 2)
    found = inner_folds(descriptors, labels, None, GlobalPool(), WideLinearSVC(), [10.0])
    assert 0.2 < (found.decision.argmax(axis=1) == labels).mean() < 0.8
    seen = WideLinearSVC(10.0).fit(GlobalPool().fit_transform(descriptors), labels)
    assert seen.score(GlobalPool().fit_transform(descriptors), labels) == 1


@pytest.fixture
def few(rng):
    """Descriptors and labels of twelve images."""
    return Descriptors.from_array(rng.normal(size=(12, 9, 8)).astype(np.float32)), np.arange(12) % 2


def test_without_a_c_to_choose_from_it_is_refused(few):
    with pytest.raises(InputError, match="no C to choose from"):
        inner_folds(*few, None, GlobalPool(), WideLinearSVC(), [])


def test_one_patient_of_a_class_is_refused(few):
    descriptors, labels = few
    alone = np.array(["one" if label else f"p{i}" for i, label in enumerate(labels)])
    with pytest.raises(InputError, match=r"need at least 2 training patients of each class.*: add patients"):
        inner_folds(descriptors, labels, alone, GlobalPool(), WideLinearSVC(), [1.0])


def test_a_pca_that_is_too_wide_for_a_fold_is_refused(few):
    with pytest.raises(InputError, match="reduce=50 is more than the number of training images"):
        inner_folds(*few, None, Recipe(reduce=50).encoder("vlad2"), WideLinearSVC(), [1.0])


def test_a_pca_that_is_wider_than_the_vectors_is_refused(few):
    with pytest.raises(InputError, match=r"reduce=9 is more than .* features of their vectors \(8\)"):
        Recipe(reduce=9).encoder("avg").fit(few[0])
