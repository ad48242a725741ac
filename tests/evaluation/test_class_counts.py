"""Number of images and patients of each class."""

import numpy as np

from medvlad.evaluation.class_counts import absent_classes, units_per_class


def test_images_are_counted_if_patients_are_unknown():
    assert units_per_class(np.array([0, 2, 2, 2]), None, 4).tolist() == [1, 0, 3, 0]


def test_a_patient_counts_once_in_each_of_its_classes():
    patients = np.array(["a", "a", "b", "a", "c"], dtype=object)
    assert units_per_class(np.array([0, 0, 0, 1, 1]), patients, 2).tolist() == [2, 2]


def test_absent_classes_are_named_in_their_order():
    assert absent_classes(np.array([1, 1]), ["a", "b", "c"]) == ["a", "c"]
