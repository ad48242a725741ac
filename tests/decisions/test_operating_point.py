"""Thresholds with a wanted sensitivity or specificity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlad import InputError
from medvlad.decisions.operating_point import Target, operating_threshold, read_target
from medvlad.svm.decision import decision_columns

#: Class 0: -3 and 0.5. Class 1: 0, 1, 2, 3.
DECISION = decision_columns(np.array([-3.0, 0.5, 0.0, 1.0, 2.0, 3.0]))
LABELS = np.array([0, 0, 1, 1, 1, 1])


def test_a_threshold_lies_between_the_last_image_needed_and_the_next_lower_one():
    # 0.6 of 4 images needs 0.6 * 5 = 3 of them: 3, 2 and 1. The next lower value is 0.5, of the other class.
    assert operating_threshold(Target("sensitivity", 0.6), DECISION, LABELS) == 0.75
    assert operating_threshold(Target("sensitivity", 0.8), DECISION, LABELS) == -1.5


def test_specificity_counts_the_other_class():
    # 0.6 of 2 images needs 0.6 * 3 = 2 of them. Both are below 0.75, halfway between 0.5 and 1.
    assert operating_threshold(Target("specificity", 0.6), DECISION, LABELS) == 0.75


def test_the_positive_class_can_be_the_first():
    of_first = operating_threshold(Target("sensitivity", 0.6), DECISION, LABELS, positive=0)
    assert of_first == operating_threshold(Target("specificity", 0.6), DECISION, LABELS)


@given(
    st.lists(st.integers(-20, 20), min_size=30, max_size=60),
    st.sampled_from([0.5, 0.8, 0.9]),
    st.sampled_from(["sensitivity", "specificity"]),
)
def test_held_out_images_reach_the_target(values, wanted, rate):
    decision = decision_columns(np.array(values, np.float64))
    labels = np.arange(len(values)) % 2
    above = decision[:, 1] > operating_threshold(Target(rate, wanted), decision, labels)
    right = above[labels == 1] if rate == "sensitivity" else ~above[labels == 0]
    assert right.mean() >= wanted


def test_the_rate_holds_for_new_images():
    rng = np.random.default_rng(0)
    labels = np.arange(78) % 2  # 39 of a class: 0.95 * 40 = 38 of them
    found = []
    for _ in range(400):
        values = rng.normal(labels, 1.0)
        at = operating_threshold(Target("sensitivity", 0.95), decision_columns(values), labels)
        found.append((rng.normal(1.0, 1.0, 200) > at).mean())
    # Between the last image needed and the next lower one there may be a gap, which adds at most 1 / 40.
    assert 0.945 <= np.mean(found) <= 0.98


def test_too_few_images_are_refused_with_the_number_needed():
    with pytest.raises(
        InputError, match=r"'sensitivity=0\.95' needs at least 19 training images of the class"
    ):
        operating_threshold(Target("sensitivity", 0.95), DECISION, LABELS)


def test_three_classes_are_refused():
    with pytest.raises(InputError, match="needs two classes, there are 3"):
        operating_threshold(Target("sensitivity", 0.5), np.zeros((6, 3)), LABELS)


@pytest.mark.parametrize(("text", "expected"), [("sensitivity=0.95", 0.95), (" Specificity = 9e-1 ", 0.9)])
def test_a_target_is_read(text, expected):
    assert read_target(text).value == expected


@pytest.mark.parametrize("text", ["0.95", "sensitivity", "sensitivity=95", "sensitivity=-", "auc=0.9", "", 3])
def test_a_wrong_target_is_refused(text):
    with pytest.raises(InputError, match=r"use for example sensitivity=0\.95"):
        read_target(text)
