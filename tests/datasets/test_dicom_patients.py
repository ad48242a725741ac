"""Which DICOM files, and which files whose names tell a patient, show one patient."""

import numpy as np
import pytest
from support.folders import relative, touch
from support.marked_dicom import DATE, ROOT, WORD, found_in
from support.medical_files import RAMP, pydicom, write_dicom

from medvlad.datasets.folders import load_image_folder


def groups_of(root, files):
    """Write DICOM files, given as {path: elements}, and return the group of each image."""
    for name, tags in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with pydicom.config.disable_value_validation():
            write_dicom(path, RAMP, bits=12, **tags)
    data = load_image_folder(root)
    assert data.groups is not None
    return dict(zip(relative(data, root), data.groups.tolist(), strict=True))


OTHERS = {"a/o1.dcm": {"PatientID": "other 1"}, "b/o2.dcm": {"PatientID": "other 2"}}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"PatientID": "Anna-1"}, {"PatientID": "ANNA-1"}),
        ({"PatientID": "P1"}, {"PatientID": "P1 "}),
        ({"PatientID": "P1"}, {"PatientID": "  P1"}),
        ({"PatientID": "P  1"}, {"PatientID": "P 1"}),
        ({"PatientID": "P1"}, {"PatientID": "P1", "IssuerOfPatientID": "hospital"}),
        ({"PatientID": "P1", "IssuerOfPatientID": "x"}, {"PatientID": "p1", "IssuerOfPatientID": "y"}),
        ({"PatientID": "\uff30\uff11"}, {"PatientID": "P1"}),
    ],
    ids=["case", "space behind", "space before", "two spaces", "no issuer", "two issuers", "full width"],
)
def test_spellings_of_an_id_are_one_patient(tmp_path, caplog, first, second):
    extra = {"SpecificCharacterSet": "ISO_IR 192"}
    groups = groups_of(tmp_path, {"a/x.dcm": first | extra, "b/y.dcm": second | extra} | OTHERS)
    assert groups["a/x.dcm"] == groups["b/y.dcm"]
    assert len(set(groups.values())) == 3
    if "issuer" in str(first | second).lower() or first["PatientID"].strip() != second["PatientID"].strip():
        assert (
            "1 patients have DICOM files whose PatientIDs differ in case, spaces or issuer only"
            in caplog.text
        )


def test_ids_that_differ_in_more_than_their_spelling_are_apart(tmp_path, caplog):
    groups = groups_of(tmp_path, {"a/x.dcm": {"PatientID": "P1"}, "b/y.dcm": {"PatientID": "P-1"}} | OTHERS)
    assert len(set(groups.values())) == 4
    assert not caplog.records


def test_a_study_gives_its_id_to_files_without_one(tmp_path, caplog):
    groups = groups_of(
        tmp_path,
        {
            "a/x.dcm": {"PatientID": "P1", "StudyInstanceUID": "1.2"},
            "a/y.dcm": {"StudyInstanceUID": "1.2"},
            "b/z.dcm": {"PatientID": "p1", "StudyInstanceUID": "1.3"},
            "b/w.dcm": {"StudyInstanceUID": "1.3"},
        }
        | OTHERS,
    )
    assert len({groups[name] for name in ("a/x.dcm", "a/y.dcm", "b/z.dcm", "b/w.dcm")}) == 1
    assert "2 DICOM files without a PatientID of their own belong to the patient" in caplog.text


def test_two_ids_in_one_study_are_one_patient(tmp_path, caplog):
    groups = groups_of(
        tmp_path,
        {
            "a/x.dcm": {"PatientID": "old", "StudyInstanceUID": "1.2"},
            "a/y.dcm": {"PatientID": "new", "StudyInstanceUID": "1.2"},
            "b/z.dcm": {"PatientID": "new", "StudyInstanceUID": "1.4"},
        }
        | OTHERS,
    )
    assert groups["a/x.dcm"] == groups["a/y.dcm"] == groups["b/z.dcm"]
    assert "1 patients have two PatientIDs in one study" in caplog.text


def test_a_study_of_everybody_joins_nobody(tmp_path, caplog):
    files = {
        f"{label}/{i}.dcm": {"PatientID": f"{label}{i}", "StudyInstanceUID": "1.2"}
        for label in "ab"
        for i in range(3)
    }
    groups = groups_of(tmp_path, files | {"a/none.dcm": {"StudyInstanceUID": "1.2"}})
    assert len(set(groups.values())) == 7
    assert groups["a/none.dcm"] == "a/none.dcm"
    assert "1 StudyInstanceUIDs belong to several PatientIDs" in caplog.text


