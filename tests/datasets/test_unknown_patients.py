"""Images whose patient is not known, while that of others is: told with numbers, refused or dropped."""

import logging

import numpy as np
import pytest
from support.folders import refusal, relative, touch
from support.medical_files import RAMP, write_dicom, write_nifti
from support.tables import write_table

from medvlad.datasets.describe import describe_dataset, patients_in_words
from medvlad.datasets.folders import load_image_folder
from medvlad.datasets.manifest import load_manifest
from medvlad.datasets.published import LAYOUTS
from medvlad.experiment import Experiment


@pytest.fixture
def mixed(tmp_path):
    """Two classes of three DICOM files with IDs and two PNG files without. The second also has a GIF."""
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(3):
            write_dicom(tmp_path / label / f"{i}.dcm", RAMP, bits=12, PatientID=f"{label}{i}")
    return touch(tmp_path, "a/x.png", "a/y.png", "b/x.png", "b/y.png", "b/z.gif")


def test_patients_known_for_a_part_are_a_warning_with_counts_by_class_and_kind(mixed, caplog):
    load_image_folder(mixed)
    (record,) = (one for one in caplog.records if one.levelno == logging.WARNING)
    told = record.getMessage()
    assert "the patient of 5 of 11 images is not known" in told
    assert "a: 2 of 2 .png, 0 of 3 DICOM; b: 1 of 1 .gif, 2 of 2 .png, 0 of 3 DICOM" in told
    assert "unknown_patients='drop'" in told


def test_each_file_without_a_patient_counts_as_one(mixed):
    data = load_image_folder(mixed)
    assert len(set(data.groups.tolist())) == 11
    assert sorted(data.groups[data.patient_sources == ""]) == [
        "a/x.png",
        "a/y.png",
        "b/x.png",
        "b/y.png",
        "b/z.gif",
    ]


def test_unknown_patients_can_be_refused(mixed):
    call = lambda: load_image_folder(mixed, unknown_patients="refuse")  # noqa: E731
    refusal(call, "the patient of 5 of 11 images is not known (a: 2 of 2 .png", "group_pattern=REGEX")


def test_unknown_patients_can_be_dropped(mixed, caplog):
    data = load_image_folder(mixed, unknown_patients="drop")
    assert relative(data, mixed) == ["a/0.dcm", "a/1.dcm", "a/2.dcm", "b/0.dcm", "b/1.dcm", "b/2.dcm"]
    assert "5 of 11 images are dropped, because their patient is not known (a: 2 of 2 .png" in caplog.text
    assert "counts as a patient of its own" not in caplog.text


@pytest.mark.parametrize("policy", ["own", "refuse", "drop"])
def test_a_set_whose_patients_are_all_known_is_left_alone(tmp_path, caplog, policy):
    touch(tmp_path, "a/patient1_x.png", "a/patient2_x.png", "b/patient3_x.png", "b/patient4_x.png")
    data = load_image_folder(tmp_path, unknown_patients=policy)
    assert len(data) == 4
    assert not caplog.records


@pytest.mark.parametrize("policy", ["refuse", "drop"])
def test_a_set_without_any_patient_is_refused_unless_images_may_be_their_own(tmp_path, policy):
    touch(tmp_path, "a/1.png", "b/1.png")
    refusal(
        lambda: load_image_folder(tmp_path, unknown_patients=policy),
        f"unknown_patients='{policy}'",
        "unknown_patients='own'",
    )
    assert load_image_folder(tmp_path).groups is None


def test_dropping_a_whole_class_is_refused(tmp_path):
    touch(tmp_path, "a/patient1.png", "a/patient2.png", "b/1.png")
    refusal(lambda: load_image_folder(tmp_path, unknown_patients="drop"), "no image of the class 'b'")


def test_dropping_a_whole_part_is_refused(tmp_path):
    touch(tmp_path, "train/a/patient1.png", "train/b/patient2.png", "test/a/1.png", "test/b/1.png")
    refusal(lambda: load_image_folder(tmp_path, unknown_patients="drop"), "no image of the part 'test'")


