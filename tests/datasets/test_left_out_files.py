"""Which files of a class folder are images, and that none is dropped without a word."""

import builtins
import logging
import os
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.folders import refusal, relative, touch
from support.medical_files import RAMP, pydicom, write_dicom, write_nifti
from support.unusual_dicom import body, image_of

from medvlad.datasets.describe import describe_dataset
from medvlad.datasets.folders import list_images, load_image_folder
from medvlad.images.formats import UNREAD_SUFFIXES, is_image_name
from medvlad.images.read import load_image


def two_classes(root):
    """Make two classes of one image each."""
    for label in "ab":
        (root / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(root / label / "0.png")
    return root


@pytest.mark.parametrize(
    "name", ["x.IMA", "x.img", "x", "x.1", "1.2.840.113", "x.dat", "x.png", "x.tif", "x.bak"]
)
def test_dicom_is_an_image_whatever_its_ending(tmp_path, name):
    write_dicom(two_classes(tmp_path) / "a" / name, RAMP, bits=12, PatientID="P1")
    data = load_image_folder(tmp_path)
    assert relative(data, tmp_path) == [*sorted(["a/0.png", f"a/{name}"]), "b/0.png"]
    i = relative(data, tmp_path).index(f"a/{name}")
    assert (data.kinds[i], data.patient_sources[i]) == ("DICOM", "PatientID")
    assert load_image(data.paths[i]).shape == (2, 3, 3)
    assert str(data.paths[i]) in list_images(tmp_path)


@pytest.mark.parametrize("name", ["x.IMA", "x", "x.dcm"])
def test_dicom_without_meta_information_has_a_patient(tmp_path, name):
    data = image_of(RAMP, bits=12, PatientID="P1")
    (two_classes(tmp_path) / "a" / name).write_bytes(body(data))
    write_dicom(tmp_path / "b" / "1.dcm", RAMP, bits=12, PatientID="p1 ")
    found = load_image_folder(tmp_path)
    patients = dict(zip(relative(found, tmp_path), found.groups.tolist(), strict=True))
    assert patients[f"a/{name}"] == patients["b/1.dcm"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "WEBP"])
def test_a_picture_without_an_ending_is_an_image(tmp_path, kind):
    two_classes(tmp_path)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a" / "scan", format=kind)
    data = load_image_folder(tmp_path)
    assert "a/scan" in relative(data, tmp_path)
    assert load_image(tmp_path / "a" / "scan").shape == (8, 8, 3)


ENDINGS = [
    ".heic",
    ".HEIF",
    ".jpf",
    ".jxr",
    ".jxl",
    ".mha",
    ".mhd",
    ".mgz",
    ".nrrd",
    ".svs",
    ".ndpi",
    ".czi",
    ".img",
]


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_image_that_cannot_be_read_is_a_warning(tmp_path, caplog, ending):
    touch(two_classes(tmp_path), f"b/1{ending}", f"b/2{ending}")
    assert len(load_image_folder(tmp_path)) == 2
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"2 images are left out, because their formats are not read (b: 2 {ending.lower()})" in caplog.text
    assert "convert them" in caplog.text


def test_images_that_cannot_be_read_are_counted_by_class_and_ending(tmp_path, caplog):
    for part in ("train", "test"):
        two_classes(tmp_path / part)
    touch(
        tmp_path, "train/a/1.heic", "test/a/2.heic", "train/a/sub/3.svs", "train/b/4.mgz", "train/b/notes.txt"
    )
    data = load_image_folder(tmp_path)
    assert "(a: 2 .heic, 1 .svs; b: 1 .mgz)" in caplog.text
    assert data.left_out == {"a": {".heic": 2, ".svs": 1}, "b": {".mgz": 1}}
    assert describe_dataset(data.subset("test"))["left_out"] == data.left_out


def test_a_foreign_picture_without_its_ending_is_counted_by_its_format(tmp_path, caplog):
    two_classes(tmp_path)
    (tmp_path / "a" / "x").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    (tmp_path / "b" / "y").write_bytes(b"8BPS" + bytes(200))
    (tmp_path / "b" / "0.png").rename(tmp_path / "b" / "0.backup")
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "b" / "1.png")
    assert load_image_folder(tmp_path).left_out == {"a": {"HEIC": 1}, "b": {"PNG": 1, "Photoshop": 1}}


def test_a_class_whose_images_cannot_be_read_is_told_so(tmp_path):
    touch(two_classes(tmp_path), "c/1.svs", "c/2.svs")
    refusal(
        lambda: load_image_folder(tmp_path), "'" + str(tmp_path / "c"), "(2 .svs are left out): convert them"
    )


def test_files_that_are_no_images_are_no_warning(tmp_path, caplog):
    touch(two_classes(tmp_path), "a/notes.txt", "a/labels.csv", "b/README", "b/Thumbs.db", "b/x.json")
    assert len(load_image_folder(tmp_path)) == 2
    assert not caplog.records


