"""Training with held-out decision values of the training images."""

import logging
from pathlib import Path

import numpy as np
import pytest

from medvlad import VLAD, Descriptors, GlobalPool, InputError, WideLinearSVC
from medvlad.datasets.folders import ImageFolder
from medvlad.decisions import CalibratedSVC, mean_descriptors
from medvlad.decisions.operating_point import Target
from medvlad.evaluation.calibrated_training import train_classifier
from medvlad.evaluation.cross_validation import held_out, inner_folds
from medvlad.evaluation.held_out_metrics import held_out_metrics


def dataset(names=("a", "b"), n=80, groups=None, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(names)
    x = rng.random((n, 6, 5), dtype=np.float32)
    x[np.arange(n), :, labels] += 0.25
    folder = ImageFolder([Path(f"{i}.png") for i in range(n)], labels, list(names), groups, None)
    return Descriptors.from_array(x), folder


def train(descriptors, folder, encoder=None, **settings):
    encoders = {"one": encoder or GlobalPool()}
    svm = WideLinearSVC(class_weight=settings.pop("class_weight", None))
    return train_classifier(descriptors, folder.y, folder.groups, encoders, svm, **settings)


def test_held_out_values_are_those_of_folds_with_their_own_codebook():
    groups = np.array([f"p{i // 2}" for i in range(80)])
    x, folder = dataset(groups=groups)
    vlad = VLAD(3, random_state=0)
    _, classifier, choice = train(x, folder, vlad, random_state=4)
    expected = inner_folds(
        x, folder.labels, groups, VLAD(3, random_state=0), WideLinearSVC(), [1.0], random_state=4
    )
    np.testing.assert_array_equal(classifier.held_out_decision_, expected.decision)
    assert choice.inner is not None
    assert choice.n_folds == 5


def test_class_names_in_any_order_keep_their_values():
    x, sorted_folder = dataset(("a", "b", "c"), n=90)
    other = ImageFolder(
        sorted_folder.paths, (2 - sorted_folder.labels).astype(np.int64), ["c", "b", "a"], None, None
    )
    _, first, _ = train(x, sorted_folder)
    _, second, _ = train(x, other)
    truth = np.array(["a", "b", "c"])[sorted_folder.labels]
    for classifier in (first, second):
        assert (classifier.classes_[classifier.held_out_labels_] == truth).all()
        right = classifier.held_out_decision_.argmax(axis=1) == classifier.held_out_labels_
        assert right.mean() > 0.8


def test_novelty_is_measured_between_folds():
    x, folder = dataset()
    _, classifier, choice = train(x, folder)
    assert len(classifier.novelty_.references) == choice.inner.n_references == 64
    means = mean_descriptors(x)
    assert (classifier.novelty_.held_out > 0).all()  # no image is compared with itself
    assert (classifier.novelty_p(means) > 0.05).mean() > 0.9


def test_without_calibration_the_svm_stays_as_it_is():
    x, folder = dataset()
    _, classifier, choice = train(x, folder, calibration=None)
    assert type(classifier) is WideLinearSVC
    assert choice.inner is None


def test_calibration_does_not_change_the_classifier():
    x, folder = dataset()
    _, plain, _ = train(x, folder, calibration=None)
    _, calibrated, _ = train(x, folder)
    np.testing.assert_array_equal(calibrated.coef_, plain.coef_)


def test_too_few_images_are_a_warning_by_default_and_an_error_on_request(caplog):
    x, folder = dataset(n=3)
    with caplog.at_level(logging.WARNING):
        _, classifier, _ = train(x, folder)
    assert type(classifier) is WideLinearSVC
    assert "too few training images" in caplog.text
    with pytest.raises(InputError, match="at least 2 training images of each class"):
        train(x, folder, calibration="platt")


@pytest.mark.parametrize(
    "wanted", [{"target": Target("sensitivity", 0.5)}, {"calibration": "platt"}, {"calibration": "isotonic"}]
)
def test_what_was_asked_for_is_not_left_out_when_several_encodings_have_no_folds(wanted):
    x, folder = dataset(n=3)
    encoders = {"avg": GlobalPool(), "vlad2": VLAD(2, random_state=0)}
    with pytest.raises(InputError, match=r"at least 2 training images of each class.*no threshold"):
        train_classifier(x, folder.y, folder.groups, encoders, WideLinearSVC(), **wanted)


@pytest.mark.parametrize("names", [("a", "b"), (1, 2)])
def test_class_weights_are_those_of_the_classes_inside_the_folds_too(names):
    x, folder = dataset()
    y = np.array(names)[folder.labels]

    def fitted(weights):
        return train_classifier(x, y, None, {"avg": GlobalPool()}, WideLinearSVC(class_weight=weights))[1]

    weighted, plain = fitted({names[0]: 1, names[1]: 20}), fitted(None)
    assert (weighted.held_out_decision_.argmax(axis=1)).sum() > plain.held_out_decision_.argmax(axis=1).sum()
    assert weighted.get_params()["classifier"].class_weight == {names[0]: 1, names[1]: 20}
    one = fitted({names[1]: 20})
    np.testing.assert_array_equal(one.held_out_decision_, weighted.held_out_decision_)


def test_a_class_weight_of_no_class_is_named():
    x, folder = dataset()
    with pytest.raises(
        InputError, match="class_weight has the key 'c', and there is no such class: use 'a', 'b'"
    ):
        train(x, folder, class_weight={"a": 1, "c": 2})


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (("a", "b"), {"positive": "c"}, "the positive class must be one of a, b, got 'c'"),
        (("a", "b", "c"), {"positive": "a"}, "positive='a' needs two classes, and there are 3: leave it out"),
        (
            ("a", "b", "c"),
            {"target": Target("sensitivity", 0.9)},
            "threshold='sensitivity=0.9' needs two classes, and there are 3: leave it out",
        ),
    ],
)
def test_settings_for_two_classes_must_fit_the_classes(names, settings, message):
    x, folder = dataset(names, n=90)
    with pytest.raises(InputError, match=message):
        train(x, folder, **settings)