def test_another_policy_is_refused(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png")
    refusal(lambda: load_image_folder(tmp_path, unknown_patients="skip"), "own, refuse, drop", "'skip'")


@pytest.mark.parametrize("layout", ["mit-indoor", "mini-mit"])
def test_a_layout_without_patients_refuses_to_drop_unknown_ones(tmp_path, layout):
    refusal(lambda: LAYOUTS[layout](tmp_path, unknown_patients="drop"), "knows no patients")


def test_the_chest_xrays_take_the_policy(tmp_path):
    names = [f"{part}/{label}" for part in ("train", "test") for label in ("NORMAL", "PNEUMONIA")]
    touch(
        tmp_path,
        *(f"{name}/person{i}_virus_1.jpeg" for i, name in enumerate(names)),
        "train/NORMAL/other.jpeg",
    )
    assert len(LAYOUTS["chest-xray"](tmp_path)) == 5
    assert len(LAYOUTS["chest-xray"](tmp_path, unknown_patients="drop")) == 4
    assert len(Experiment(layout="chest-xray", unknown_patients="drop").load(tmp_path)) == 4


def test_a_pattern_that_misses_images_is_told(tmp_path, caplog):
    touch(tmp_path, "a/case1.png", "a/case2.png", "b/case3.png", "b/left.png")
    load_image_folder(tmp_path, group_pattern=r"(case\d+)")
    assert "the patient of 1 of 4 images is not known (a: 0 of 2 .png; b: 1 of 2 .png)" in caplog.text


def test_volumes_without_a_patient_are_told_to_count_as_patients(tmp_path, caplog):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        write_dicom(tmp_path / label / "x.dcm", np.stack([RAMP, RAMP]), bits=12, frames=2)
    data = load_image_folder(tmp_path)
    assert data.groups.tolist() == ["a/x.dcm"] * 2 + ["b/x.dcm"] * 2
    assert "no patient is known. Images of one file stay together, and each of the 2 files" in caplog.text


def test_the_description_counts_known_and_unknown_patients(mixed):
    described = describe_dataset(load_image_folder(mixed))
    assert (described["n_groups"], described["n_known_patients"]) == (11, 6)
    assert patients_in_words(described) == "6 patients and 5 files of unknown patients"
    assert described["patients"] == {
        "a": {".png": {"known": 0, "unknown": 2}, "DICOM": {"known": 3, "unknown": 0}},
        "b": {
            ".gif": {"known": 0, "unknown": 1},
            ".png": {"known": 0, "unknown": 2},
            "DICOM": {"known": 3, "unknown": 0},
        },
    }


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ({"n_groups": None, "n_known_patients": None}, None),
        ({"n_groups": 7, "n_known_patients": 7}, "7 patients"),
        ({"n_groups": 7, "n_known_patients": 0}, "7 files of unknown patients"),
        ({"n_groups": 7}, "7 patients"),
    ],
)
def test_the_number_of_patients_in_words(described, words):
    assert patients_in_words(described) == words


def test_the_description_counts_the_images_that_are_left(mixed):
    data = load_image_folder(mixed)
    described = describe_dataset(data.take(data.kinds == "DICOM"))
    assert described["patients"] == {label: {"DICOM": {"known": 3, "unknown": 0}} for label in ("a", "b")}


def test_the_description_shows_three_examples_of_names(tmp_path):
    touch(tmp_path, *(f"{label}/patient{i}_{side}.png" for label in "ab" for i in range(9) for side in "lr"))
    described = describe_dataset(load_image_folder(tmp_path))
    assert described["patient_examples"] == [
        {"image": str(tmp_path / f"a/patient{i}_l.png"), "patient": f"patient{i}"} for i in range(3)
    ]


def patients_of(root, *cells):
    """Return the groups of images of a table with these cells of patients, by name."""
    lines = [f"{i}.png,{'xy'[i % 2]},{cell}" for i, cell in enumerate(cells)]
    data = load_manifest(write_table(root / "t.csv", "image,label,patient", *lines))
    return dict(zip(relative(data, root), data.groups.tolist(), strict=True))


@pytest.mark.parametrize(
    "word", ["unknown", "Unknown", "?", "-", "--", "n/a", "anonymous", "XXX", "not available", "unbekannt"]
)
def test_a_word_for_nobody_in_a_table_is_no_patient(tmp_path, caplog, word):
    groups = patients_of(tmp_path, "P1", "P1", word, word)
    assert groups == {"0.png": "P1", "1.png": "P1", "2.png": "2.png", "3.png": "3.png"}
    assert "the patient of 2 of 4 images is not known" in caplog.text


@pytest.mark.parametrize("name", ["x", "X", "unknown 7", "test1", "-1", "Anna"])
def test_a_name_in_a_table_is_a_patient(tmp_path, caplog, name):
    groups = patients_of(tmp_path, "P1", "P1", name, name)
    assert groups["2.png"] == groups["3.png"] == name
    assert not caplog.records


def test_names_with_a_number_sign_are_files_of_their_own(tmp_path):
    lines = ["1.png,x,P1", "case#A.png,x,", "case#B.png,y,", "case#3.png,y,"]
    data = load_manifest(write_table(tmp_path / "t.csv", "image,label,patient", *lines))
    assert sorted(data.groups.tolist()) == ["P1", "case#3.png", "case#A.png", "case#B.png"]


def test_frames_in_a_table_have_the_patient_of_their_file(tmp_path):
    write_dicom(tmp_path / "x.dcm", np.stack([RAMP, RAMP]), bits=12, frames=2)
    touch(tmp_path, "1.png")
    lines = ["1.png,x,P1", "x.dcm#0,x,", "x.dcm#1,y,"]
    data = load_manifest(write_table(tmp_path / "t.csv", "image,label,patient", *lines, images=False))
    assert sorted(data.groups.tolist()) == ["P1", "x.dcm", "x.dcm"]


def test_slices_of_a_packed_volume_in_a_table_have_the_patient_of_its_name(tmp_path):
    write_nifti(tmp_path / "sub-07.nii.gz", np.arange(18, dtype=np.int16).reshape(3, 3, 2))
    lines = ["sub-07.nii.gz#0,x", "sub-07.nii.gz#1,x", "sub-08.png,y"]
    touch(tmp_path, "sub-08.png")
    data = load_manifest(write_table(tmp_path / "t.csv", "image,label", *lines, images=False))
    assert data.groups.tolist() == ["sub-07", "sub-07", "sub-08"]
