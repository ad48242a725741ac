"""Patients that file names tell, and that may be dates, classes or something else."""

import pytest
from support.folders import touch

from medvlad.datasets.folders import load_image_folder


def told(tmp_path, caplog, names, pattern=None):
    """Return the warnings about a folder of these files."""
    touch(tmp_path, *names)
    load_image_folder(tmp_path, group_pattern=pattern)
    return caplog.text


DATES = [f"{label}/patient_2023-0{month}-1{i}.png" for label in "ab" for month in (1, 2) for i in range(3)]


def test_years_are_told_to_be_no_patients(tmp_path, caplog):
    text = told(tmp_path, caplog, DATES)
    assert "12 images have 1 patients, such as patient2023, and all of them look like years or dates" in text
    assert "group_pattern" in text


def test_dates_without_hyphens_are_told_to_be_no_patients(tmp_path, caplog):
    names = [f"{label}/patient2023011{i}_{n}.png" for label in "ab" for i in range(3) for n in range(2)]
    assert "look like years or dates" in told(tmp_path, caplog, names)


def test_a_pattern_of_dates_is_told(tmp_path, caplog):
    names = [f"{label}/scan_202301{day}_{n}.png" for label in "ab" for day in (11, 12, 13) for n in range(2)]
    assert "look like years or dates" in told(tmp_path, caplog, names, r"_(\d{8})_")


def test_one_patient_for_all_images_is_told(tmp_path, caplog):
    names = [f"{label}/hospital_{i}.png" for label in "ab" for i in range(4)]
    text = told(tmp_path, caplog, names, "(hospital)")
    assert "8 images have 1 patients, such as hospital, and all images have the same" in text


def test_patients_that_are_the_classes_are_told(tmp_path, caplog):
    names = [f"{label}/{label}_{i}.png" for label in ("cat", "dog") for i in range(4)]
    assert "they are not more than the classes" in told(tmp_path, caplog, names, r"/(cat|dog)_")


def test_few_patients_that_are_in_all_classes_are_told(tmp_path, caplog):
    names = [f"{label}/s{scanner}_{i}.png" for label in "ab" for scanner in range(3) for i in range(4)]
    text = told(tmp_path, caplog, names, r"/(s\d)_")
    assert (
        "24 images have 3 patients, such as s0, and they are fewer than the images of the smallest class"
        in text
    )


@pytest.mark.parametrize(
    "names",
    [
        [
            f"{label}/patient{i + 10 * (label == 'b')}_{n}.png"
            for label in "ab"
            for i in range(4)
            for n in range(3)
        ],
        [f"{label}/patient{i}.png" for label in "ab" for i in range(5)],
        [f"{label}/person{1998 + i}_virus_{i}.png" for label in "ab" for i in range(5)],
        ["a/patient1.png", "b/patient2.png"],
        ["a/patient2001.png", "b/other.png"],
        ["a/patient1_1.png", "a/patient1_2.png", "b/other.png"],
    ],
    ids=[
        "several images of each",
        "as many as images",
        "numbers up to 2002",
        "one each",
        "a single one",
        "one class",
    ],
)
def test_plausible_patients_are_not_doubted(tmp_path, caplog, names):
    assert "may be wrong" not in told(tmp_path, caplog, names)
