"""Choosing C, and decisions for calibration, inside training images."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold

from medvlad import VLAD, Descriptors, GlobalPool, InputError, WideLinearSVC
from medvlad.datasets.folders import ImageFolder
from medvlad.encoders.recipe import Recipe
from medvlad.evaluation.calibration import calibrator
from medvlad.evaluation.cross_validation import held_out, inner_folds


def problem(rng, n=60, n_classes=2, noise=1.0):
    """Images of 9 descriptors whose mean tells the class, not too surely."""
    labels = np.arange(n) % n_classes
    means = np.eye(8)[labels] * 1.2
    x = means[:, None] + rng.normal(0, noise, (n, 9, 8)) + rng.normal(0, 0.4, (n, 1, 8))
    return Descriptors.from_array(x.astype(np.float32)), labels


class Recorder(BaseEstimator):
    """Pools by average, and writes down which images it was fitted on: the first number is the image's."""

    log: list = []  # noqa: RUF012

    def fit(self, X):
        Recorder.log.append({int(x[0, 0]) for x in X})
        return self

    def transform(self, X):
        return np.stack([x[:, 1:].mean(axis=0) for x in X])


def test_whatever_is_fitted_is_fitted_anew_in_each_inner_fold(rng):
    descriptors, labels = problem(rng)
    numbered = Descriptors.from_array(
        np.concatenate(
            [np.tile(np.arange(60.0)[:, None, None], (1, 9, 1)), descriptors.values.reshape(60, 9, 8)], 2
        )
    )
    patients = np.array([f"p{i // 3}" for i in range(60)])
    Recorder.log.clear()
    inner_folds(numbered, labels, patients, Recorder(), WideLinearSVC(), [0.1, 1.0], folds=4)
    assert len(Recorder.log) == 4
    seen_by = [set(range(60)) - seen for seen in Recorder.log]
    assert sorted(i for fold in seen_by for i in fold) == list(range(60))
    for fold in seen_by:
        assert not set(patients[sorted(fold)]) & set(patients[sorted(set(range(60)) - fold)])


def test_the_smallest_c_within_a_standard_error_of_the_best(rng):
    """Chosen from scores of each fold and C, found here one by one; neither the smallest nor the best C."""
    labels = np.repeat([0, 1], [70, 30])
    x = np.eye(8)[labels][:, None] * 0.8 + rng.normal(0, 1, (100, 9, 8)) + rng.normal(0, 0.4, (100, 1, 8))
    descriptors = Descriptors.from_array(x.astype(np.float32))
    penalties = [10.0, 1e-4, 0.3, 0.01, 0.03, 0.1, 1.0, 100.0]
    found = inner_folds(descriptors, labels, None, GlobalPool(), WideLinearSVC(), penalties, folds=5)
    scores = []
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(labels, labels):
        pool = GlobalPool().fit(descriptors.take(train))
        x, unseen = pool.transform(descriptors.take(train)), pool.transform(descriptors.take(test))
        decided = [WideLinearSVC(c).fit(x, labels[train]).predict(unseen) for c in sorted(penalties)]
        scores.append([balanced_accuracy_score(labels[test], one) for one in decided])
    means, error = np.mean(scores, axis=0), np.std(scores, axis=0, ddof=1) / np.sqrt(5)
    best = int(means.argmax())
    expected = int(np.flatnonzero(means >= means[best] - error[best])[0])
    assert 0 < expected < best, "a case that tells the rules apart"
    assert found.penalty == sorted(penalties)[expected]
    assert found.balanced_accuracy == pytest.approx(means[expected])
    alone = inner_folds(descriptors, labels, None, GlobalPool(), WideLinearSVC(), [found.penalty], folds=5)
    np.testing.assert_allclose(found.decision, alone.decision, atol=1e-8)


def test_decisions_are_of_classifiers_that_did_not_see_the_image(rng):
    """Labels without any meaning are decided at chance inside the folds, however many features there are."""
    descriptors = Descriptors.from_array(rng.normal(size=(80, 3, 400)).astype(np.float32))
    labels = rng.permutation(np.arange(80) % 2)
    found = inner_folds(descriptors, labels, None, GlobalPool(), WideLinearSVC(), [10.0])
    assert 0.2 < (found.decision.argmax(axis=1) == labels).mean() < 0.8
    seen = WideLinearSVC(10.0).fit(GlobalPool().fit_transform(descriptors), labels)
    assert seen.score(GlobalPool().fit_transform(descriptors), labels) == 1


