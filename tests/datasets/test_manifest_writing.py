"""Tables that are made of folders and DICOM headers, and what they leave out."""

import csv

import numpy as np
import pytest
from support.folders import refusal, touch

import medvlad as mv
from medvlad.datasets.manifest_writing import make_manifest


def cells(table):
    """Return the cells of each column."""
    return dict(zip(table.columns, map(list, zip(*table.rows, strict=True)), strict=True))


def test_the_table_of_a_folder_is_read_back_as_the_folder(tmp_path):
    root = tmp_path / "images"
    touch(
        root,
        "train/a/person1_virus_1.png",
        "train/a/z, 1.png",
        'train/b/"x".png',
        "test/b/y.png",
        "val/a/v.png",
    )
    touch(root, "test/a/patient7.png", "train/b/sub-3_T1.png", "train/b/sub-3_T2.png")
    table = make_manifest(root)
    assert table.columns == ["image", "label", "patient", "split"]
    assert table.no_labels is None
    table.write(tmp_path / "t.csv")
    folder, data = mv.load_image_folder(root), mv.load_manifest(tmp_path / "t.csv", image_root=root)
    assert data.paths == folder.paths
    assert data.class_names == folder.class_names
    for name in ("labels", "groups", "splits", "kinds"):
        np.testing.assert_array_equal(getattr(data, name), getattr(folder, name))
    known = folder.patient_sources != ""
    np.testing.assert_array_equal(data.patient_sources[known], "table")
    np.testing.assert_array_equal(data.patient_sources[~known], "")


def test_a_folder_without_patients_and_parts_has_two_columns(tmp_path):
    touch(tmp_path, "a/1.png", "b/2.png")
    assert make_manifest(tmp_path).columns == ["image", "label"]


def test_a_table_with_tabs_is_written_for_tsv(tmp_path):
    touch(tmp_path / "images", "a/1.png", "b/2.png")
    make_manifest(tmp_path / "images").write(tmp_path / "t.tsv")
    with (tmp_path / "t.tsv").open(newline="") as file:
        assert next(csv.reader(file, delimiter="\t")) == ["image", "label"]


def test_a_pattern_names_the_patients(tmp_path):
    touch(tmp_path, "a/c1_l.png", "b/c2_l.png")
    assert cells(make_manifest(tmp_path, group_pattern="(c[0-9])_"))["patient"] == ["c1", "c2"]


def test_without_class_folders_the_labels_are_empty(tmp_path):
    touch(tmp_path, "1.png", "deep/er/2.png")
    table = make_manifest(tmp_path)
    assert cells(table) == {"image": ["1.png", "deep/er/2.png"], "label": ["", ""]}
    assert "single class" in table.no_labels


def test_an_empty_folder_is_refused(tmp_path):
    refusal(lambda: make_manifest(tmp_path), "no image")


@pytest.mark.parametrize("name", [" 1.png", "a\\1.png", "C:1.png"])
def test_a_name_that_a_table_cannot_hold_is_refused(tmp_path, name):
    touch(tmp_path, name, "2.png")
    refusal(lambda: make_manifest(tmp_path), "rename")


# ---------------------------------------------------------------------------------------------- DICOM

FACTS = {
    "PatientID": "ID 77",
    "PatientName": "Smith^John",
    "PatientBirthDate": "19300405",
    "PatientAddress": "Elm Street 9",
    "StudyDate": "20200102",
    "AccessionNumber": "ACC123",
    "InstitutionName": "General Hospital",
    "ReferringPhysicianName": "Miller^Ann",
    "PatientSex": "M",
    "Modality": "CR",
    "BodyPartExamined": "CHEST",
    "Manufacturer": "Maker, Inc.",
}


@pytest.fixture
def scans(tmp_path):
    pytest.importorskip("pydicom", reason="needs the extra medical")
    from support.medical_files import write_dicom

    root = tmp_path / "scans"
    for part in ("a", "b"):
        (root / part).mkdir(parents=True)
    pixels = np.zeros((4, 4), np.uint8)
    write_dicom(root / "a" / "1.dcm", pixels, **FACTS, PatientAge="092Y")
    write_dicom(root / "a" / "2.dcm", pixels, **FACTS | {"PatientID": "ID 78"}, PatientAge="006M")
    other = FACTS | {"PatientID": "id 77", "InstitutionName": "Clinic"}
    write_dicom(root / "b" / "3.dcm", np.zeros((2, 4, 4), np.uint8), frames=2, **other, PatientAge="045Y")
    return root


def test_headers_give_covariates_patients_and_sites(scans):
    found = cells(make_manifest(scans))
    assert found["image"] == ["a/1.dcm", "a/2.dcm", "b/3.dcm"]
    assert found["age"] == ["90", "0.5", "45"]
    assert found["sex"] == ["M"] * 3
    assert found["modality"] == ["CR"] * 3
    assert found["manufacturer"] == ["Maker, Inc."] * 3
    assert found["site"] == ["site1", "site1", "site2"]
    assert found["patient"][0] == found["patient"][2] != found["patient"][1]


def test_nothing_that_identifies_is_written_by_default(scans, tmp_path):
    make_manifest(scans).write(tmp_path / "t.csv")
    text = (tmp_path / "t.csv").read_text().casefold()
    for name in ("ID 77", "Smith", "1930", "Elm", "2020", "ACC123", "General", "Clinic", "Miller"):
        assert name.casefold() not in text, name


def test_identifiers_are_written_if_asked_for(scans):
    found = cells(make_manifest(scans, identifiers=True))
    assert found["patient"] == ["ID 77", "ID 78", "ID 77"]
    assert found["site"] == ["General Hospital", "General Hospital", "Clinic"]


def test_a_table_of_dicom_files_is_read_back(scans, tmp_path):
    make_manifest(scans).write(tmp_path / "t.csv")
    folder, data = mv.load_image_folder(scans), mv.load_manifest(tmp_path / "t.csv", image_root=scans)
    assert data.paths == folder.paths
    assert len(data) == 4
    np.testing.assert_array_equal(data.groups, folder.groups)
    assert data.covariates["sex"].tolist() == ["M"] * 4


@pytest.mark.parametrize(
    ("written", "years"),
    [("045Y", "45"), ("120Y", "90"), ("018M", "1.5"), ("030M", "2"), ("old", ""), ("", "")],
)
def test_ages_are_in_years(tmp_path, written, years):
    pytest.importorskip("pydicom", reason="needs the extra medical")
    from support.medical_files import pydicom, write_dicom

    from medvlad.images.dicom_covariates import dicom_covariates

    with pydicom.config.disable_value_validation():
        write_dicom(tmp_path / "1.dcm", np.zeros((4, 4), np.uint8), PatientAge=written)
        assert dicom_covariates(tmp_path / "1.dcm")["PatientAge"] == years


def test_a_damaged_header_gives_no_facts(tmp_path):
    pytest.importorskip("pydicom", reason="needs the extra medical")
    from medvlad.images.dicom_covariates import dicom_covariates

    (tmp_path / "1.dcm").write_bytes(b"\0" * 128 + b"DICM nonsense")
    assert set(dicom_covariates(tmp_path / "1.dcm").values()) == {""}