def test_extraction_is_told_of_images_that_cannot_be_read(tmp_path, caplog):
    touch(two_classes(tmp_path), "a/1.heic")
    assert len(list_images(tmp_path)) == 2
    assert "1 images are left out, because their formats are not read (1 .heic)" in caplog.text


def test_reports_and_directories_of_dicom_are_no_images(tmp_path):
    two_classes(tmp_path)
    for name, kind in (("DICOMDIR", "1.2.840.10008.1.3.10"), ("sr.dcm", pydicom.uid.BasicTextSRStorage)):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = kind, "1.2.3"
        data.PatientID = "P1"
        pydicom.dcmwrite(tmp_path / "a" / name, data, enforce_file_format=True)
    assert relative(load_image_folder(tmp_path), tmp_path) == ["a/0.png", "b/0.png"]


@pytest.mark.parametrize("n_bytes", [150, 300, 400, 500])
def test_a_truncated_image_is_not_taken_for_a_report(tmp_path, n_bytes):
    """Wherever it ends, reading it reports the reason."""
    path = write_dicom(two_classes(tmp_path) / "a" / "1.dcm", np.zeros((99, 99), np.uint16))
    path.write_bytes(path.read_bytes()[:n_bytes])
    assert "a/1.dcm" in relative(load_image_folder(tmp_path), tmp_path)


def test_readable_and_unreadable_endings_do_not_overlap():
    assert not [ending for ending in UNREAD_SUFFIXES if is_image_name(f"x{ending}")]


@pytest.mark.parametrize("kind", ["png", "dcm", "IMA", "", "txt"])
def test_each_file_is_opened_once(tmp_path, monkeypatch, kind):
    """Listing a folder on a network drive must stay cheap."""
    two_classes(tmp_path)
    path = tmp_path / "a" / (f"1.{kind}" if kind else "1")
    if kind == "png":
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(path)
    elif kind == "txt":
        path.write_text("no image" * 99)
    else:
        write_dicom(path, np.stack([RAMP] * 3), bits=12, frames=3, PatientID="P1")
    opened, open_file = Counter[Path](), Path.open

    def counted(self, *args, **kwargs):
        opened[self] += 1
        return open_file(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", counted)
    plain = builtins.open

    def counted_plain(file, *args, **kwargs):
        opened[Path(os.fspath(file))] += 1
        return plain(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", counted_plain)
    load_image_folder(tmp_path)
    assert opened[path] == 1


def test_volumes_are_listed_slice_by_slice(tmp_path):
    write_nifti(two_classes(tmp_path) / "a" / "v.nii.gz", np.arange(60, dtype=np.int16).reshape(4, 5, 3))
    data = load_image_folder(tmp_path)
    assert relative(data, tmp_path)[1:4] == ["a/v.nii.gz#0", "a/v.nii.gz#1", "a/v.nii.gz#2"]
    assert data.kinds.tolist() == [".png", "NIfTI", "NIfTI", "NIfTI", ".png"]


# -------------------------------------------------------------------------------- names of folders

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "tumör") for form in ("NFC", "NFD"))


def test_two_spellings_of_an_accent_are_one_class(tmp_path):
    touch(tmp_path, f"{COMPOSED}/1.png", f"{DECOMPOSED}/2.png", "a/1.png")
    data = load_image_folder(tmp_path)
    assert data.class_names == ["a", COMPOSED]
    assert data.labels.tolist() == [0, 1, 1]


def test_parts_may_spell_an_accent_differently(tmp_path):
    touch(tmp_path, f"train/{COMPOSED}/1.png", "train/a/1.png", f"test/{DECOMPOSED}/2.png", "test/a/2.png")
    data = load_image_folder(tmp_path)
    assert data.class_names == ["a", COMPOSED]
    assert data.splits.tolist() == ["train", "train", "test", "test"]


def test_two_spellings_of_an_accent_are_one_patient(tmp_path):
    touch(tmp_path, f"a/{COMPOSED}_1.png", f"b/{DECOMPOSED}_2.png", "b/other_3.png")
    data = load_image_folder(tmp_path, group_pattern=r"/(\w+)_\d")
    assert len(set(data.groups.tolist())) == 2


def test_val_without_test_is_told(tmp_path, caplog):
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "Validation/a/2.png", "Validation/b/2.png")
    assert len(load_image_folder(tmp_path)) == 4
    assert "there is a folder Validation but no test" in caplog.text
    assert "rename it to test" in caplog.text


def test_val_beside_classes_is_told_to_be_a_class(tmp_path, caplog):
    touch(tmp_path, "val/1.png", "a/1.png", "b/1.png")
    assert load_image_folder(tmp_path).class_names == ["a", "b", "val"]
    assert "the folder val is taken for a class" in caplog.text


def test_val_with_train_and_test_is_no_warning(tmp_path, caplog):
    touch(tmp_path, *(f"{part}/{label}/{part}.png" for part in ("train", "val", "test") for label in "ab"))
    load_image_folder(tmp_path)
    assert not caplog.records
