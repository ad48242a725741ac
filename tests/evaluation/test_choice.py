"""The choice of an encoding inside the training images."""

import logging

import numpy as np
import pytest

from medvlad import VLAD, Descriptors, GlobalPool, InputError, WideLinearSVC
from medvlad.evaluation import choice
from medvlad.evaluation.choice import choose_encoding

ENCODERS = {"avg": GlobalPool(), "vlad2": VLAD(2, random_state=0)}


def spread_images(rng, n):
    """Images whose mean is the same in both classes; only the spread of the descriptors differs."""
    labels = np.arange(n) % 2
    arrays = []
    for label in labels:
        values = np.repeat([[-1.0], [1.0]], 20, axis=0) * (1 + 2 * label)
        arrays.append(np.hstack([values, np.ones_like(values)]) + rng.normal(0, 0.05, (40, 2)))
    return Descriptors.from_list([one.astype(np.float32) for one in arrays]), labels


def shifted_images(rng, n):
    """Images whose mean differs between the classes, so that average pooling is enough."""
    labels = np.arange(n) % 2
    arrays = [rng.normal(0, 1, (30, 4)) + 3 * label for label in labels]
    return Descriptors.from_list([one.astype(np.float32) for one in arrays]), labels


def choose(images, encoders=ENCODERS, groups=None, **settings):
    descriptors, labels = images
    return choose_encoding(
        descriptors, labels, groups, encoders, WideLinearSVC(), **{"penalties": None} | settings
    )


def test_vlad_is_chosen_if_only_it_can_tell_the_classes_apart(rng):
    found = choose(spread_images(rng, 60))
    assert found.encoding == "vlad2"
    assert found.balanced_accuracy["vlad2"] > found.balanced_accuracy["avg"] + 0.2
    assert found.n_folds == 5


def test_the_first_is_chosen_if_both_are_equally_good(rng):
    assert choose(shifted_images(rng, 40)).encoding == "avg"


def test_a_difference_within_one_standard_error_is_not_clear():
    first = np.array([0.5, 0.7, 0.6, 0.9])
    clear, unclear = first + 0.1, first + np.array([0.4, -0.2, 0.3, -0.1])
    assert choice.first_near_best({"avg": first, "vlad": clear}) == "vlad"
    assert choice.first_near_best({"avg": first, "vlad": unclear}) == "avg"


@pytest.mark.parametrize("values", [[], [0.9]])
def test_without_two_folds_no_difference_is_clear(values):
    scores = {"avg": np.array(values) - 0.4, "vlad": np.array(values)}
    assert choice.first_near_best(scores) == "avg"


def test_images_of_a_patient_stay_together(rng, monkeypatch):
    seen = []
    original = choice.inner_folds

    def spy(descriptors, labels, groups, *rest, **settings):
        seen.append(groups)
        return original(descriptors, labels, groups, *rest, **settings)

    monkeypatch.setattr(choice, "inner_folds", spy)
    groups = np.array([f"p{i // 4}" for i in range(40)], dtype=object)
    choose(shifted_images(rng, 40), groups=groups)
    assert len(seen) == 2
    assert all(one is groups for one in seen)


def test_one_encoding_needs_no_folds(rng):
    found = choose(shifted_images(rng, 4), {"avg": GlobalPool()})
    assert (found.encoding, found.penalty, found.balanced_accuracy, found.n_folds) == ("avg", 1.0, {}, 0)


def test_c_is_chosen_with_the_encoding(rng):
    found = choose(shifted_images(rng, 30), penalties=(0.01, 1.0))
    assert found.penalty in (0.01, 1.0)


def test_too_few_images_mean_the_first_encoding_and_a_warning(rng, caplog):
    with caplog.at_level(logging.WARNING):
        found = choose(shifted_images(rng, 3))
    assert (found.encoding, found.n_folds) == ("avg", 0)
    assert "too few training images (patients, if known) of a class to choose" in caplog.text


def test_without_an_encoding_there_is_no_choice(rng):
    with pytest.raises(InputError, match="name at least one"):
        choose(shifted_images(rng, 4), {})