def test_held_out_with_everything(rng):
    descriptors, labels = problem(rng, n=80)
    data = ImageFolder([f"{i}.png" for i in range(80)], labels, ["a", "b"])
    encoder = Recipe(descriptor_norm=True, power=0.5, reduce=4, whiten=True).encoder("vlad3")
    decided = held_out(
        descriptors, data, encoder, WideLinearSVC(), folds=4, penalties=(0.1, 1.0), calibration="platt"
    )
    assert len(decided.penalties) == len(decided.inner_balanced_accuracy) == len(decided.fitted) == 4
    assert set(decided.penalties) <= {0.1, 1.0}
    np.testing.assert_allclose(decided.probability.sum(axis=1), 1)
    for fold in decided.fitted:
        assert not set(fold.train) & set(fold.test)
        again = fold.classifier.decision_function(fold.encoder.transform(descriptors.take(fold.test)))
        rows = [int(np.flatnonzero(decided.tested == i)[0]) for i in fold.test]
        np.testing.assert_allclose(decided.decision[rows, 1], again)
    for fold, penalty in zip(decided.fitted, decided.penalties, strict=True):
        inner = inner_folds(
            descriptors.take(fold.train),
            labels[fold.train],
            None,
            encoder,
            WideLinearSVC(),
            (0.1, 1.0),
            folds=4,
        )
        assert inner.penalty == penalty
        rows = [int(np.flatnonzero(decided.tested == i)[0]) for i in fold.test]
        expected = calibrator("platt", inner.decision, labels[fold.train])(decided.decision[rows])
        np.testing.assert_allclose(decided.probability[rows], expected)
    plain = held_out(descriptors, data, encoder, WideLinearSVC(), folds=4)
    assert (plain.probability, plain.inner_balanced_accuracy) == (None, None)
    assert plain.penalties == [1.0] * 4


def test_patients_are_kept_together_inside_the_folds(rng, monkeypatch):
    descriptors, labels = problem(rng, n=80)
    patients = np.array([f"p{i // 4}" for i in range(80)])
    data = ImageFolder([f"{i}.png" for i in range(80)], labels, ["a", "b"], groups=patients)
    seen = []

    def spy(images, own_labels, groups, *rest, **settings):
        seen.append(groups)
        return inner_folds(images, own_labels, groups, *rest, **settings)

    monkeypatch.setattr("medvlad.evaluation.cross_validation.inner_folds", spy)
    decided = held_out(descriptors, data, GlobalPool(), WideLinearSVC(), folds=4, penalties=(0.1, 1.0))
    for groups, fold in zip(seen, decided.fitted, strict=True):
        np.testing.assert_array_equal(groups, patients[fold.train])


def test_mistakes(rng):
    descriptors, labels = problem(rng, n=12)
    with pytest.raises(InputError, match="no C to choose from"):
        inner_folds(descriptors, labels, None, GlobalPool(), WideLinearSVC(), [])
    alone = np.array(["one" if label else f"p{i}" for i, label in enumerate(labels)])
    with pytest.raises(InputError, match="two folds, and two training images"):
        inner_folds(descriptors, labels, alone, GlobalPool(), WideLinearSVC(), [1.0])
    with pytest.raises(InputError, match="reduce=50 is more than the number of training images"):
        inner_folds(descriptors, labels, None, Recipe(reduce=50).encoder("vlad2"), WideLinearSVC(), [1.0])
    with pytest.raises(InputError, match=r"reduce=9 is more than .* features of their vectors \(8\)"):
        Recipe(reduce=9).encoder("avg").fit(descriptors)


def test_a_codebook_that_saw_the_images_would_mislead(rng):
    """Why the codebook is fitted anew: with few images, residuals to centres made from them are shorter."""
    descriptors = Descriptors.from_array(rng.normal(size=(40, 6, 16)).astype(np.float32))
    seen, unseen = descriptors[:20], descriptors[20:]
    vlad = VLAD(48, l2_norm=False, random_state=0).fit(seen)
    lengths = [np.linalg.norm(vlad.transform(part), axis=1).mean() for part in (seen, unseen)]
    assert lengths[0] < 0.7 * lengths[1]
