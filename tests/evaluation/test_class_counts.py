"""Number of images and patients of each class."""

import numpy as np
import pytest

from medvlad.evaluation.class_counts import absent_classes, units_per_class, warn_of_small_classes


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


def test_a_class_without_an_image_is_a_warning_of_its_own(caplog):
    warn_of_small_classes(np.zeros(30, int), None, ["a", "b"])
    [record] = caplog.records
    assert record.getMessage().startswith("the test part has no image of b")
