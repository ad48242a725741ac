"""Probabilities from decision values."""

import numpy as np
import pytest

from medvlad import InputError
from medvlad.evaluation.calibration import calibration_metrics, calibrator
from medvlad.svm.decision import decision_columns


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_known_probabilities_are_learned(rng, method):
    values = rng.normal(0, 2, 20_000)
    truth = 1 / (1 + np.exp(-(1.5 * values - 0.7)))
    labels = (rng.random(20_000) < truth).astype(np.int64)
    probability = calibrator(method, decision_columns(values), labels)
    at = np.linspace(-3, 3, 13)
    found = probability(decision_columns(at))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(found[:, 1], 1 / (1 + np.exp(-(1.5 * at - 0.7))), atol=0.06)
    assert (np.diff(found[:, 1]) >= 0).all()


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_probabilities_of_several_classes_add_up_to_1(rng, method):
    labels = rng.integers(0, 3, 600)
    decision = rng.normal(0, 1, (600, 3))
    decision[np.arange(600), labels] += 2
    found = calibrator(method, decision, labels)(decision)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found.argmax(axis=1) == labels).mean() > 0.7
    # Dividing three independent probabilities by their sum makes them slightly wrong.
    assert calibration_metrics(labels, found)["expected_calibration_error"] < 0.15


def test_two_separable_images_a_class_are_enough():
    found = calibrator("platt", decision_columns(np.array([-2.0, -1.0, 1.0, 2.0])), np.array([0, 0, 1, 1]))
    probability = found(decision_columns(np.array([-1.5, 1.5])))[:, 1]
    assert 0 < probability[0] < 0.5 < probability[1] < 1


@pytest.mark.parametrize("scale", [1e-300, 1e-8, 1e8])
def test_the_size_of_decision_values_does_not_change_probabilities(rng, scale):
    values = rng.normal(size=2000)
    labels = (rng.random(2000) < 1 / (1 + np.exp(-2 * values))).astype(np.int64)
    at = decision_columns(np.linspace(-2, 2, 9))
    expected = calibrator("platt", decision_columns(values), labels)(at)
    found = calibrator("platt", decision_columns(values * scale), labels)(at * scale)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found[-1, 1] > 0.9


def test_equal_decision_values_have_the_share_of_the_class():
    found = calibrator("platt", decision_columns(np.full(40, 3.0)), np.arange(40) % 4 // 3)
    assert found(decision_columns(np.array([3.0])))[0, 1] == pytest.approx(0.25, abs=0.03)


@pytest.fixture
def four_images():
    """Metrics of probabilities of four images with known values."""
    probability = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.2, 0.8]])
    return calibration_metrics(np.array([0, 1, 1, 1]), probability)


def test_brier_score_and_log_loss_are_those_by_hand(four_images):
    assert four_images["brier"] == pytest.approx((0.01 + 0.16 + 0.49 + 0.04) / 4)
    assert four_images["log_loss"] == pytest.approx(-np.log([0.9, 0.6, 0.3, 0.8]).mean())


def test_the_calibration_error_is_that_by_hand(four_images):
    """With four images, each image is a bin of its own."""
    assert [one["confidence"] for one in four_images["bins"]] == pytest.approx([0.6, 0.7, 0.8, 0.9])
    assert [one["right"] for one in four_images["bins"]] == [1, 0, 1, 1]
    assert four_images["expected_calibration_error"] == pytest.approx((0.4 + 0.7 + 0.2 + 0.1) / 4)


def test_the_order_of_equal_confidences_does_not_matter(rng):
    """Confidence 0.8 and 80 % of the images right: no error, although the right ones come first."""
    probability = np.tile([[0.8, 0.2], [0.2, 0.8]], (100, 1))
    labels = np.where(np.arange(200) < 160, [0, 1] * 100, [1, 0] * 100)
    found = calibration_metrics(labels, probability)
    assert found["expected_calibration_error"] == pytest.approx(0, abs=1e-12)
    assert [one["n"] for one in found["bins"]] == [200]


def test_bins_do_not_depend_on_the_order_of_images(rng):
    """Isotonic regression gives few different probabilities."""
    confidence = rng.choice([0.55, 0.7, 0.71, 0.9, 0.95], 500)
    probability, labels = np.column_stack([confidence, 1 - confidence]), rng.integers(0, 2, 500)
    order = np.argsort(labels)
    found = calibration_metrics(labels, probability)
    again = calibration_metrics(labels[order], probability[order])
    assert again["expected_calibration_error"] == pytest.approx(found["expected_calibration_error"])
    assert [one["n"] for one in again["bins"]] == [one["n"] for one in found["bins"]]
    assert len(found["bins"]) == 5


def test_different_confidences_have_ten_bins_of_one_size(rng):
    confidence = rng.uniform(0.5, 1, 300)
    found = calibration_metrics(rng.integers(0, 2, 300), np.column_stack([confidence, 1 - confidence]))
    assert [one["n"] for one in found["bins"]] == [30] * 10


def test_perfect_probabilities_have_no_error(rng):
    labels = rng.integers(0, 2, 10_000)
    sure = calibration_metrics(labels, np.eye(2)[labels])
    assert (sure["brier"], sure["expected_calibration_error"]) == (0, 0)


def test_probabilities_that_are_always_wrong_have_an_error_of_1(rng):
    labels = rng.integers(0, 2, 10_000)
    wrong = calibration_metrics(labels, np.eye(2)[1 - labels])
    assert (wrong["brier"], wrong["expected_calibration_error"]) == (1, 1)


def test_the_brier_score_of_three_classes_counts_all_of_them():
    three = calibration_metrics(np.array([0, 1]), np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]))
    assert three["brier"] == pytest.approx((0.5 + 2) / 2)


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match="the calibration must be one of auto, platt, isotonic, got 'beta'"):
        calibrator("beta", decision_columns(np.arange(4.0)), np.array([0, 1, 0, 1]))
