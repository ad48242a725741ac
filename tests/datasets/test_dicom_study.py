"""A folder of DICOM files as a data set: patients are groups, and no identifier is written."""

import sys

import numpy as np
import pytest
from support.medical_files import RAMP, write_dicom

from medvlad import load_image_folder
from medvlad._util.validate import MissingExtraError
from medvlad.datasets.folders import list_images
from medvlad.images.hashed_file import image_key
from medvlad.images.read import load_image

pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")


@pytest.fixture
def study(tmp_path):
    """Two classes; three patients, one of them with a file of two frames and a file without an ending."""
    root = tmp_path / "study"
    for i, (kind, patient) in enumerate((("a", "P1"), ("a", "P2"), ("b", "P2"), ("b", "P3"))):
        (root / kind).mkdir(parents=True, exist_ok=True)
        write_dicom(root / kind / f"{i}.dcm", RAMP + i, bits=12, PatientID=f"patient {patient}")
    write_dicom(root / "b" / "IM_0001", RAMP + 5, bits=12, PatientID="patient P1")
    two = np.stack([RAMP, RAMP + 9])
    write_dicom(root / "b" / "two.dcm", two, bits=12, frames=2, PatientID="patient P3")
    return root


def test_patients_are_groups_that_name_nobody(study):
    data = load_image_folder(study)
    names = [path.relative_to(study).as_posix() for path in data.paths]
    assert names == ["a/0.dcm", "a/1.dcm", "b/2.dcm", "b/3.dcm", "b/IM_0001", "b/two.dcm#0", "b/two.dcm#1"]
    groups = data.groups.tolist()
    assert groups[1] == groups[2]
    assert groups[0] == groups[4]
    assert groups[3] == groups[5] == groups[6]
    assert len(set(groups)) == 3
    assert not any("patient" in group for group in groups)
    assert len(list_images(study)) == 7


def test_frames_of_one_file_stay_together_if_the_patient_is_unknown(study):
    for path in study.glob("*/*"):
        data = pydicom.dcmread(path)
        data.PatientID = ""
        data.save_as(path)
    groups = load_image_folder(study).groups.tolist()
    assert groups[5] == groups[6] == "b/two.dcm"
    assert len(set(groups)) == 6


def test_the_study_identifies_a_patient_without_an_id(tmp_path):
    for name, uid in (("a", "1.2"), ("b", "1.2")):
        (tmp_path / name).mkdir()
        write_dicom(tmp_path / name / "x.dcm", RAMP, bits=12, StudyInstanceUID=uid)
    groups = load_image_folder(tmp_path).groups.tolist()
    assert groups[0] == groups[1]
    assert "1.2" not in groups[0]


def test_frames_of_one_file_stay_together_under_any_pattern(study):
    pattern = r"/(\d)\.dcm"
    groups = load_image_folder(study, group_pattern=pattern).groups.tolist()
    assert groups == ["0", "1", "2", "3", "b/IM_0001", "b/two.dcm", "b/two.dcm"]
    groups = load_image_folder(study, group_pattern=r"/(0)\.dcm").groups.tolist()
    assert groups[5] == groups[6]
    assert len(set(groups)) == 6


def test_keys_of_frames(study):
    path = study / "b" / "two.dcm"
    digests = {}
    assert [image_key(f, digests) for f in (f"{path}#0", path)] == [f"{image_key(path)}#0", image_key(path)]
    digests = {}
    keys = [image_key(f"{path}#{i}", digests) for i in range(2)]
    assert keys == [f"{image_key(path)}#{i}" for i in range(2)]
    assert list(digests) == [path]
    assert [image_key(f"{path}#{i}") for i in range(2)] == keys


def test_dicom_without_the_extra_names_the_extra(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtraError, match=r"DICOM needs .*pip install 'medvlad\[medical\]'"):
        load_image(study / "a" / "0.dcm")
    with pytest.raises(MissingExtraError, match=r"medvlad\[medical\]"):
        load_image_folder(study)


def test_no_patient_is_named_from_extraction_to_prediction(
    study, tmp_path, small_weights, capsys, monkeypatch
):
    """Extraction, a store, training and prediction of each frame: no identifier is in any file."""
    from medvlad import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["medvlad", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, capsys.readouterr()

    network = ["--model", "mobilenetv2", "--layer", "block_5_add", "--weights", small_weights]
    network += ["--store", tmp_path / "store"]
    status, captured = run("extract", study, *network)
    assert status == 0
    assert "\n7 images, 7 of them extracted now" in captured.out
    model = tmp_path / "model"
    assert run("train", study, *network, "--encode", "avg", "-o", model)[0] == 0
    status, captured = run("predict", model, study / "b" / "two.dcm", study / "a" / "0.dcm", "--json")
    assert status == 0
    assert captured.out.count('"label"') == 3
    assert "two.dcm#1" in captured.out
    for path in [model, *(p for p in (tmp_path / "store").rglob("*") if p.is_file())]:
        assert b"patient P" not in path.read_bytes()
