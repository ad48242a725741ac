"""Metrics of held-out predictions: protocol, intervals by patient, adapted threshold."""

import numpy as np
import pytest
from support.image_folders import evaluate, folder

from medvlad import VLAD, Descriptors, GlobalPool, WideLinearSVC
from medvlad.evaluation.cross_validation import held_out
from medvlad.evaluation.held_out_metrics import held_out_metrics


@pytest.fixture
def easy(rng):
    """Sixty images of three classes that pooling separates."""
    labels = np.repeat([0, 1, 2], 20)
    images = [rng.normal(loc=4 * np.eye(3, 6)[k], size=(5, 6)) for k in labels]
    return Descriptors.from_list(images), labels


def test_a_given_test_part_is_decided_once(easy):
    descriptors, labels = easy
    data = folder(labels, splits=np.where(np.arange(60) % 4 == 0, "test", "train"))
    found = evaluate(descriptors, data, GlobalPool(), WideLinearSVC())
    assert (found["n_train"], found["n_test"], found["protocol"]) == (45, 15, "train and test part")
    assert found["accuracy"] == 1.0


def test_the_seconds_of_each_stage_are_measured(easy):
    descriptors, labels = easy
    data = folder(labels, splits=np.where(np.arange(60) % 4 == 0, "test", "train"))
    found = evaluate(descriptors, data, GlobalPool(), WideLinearSVC())
    assert found["seconds"].keys() == {"fit_encoder", "encode", "fit_classifier", "predict"}


def test_cross_validation_repeats_with_the_same_seed(easy):
    descriptors, labels = easy
    runs = [
        evaluate(descriptors, folder(labels), VLAD(4, random_state=0), WideLinearSVC(), random_state=0)
        for _ in range(2)
    ]
    for run in runs:
        run.pop("seconds")
    assert runs[0] == runs[1]


def test_cross_validation_tests_every_image(easy):
    descriptors, labels = easy
    found = evaluate(descriptors, folder(labels), GlobalPool(), WideLinearSVC())
    assert found["n_test"] == 60
    assert found["protocol"] == "5-fold cross-validation"


def test_intervals_are_wider_if_a_patient_has_copies(rng):
    """Two of the four copies are tested, so the width grows by about the square root of 2."""
    x, labels = rng.normal(size=(50, 3, 4)).astype(np.float32), np.arange(50) % 2
    x[labels == 1] += 0.4
    copies = np.repeat(x, 4, axis=0)
    widths = []
    for groups in (None, np.repeat(np.arange(50), 4).astype(str)):
        data = folder(np.repeat(labels, 4).tolist(), groups, np.tile(["train", "test"], 100))
        found = evaluate(Descriptors.from_array(copies), data, GlobalPool(), WideLinearSVC())
        assert found["ci95_of"] == ("images" if groups is None else "patients")
        low, high = found["accuracy_ci95"]
        widths.append(high - low)
    assert 1.2 * widths[0] < widths[1] < 1.7 * widths[0]


class Shifted:
    """A data set in which one class has shifted in the test part, and its metrics with adapted threshold."""

    def __init__(self):
        rng = np.random.default_rng(20261122)
        labels = np.tile([0, 1], 300)
        x = rng.normal(size=(600, 1, 6)).astype(np.float32) * 0.4
        x[labels == 1, 0, 0] += 4
        splits = np.repeat(["train", "test"], 300)
        x[(splits == "test") & (labels == 0), 0, 0] += 2.4
        self.data = folder(labels.tolist(), None, splits)
        self.decided = held_out(
            Descriptors.from_array(x), self.data, GlobalPool(l2_norm=False), WideLinearSVC()
        )
        self.found = held_out_metrics(self.data, self.decided, adapt_threshold=True)


@pytest.fixture(scope="module")
def shifted():
    return Shifted()


def test_an_adapted_threshold_follows_a_shifted_class(shifted):
    found = shifted.found
    assert found["accuracy"] < 0.7
    assert found["adapted"]["accuracy"] > 0.95
    assert found["adapted"]["auc"] == found["auc"]


def test_an_adapted_threshold_leaves_the_other_metrics_alone(shifted):
    others = {name: value for name, value in shifted.found.items() if name != "adapted"}
    assert others == held_out_metrics(shifted.data, shifted.decided)


def test_an_adapted_threshold_does_not_use_test_labels(shifted, rng):
    shuffled = shifted.data.take(np.arange(600))
    shuffled.labels[300:] = rng.permutation(shuffled.labels[300:])
    again = held_out_metrics(shuffled, shifted.decided, adapt_threshold=True)
    assert again["adapted"]["threshold"] == shifted.found["adapted"]["threshold"]