@pytest.mark.parametrize(
    "word",
    ["ANONYMIZED", "anonymous patient", "No ID", "Anon.", "UNKNOWN", "N/A", "de-identified", "***", "XXXX"],
)
def test_a_word_that_stands_for_nobody_is_no_patient(tmp_path, caplog, word):
    files = {
        f"{label}/{i}.dcm": {"PatientID": word, "StudyInstanceUID": f"1.{i}"}
        for label in "ab"
        for i in range(2)
    }
    groups = groups_of(tmp_path, files | OTHERS)
    assert groups["a/0.dcm"] == groups["b/0.dcm"]
    assert len(set(groups.values())) == 4
    assert "4 DICOM files have a PatientID that stands for nobody" in caplog.text


def test_one_id_for_everybody_is_no_patient(tmp_path, caplog):
    files = {
        f"{label}/{i}.dcm": {"PatientID": "trial-7", "StudyInstanceUID": f"1.{n}.{i // 2}"}
        for n, label in enumerate("ab")
        for i in range(4)
    }
    assert len(set(groups_of(tmp_path, files).values())) == 4
    assert (
        "8 DICOM files have a PatientID that stands for nobody, or the same one in all classes" in caplog.text
    )
    assert "StudyInstanceUID" in caplog.text


def test_one_id_for_everybody_without_studies_leaves_patients_unknown(tmp_path, caplog):
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(4):
            write_dicom(tmp_path / label / f"{i}.dcm", RAMP, bits=12, PatientID="ANONYMIZED")
    assert load_image_folder(tmp_path).groups is None
    assert "stands for nobody" in caplog.text


def test_one_study_for_everybody_is_told(tmp_path, caplog):
    files = {f"{label}/{i}.dcm": {"StudyInstanceUID": "1.2"} for label in "ab" for i in range(2)}
    assert len(set(groups_of(tmp_path, files).values())) == 1
    assert "all 4 DICOM files without a PatientID have the same StudyInstanceUID" in caplog.text


@pytest.mark.parametrize("name", ["ANON0001", "anonymous-17", "test12", "patient 5", "0"])
def test_an_id_with_a_number_is_an_id(tmp_path, caplog, name):
    groups = groups_of(tmp_path, {"a/x.dcm": {"PatientID": name}, "b/y.dcm": {"PatientID": name}} | OTHERS)
    assert groups["a/x.dcm"] == groups["b/y.dcm"]
    assert not caplog.records


def test_an_id_that_is_the_accession_number_is_a_study(tmp_path, caplog):
    files = {
        "a/x.dcm": {"PatientID": "A100", "AccessionNumber": "a100", "StudyInstanceUID": "1.2"},
        "a/y.dcm": {"PatientID": "P1", "AccessionNumber": "A100", "StudyInstanceUID": "1.2"},
        "b/z.dcm": {"PatientID": "P1", "AccessionNumber": "A101", "StudyInstanceUID": "1.3"},
        "b/w.dcm": {"PatientID": "A102", "AccessionNumber": "A102"},
    }
    groups = groups_of(tmp_path, files | OTHERS)
    assert groups["a/x.dcm"] == groups["a/y.dcm"] == groups["b/z.dcm"]
    assert len(set(groups.values())) == 4
    assert "2 DICOM files have a PatientID that is their AccessionNumber" in caplog.text


@pytest.mark.parametrize(
    ("name", "number"),
    [("patient7", "7"), ("Patient_07", "7"), ("patient7", "007"), ("patient 7", "P7"), ("sub-X7", "sub-x7")],
)
def test_a_name_and_an_id_of_one_number_are_one_patient(tmp_path, caplog, name, number):
    touch(tmp_path, f"a/{name}_left.png", "a/patient8_left.png")
    groups = groups_of(tmp_path, {"b/x.dcm": {"PatientID": number}} | OTHERS)
    assert groups[f"a/{name}_left.png"] == groups["b/x.dcm"]
    assert len(set(groups.values())) == 4
    assert "1 patients are known by file names and by a PatientID" in caplog.text


