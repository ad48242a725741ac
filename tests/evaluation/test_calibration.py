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
    with pytest.raises(InputError, match="the calibration must be one of platt, isotonic, got 'beta'"):
        calibrator("beta", decision_columns(np.arange(4.0)), np.array([0, 1, 0, 1]))
