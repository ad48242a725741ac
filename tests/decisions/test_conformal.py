"""Prediction sets hold the true class as often as they say."""

import numpy as np
import pytest
from conftest import DATA, VGG16_WEIGHTS
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medvlad import CNNDescriptors, GlobalPool, InputError, WideLinearSVC, load_image_folder
from medvlad.decisions import mean_descriptors
from medvlad.decisions.conformal import class_margins, conformal_p_values, prediction_sets
from medvlad.decisions.row_folds import held_out_rows
from medvlad.evaluation.cross_validation import inner_folds
from medvlad.svm.decision import decision_columns

DECISIONS = arrays(np.float64, (12, 3), elements=st.floats(-4, 4).map(lambda value: round(value, 1)))


def test_a_margin_is_the_lead_over_the_best_other_class():
    margins = class_margins(np.array([[3.0, 1.0, -2.0], [1.0, 1.0, 0.0]]))
    np.testing.assert_array_equal(margins, [[2.0, -2.0, -5.0], [0.0, 0.0, -1.0]])


def test_p_values_count_held_out_images_of_the_class_that_fit_no_better():
    held_out = np.array([[-1.0, 1.0], [-2.0, 2.0], [-3.0, 3.0], [5.0, -5.0]])
    found = conformal_p_values(held_out, np.array([1, 1, 1, 0]), np.array([[-2.0, 2.0], [0.5, -0.5]]))
    # Margins of class 1 are 2, 4, 6, and that of class 0 is 10. The new margins of class 1 are 4 and -1.
    np.testing.assert_allclose(found, [[1 / 2, 3 / 4], [1 / 2, 1 / 4]])


@pytest.mark.parametrize("n_classes", [2, 3])
def test_each_class_is_covered_as_often_as_wanted(n_classes):
    """Over 200 resamples the coverage of each class is within two standard errors of 0.9.

    With 199 held-out images of a class, 0.9 is met exactly: 20 of 200 ranks are left out.
    """
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(n_classes), 199)
    covered = np.empty((200, n_classes))
    for resample in range(200):
        known, new = (rng.normal(0, 1, (len(labels), n_classes)) for _ in range(2))
        for values in (known, new):
            values[np.arange(len(labels)), labels] += 1.0 + 0.5 * labels  # classes of unequal difficulty
        sets = prediction_sets(conformal_p_values(known, labels, new), 0.9)
        covered[resample] = [sets[labels == k, k].mean() for k in range(n_classes)]
    error = covered.std(axis=0, ddof=1) / np.sqrt(200)
    assert (np.abs(covered.mean(axis=0) - 0.9) <= 2 * error).all()


@given(DECISIONS, DECISIONS)
def test_a_set_of_higher_coverage_holds_that_of_lower_coverage(known, new):
    p_values = conformal_p_values(known, np.arange(12) % 3, new)
    narrow, wide = prediction_sets(p_values, 0.5), prediction_sets(p_values, 0.7)
    assert (wide | ~narrow).all()


@given(DECISIONS, st.integers(0, 11))
def test_an_image_that_fits_as_well_as_the_best_held_out_one_is_in_the_set_of_its_class(known, row):
    labels = np.arange(12) % 3
    best = known[labels == 0][class_margins(known)[labels == 0, 0].argmax()]
    assert conformal_p_values(known, labels, best[None])[0, 0] == 1


def test_a_class_with_too_few_held_out_images_is_in_every_set():
    held_out = np.array([[9.0, -9.0]] * 8 + [[-9.0, 9.0]] * 20)
    labels = np.array([0] * 8 + [1] * 20)
    sets = prediction_sets(conformal_p_values(held_out, labels, np.array([[-99.0, 99.0]])), 0.9)
    np.testing.assert_array_equal(sets, [[True, True]])


@pytest.mark.parametrize("coverage", [0, 1, -0.5, 90, float("nan"), "0.9", True])
def test_a_coverage_out_of_range_is_refused(coverage):
    with pytest.raises(InputError, match="coverage must"):
        prediction_sets(np.ones((1, 2)), coverage)


@pytest.fixture(scope="module")
def rooms():
    """Descriptors and classes of the rooms."""
    data = load_image_folder(DATA / "rooms_dev")
    return CNNDescriptors("vgg16", weights=str(VGG16_WEIGHTS)).transform(data.paths), data.labels


def coverage(labels, n_known, sets_of):
    """Mean coverage of each class, and its standard error, over 200 random choices of known images."""
    rng = np.random.default_rng(0)
    covered = np.empty((200, 3))
    for resample in range(200):
        known = np.zeros(len(labels), bool)
        for k in range(3):
            known[rng.choice(np.flatnonzero(labels == k), n_known, replace=False)] = True
        sets = sets_of(known, resample)
        covered[resample] = [sets[labels[~known] == k, k].mean() for k in range(3)]
    return covered.mean(axis=0), covered.std(axis=0, ddof=1) / np.sqrt(200)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not VGG16_WEIGHTS.exists(), reason="needs the real images and weights of MEDVLAD_DATA")
def test_held_out_scores_of_real_images_are_covered_as_often_as_wanted(rooms):
    """Over 200 random halves of the held-out scores, each class is covered within two standard errors.

    With 40 images of a class the nearest coverage above 0.9 is 37 / 41.
    """
    x, labels = rooms
    decision = inner_folds(x, labels, None, GlobalPool(), WideLinearSVC(), [1.0]).decision

    def sets_of(known, resample):
        return prediction_sets(conformal_p_values(decision[known], labels[known], decision[~known]), 0.9)

    mean, error = coverage(labels, 40, sets_of)
    assert (np.abs(mean - 37 / 41) <= 2 * error).all()


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not VGG16_WEIGHTS.exists(), reason="needs the real images and weights of MEDVLAD_DATA")
def test_new_images_are_covered_as_often_as_wanted_and_hardly_more(rooms):
    """Over 200 classifiers, no class is below 0.9, or above 0.92, by more than two standard errors.

    With 59 training images of a class, 0.9 is a whole rank. What is above it comes from the classifiers of
    the folds, which had fewer images.
    """
    x, labels = mean_descriptors(rooms[0]), rooms[1]

    def sets_of(known, resample):
        svm = WideLinearSVC().fit(x[known], labels[known])
        held_out, _, _ = held_out_rows(svm, x[known], labels[known], None, folds=5, random_state=resample)
        new = decision_columns(svm.decision_function(x[~known]))
        return prediction_sets(conformal_p_values(held_out, labels[known], new), 0.9)

    mean, error = coverage(labels, 59, sets_of)
    assert (mean >= 0.9 - 2 * error).all()
    assert (mean <= 0.92 + 2 * error).all()