def test_a_name_and_an_id_are_one_patient_if_files_have_both(tmp_path):
    touch(tmp_path, "b/patient12_b.png")
    groups = groups_of(tmp_path, {"a/patient12_a.dcm": {"PatientID": "QZ-88"}} | OTHERS)
    assert groups["a/patient12_a.dcm"] == groups["b/patient12_b.png"]


def test_an_id_counts_more_than_a_name_that_many_patients_share(tmp_path):
    """A viewer exports series as IM-0001-0001.dcm, and an institute puts years into names."""
    files = {f"{label}/IM-0001-000{i}.dcm": {"PatientID": f"{label}{i}"} for label in "ab" for i in range(3)}
    files |= {
        f"{label}/patient2023_{i}.dcm": {"PatientID": f"{label}{i}"} for label in "ab" for i in range(3)
    }
    groups = groups_of(tmp_path, files)
    assert len(set(groups.values())) == 6
    assert groups["a/IM-0001-0002.dcm"] == groups["a/patient2023_2.dcm"]


def test_a_name_counts_more_than_a_study(tmp_path):
    files = {
        "a/patient1_a.dcm": {"StudyInstanceUID": "1.2"},
        "b/patient1_b.dcm": {"StudyInstanceUID": "1.3"},
        "b/c.dcm": {"StudyInstanceUID": "1.3"},
    }
    assert set(groups_of(tmp_path, files).values()) == {"patient1"}


def test_frames_of_a_file_have_the_patient_of_the_file(tmp_path):
    (tmp_path / "a").mkdir()
    write_dicom(tmp_path / "a" / "two.dcm", np.stack([RAMP, RAMP]), bits=12, frames=2, PatientID="p1")
    groups = groups_of(tmp_path, {"b/x.dcm": {"PatientID": "P1 "}} | OTHERS)
    assert groups["a/two.dcm#0"] == groups["a/two.dcm#1"] == groups["b/x.dcm"]


def test_no_identifier_is_told(tmp_path, caplog):
    tags = {
        "StudyInstanceUID": f"{ROOT}.1",
        "AccessionNumber": f"{WORD}0",
        "IssuerOfPatientID": f"{WORD}issuer",
    }
    files = {
        "a/0.dcm": tags | {"PatientID": f"{WORD}0"},
        "a/1.dcm": tags | {"PatientID": f"{WORD}1"},
        "a/2.dcm": tags | {"PatientID": f"{WORD.lower()}1 "},
        "b/3.dcm": tags | {"PatientID": f"{WORD}3", "StudyInstanceUID": f"{ROOT}.2"},
        "b/4.dcm": {"StudyInstanceUID": f"{ROOT}.2", "StudyDate": DATE},
        "b/5.dcm": tags | {"PatientID": "7", "StudyInstanceUID": f"{ROOT}.3"},
        "b/6.dcm": tags | {"PatientID": "ANONYMIZED", "StudyInstanceUID": f"{ROOT}.4"},
    }
    touch(tmp_path, "a/patient7.png", "a/none.png")
    groups = groups_of(tmp_path, files)
    assert len(caplog.records) >= 5
    assert found_in((caplog.text + str(groups)).encode(), WORD, WORD.lower(), ROOT, DATE) == []


EMPTY = "2 DICOM files have no PatientID"


def test_several_studies_without_an_id_are_told(tmp_path, caplog):
    """De-identification by PS3.15 empties PatientID. Two studies may then be one patient."""
    files = {
        "a/x.dcm": {"PatientID": "", "StudyInstanceUID": "1.2"},
        "b/y.dcm": {"StudyInstanceUID": "1.3"},
    }
    groups = groups_of(tmp_path, files | OTHERS)
    assert len(set(groups.values())) == 4
    assert EMPTY in caplog.text
    assert "a patient with several studies counts several times" in caplog.text


@pytest.mark.parametrize(
    "second",
    [
        {"StudyInstanceUID": "1.2"},
        {"StudyInstanceUID": "1.3", "PatientID": "P1"},
        {"StudyInstanceUID": "1.3", "PatientID": "unknown"},
        {},
    ],
    ids=["one study", "another has an ID", "another has a word", "another has no study"],
)
def test_a_single_study_without_an_id_is_not_told(tmp_path, caplog, second):
    files = {"a/x.dcm": {"PatientID": "", "StudyInstanceUID": "1.2"}, "b/y.dcm": second}
    groups_of(tmp_path, files | OTHERS)
    assert "DICOM files have no PatientID" not in caplog.text