def test_a_positive_class_that_is_a_number_is_named_as_text():
    x, folder = dataset()
    wanted = {"target": Target("sensitivity", 0.9), "positive": "0"}
    encoders = {"avg": GlobalPool()}
    numbered = train_classifier(x, folder.labels, None, encoders, WideLinearSVC(), **wanted)[1]
    named = train(x, folder, **wanted | {"positive": "a"})[1]
    assert numbered.threshold_ == named.threshold_


@pytest.mark.parametrize("positive", [None, "a"])
def test_an_operating_point_reaches_its_target_on_the_training_folds(positive):
    x, folder = dataset()
    _, classifier, _ = train(x, folder, target=Target("sensitivity", 0.9), positive=positive)
    assert isinstance(classifier, CalibratedSVC)
    second = classifier.held_out_decision_[:, 1] > classifier.threshold_
    own = classifier.held_out_labels_ == (1 if positive is None else 0)
    detected = second if positive is None else ~second
    assert 0.9 <= detected[own].mean() <= 0.95


def test_an_operating_point_is_chosen_inside_each_fold_and_measured_outside():
    x, folder = dataset(n=200)
    target = Target("sensitivity", 0.9)
    decided = held_out(x, folder, GlobalPool(), WideLinearSVC(), target=target)
    found = held_out_metrics(folder, decided, target=target)["operating_point"]
    assert found["target"] == "sensitivity=0.9"
    assert len(found["threshold"]) == 5
    right = decided.decision[:, 1] > decided.thresholds
    assert found["sensitivity"] == pytest.approx(right[folder.labels[decided.tested] == 1].mean())
    assert 0.82 <= found["sensitivity"] <= 0.98
