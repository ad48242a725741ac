"""Number of images and patients of each class."""

import numpy as np
import pytest

from medvlad.evaluation.class_counts import (
    absent_classes,
    few_patients,
    units_per_class,
    warn_of_few_patients,
    warn_of_small_classes,
)
from medvlad.evaluation.label_metrics import label_scores
from medvlad.evaluation.regression import number_scores


def test_images_are_counted_if_patients_are_unknown():
    assert units_per_class(np.array([0, 2, 2, 2]), None, 4).tolist() == [1, 0, 3, 0]


def test_a_patient_counts_once_in_each_of_its_classes():
    patients = np.array(["a", "a", "b", "a", "c"], dtype=object)
    assert units_per_class(np.array([0, 0, 0, 1, 1]), patients, 2).tolist() == [2, 2]


def test_absent_classes_are_named_in_their_order():
    assert absent_classes(np.array([1, 1]), ["a", "b", "c"]) == ["a", "c"]


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        (None, ""),
        (
            np.repeat(np.arange(30), 2),
            "class b has only 10 patients among the test images",
        ),
    ],
)
def test_fewer_than_20_patients_of_a_class_are_a_warning(caplog, groups, told):
    """Class b has 20 images, of ten patients."""
    warn_of_small_classes(np.repeat([0, 1], [40, 20]), groups, ["a", "b"])
    assert caplog.text.count("WARNING") == (1 if told else 0)
    assert told in caplog.text


def test_images_of_unknown_patients_are_counted_as_images(caplog):
    warn_of_small_classes(np.repeat([0, 1], [40, 19]), None, ["a", "b"])
    assert "class b has only 19 test images" in caplog.text


@pytest.mark.parametrize(("groups", "few"), [(None, []), (np.arange(80) // 8, ["label"])])
def test_patients_with_a_label_count_and_not_their_images(caplog, groups, few):
    """40 of 80 images have the label, and they are of five patients."""
    targets = np.repeat([1.0, 0.0], 40)[:, None]
    found = label_scores(targets, targets, targets, targets > 0, ["label"], groups=groups)
    assert few_patients(found) == few
    warn_of_few_patients(found)
    assert ("fewer than 20 test patients have label: these metrics are uncertain" in caplog.text) == bool(few)


def test_patients_with_a_known_number_count(rng):
    truth = rng.normal(size=(60, 1))
    truth[:30] = np.nan
    found = number_scores(truth, truth + 1, ["age"], groups=np.arange(60) // 2)
    assert (found["targets"][0]["n"], found["targets"][0]["n_patients"]) == (30, 15)
    assert few_patients(found) == ["age"]


def test_a_class_without_an_image_is_a_warning_of_its_own(caplog):
    warn_of_small_classes(np.zeros(30, int), None, ["a", "b"])
    [record] = caplog.records
    assert record.getMessage().startswith("the test part has no image of b")
