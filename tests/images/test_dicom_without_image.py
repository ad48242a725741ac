"""DICOM that holds no image, such as a directory, a report or a PDF, is not listed as an image of a class."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.unusual_dicom import BIG, EXPLICIT, IMPLICIT, body, image_of, pydicom, write

from medvlad import InputError, load_image_folder
from medvlad.datasets.folders import list_images
from medvlad.images.inspect_file import inspect_file
from medvlad.images.read import load_image

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
RAMP = np.arange(16, dtype=np.uint16).reshape(4, 4)


def holds_an_image(path):
    return bool(inspect_file(path).images)


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


NOT_IMAGES = {
    "raw data": pydicom.uid.RawDataStorage,
    "spectrum": pydicom.uid.MRSpectroscopyStorage,
    "Philips spectrum": "1.3.46.670589.11.0.0.12.1",
    "Philips protocol": "1.3.46.670589.11.0.0.12.4",
    "Siemens CSA": "1.3.12.2.1107.5.9.1",
}


@pytest.mark.parametrize("encoding", [IMPLICIT, EXPLICIT, BIG], ids=["implicit", "explicit", "big"])
@pytest.mark.parametrize("kind", NOT_IMAGES)
def test_rows_and_columns_alone_are_no_image(tmp_path, kind, encoding):
    data = image_of(RAMP, encoding=encoding)
    del data.PixelData
    data.SOPClassUID = NOT_IMAGES[kind]
    path = write(tmp_path / "a.dcm", data, encoding)
    assert not holds_an_image(path)
    with pytest.raises(InputError, match="DICOM without an image: remove it"):
        load_image(path)


@pytest.mark.parametrize(
    "sop_class",
    [pydicom.uid.MRImageStorage, "1.3.46.670589.11.0.0.1", "1.3.12.2.1107.5.9.10"],
    ids=["MR", "other Philips", "other Siemens"],
)
def test_an_image_without_its_pixels_is_damaged(tmp_path, sop_class):
    data = image_of(RAMP)
    del data.PixelData
    data.SOPClassUID = sop_class
    path = write(tmp_path / "a.dcm", data)
    assert holds_an_image(path)
    with pytest.raises(InputError, match=r"damaged, or not DICOM \(the pixels are missing"):
        load_image(path)


def test_pixels_in_a_file_of_raw_data_are_an_image(tmp_path):
    data = image_of(RAMP)
    data.SOPClassUID = NOT_IMAGES["raw data"]
    assert holds_an_image(write(tmp_path / "a.dcm", data))


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
