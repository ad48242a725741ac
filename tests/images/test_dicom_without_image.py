"""DICOM that holds no image, such as a directory, a report or a PDF, is not listed as an image of a class."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.unusual_dicom import BIG, EXPLICIT, IMPLICIT, body, image_of, pydicom, write

from medvlad import InputError, load_image_folder
from medvlad.datasets.folders import list_images
from medvlad.images.dicom import holds_an_image
from medvlad.images.read import load_image

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
RAMP = np.arange(16, dtype=np.uint16).reshape(4, 4)


def without_image(kind):
    """Return a data set of one of the kinds that hold no image."""
    data = pydicom.Dataset()
    data.SOPInstanceUID, data.Modality = "1.2.3", kind
    data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.3.4", "1.2.3.5"
    if kind == "DOC":
        data.SOPClassUID = pydicom.uid.EncapsulatedPDFStorage
        data.EncapsulatedDocument, data.MIMETypeOfEncapsulatedDocument = b"%PDF-1.4", "application/pdf"
    elif kind == "SR":
        data.SOPClassUID, data.ValueType = pydicom.uid.BasicTextSRStorage, "CONTAINER"
        data.ContentSequence = [pydicom.Dataset()]
    else:
        data.FileSetID, data.DirectoryRecordSequence = "A", [pydicom.Dataset()]
    return data


@pytest.mark.parametrize("encoding", [IMPLICIT, EXPLICIT, BIG], ids=["implicit", "explicit", "big"])
@pytest.mark.parametrize("kind", ["DOC", "SR", "DICOMDIR"])
@pytest.mark.parametrize("name", ["DICOMDIR", "a.dcm", "a.png", "IM0001"])
def test_the_content_tells_that_there_is_no_image(tmp_path, name, kind, encoding):
    path = write(tmp_path / name, without_image(kind), encoding)
    assert not holds_an_image(path)
    path.write_bytes(body(without_image(kind), encoding))
    assert not holds_an_image(path)
    with pytest.raises(InputError, match="DICOM without an image: remove it"):
        load_image(path)


@pytest.mark.parametrize(
    "name",
    [
        "reportsi.dcm",
        "test-SR.dcm",
        "rtplan.dcm",
        "rtstruct.dcm",
        "waveform_ecg.dcm",
        "dicomdirtests/DICOMDIR",
    ],
)
def test_samples_of_pydicom_without_an_image(name):
    path = SAMPLES / name
    if not path.exists():
        pytest.skip("not in this version of pydicom")
    assert not holds_an_image(path)


@pytest.mark.parametrize("name", ["CT_small.dcm", "rtdose.dcm", "MR_truncated.dcm", "JPGExtended.dcm"])
def test_samples_of_pydicom_with_an_image(name):
    path = SAMPLES / name
    if not path.exists():
        pytest.skip("not in this version of pydicom")
    assert holds_an_image(path)


def test_what_cannot_be_read_is_listed_so_that_reading_reports_the_reason(tmp_path):
    content = body(image_of(RAMP))
    for length in (len(content) - 50, content.index(b"\x28\0\x10\0"), 100):
        path = tmp_path / f"{length}.dcm"
        path.write_bytes(content[:length])
        assert holds_an_image(path)
        with pytest.raises(InputError, match="damaged, or not DICOM"):
            load_image(path)
    text, missing = tmp_path / "b.dcm", tmp_path / "c.dcm"
    text.write_text("no image at all")
    missing.symlink_to(tmp_path / "nowhere")
    assert holds_an_image(text)
    assert holds_an_image(missing)


def test_files_without_an_image_are_left_out_of_a_data_set_and_counted(tmp_path, caplog):
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        Image.fromarray(RAMP.astype(np.uint8)).save(folder / "x.png")
        write(folder / "y.dcm", image_of(RAMP))
        write(folder / "DICOMDIR", without_image("DICOMDIR"))
        write(folder / "report.dcm", without_image("SR"))
        write(folder / "letter.png", without_image("DOC"))
    with caplog.at_level(logging.WARNING):
        data = load_image_folder(tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in data.paths]
    assert names == ["a/x.png", "a/y.dcm", "b/x.png", "b/y.dcm"]
    assert "6 DICOM files without an image (directories, reports, PDF) are left out" in caplog.text
    assert len(list_images(tmp_path)) == 4
