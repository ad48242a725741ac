"""DICOM files with markers in every element that may name somebody, and a search for the markers.

Also the digest of a file's patient.
"""

import base64
import re

import pytest

from medvlad.images.dicom import dicom_facts

pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")

#: In metadata of any kind. It must not be written anywhere.
WORD = "Qxmarker"
DATE, ROOT = "17530904", "1.2.826.0.1.77318829"

TAGS = re.findall(
    r"\w+",
    """
    AccessionNumber AdditionalPatientHistory DerivationDescription DeviceSerialNumber EthnicGroup
    ImageComments InstitutionAddress InstitutionName InstitutionalDepartmentName Manufacturer
    ManufacturerModelName MedicalRecordLocator Occupation OperatorsName OtherPatientIDs
    OtherPatientNames PatientAddress PatientBirthName PatientComments PatientMotherBirthName
    PatientTelephoneNumbers PerformingPhysicianName PhysiciansOfRecord ProtocolName
    ReferringPhysicianName RequestingPhysician SeriesDescription StationName StudyDescription
    StudyID
    """,
)


def dicom(path, pixels, patient):
    """Write a DICOM file with markers in every element that may name somebody."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.1.{patient}"
    data.file_meta.SourceApplicationEntityTitle = WORD
    data.file_meta.PrivateInformationCreatorUID = f"{ROOT}.2"
    data.file_meta.PrivateInformation = WORD.encode()
    data.SOPClassUID, data.SOPInstanceUID = pydicom.uid.SecondaryCaptureImageStorage, f"{ROOT}.1.{patient}"
    with pydicom.config.disable_value_validation():
        if patient:
            data.PatientID, data.IssuerOfPatientID = f"{WORD}{patient}", f"{WORD}issuer"
        # Without an ID the study identifies the patient. This invalid form makes pydicom quote it.
        data.StudyInstanceUID = f"{ROOT}.3.{patient}" if patient else f"{WORD} {ROOT}"
        data.SeriesInstanceUID = data.FrameOfReferenceUID = f"{ROOT}.4.{patient}"
        data.PatientName = f"{WORD}^{patient}"
        data.PatientBirthDate = data.StudyDate = data.SeriesDate = data.ContentDate = DATE
        data.PatientAge, data.PatientSex = WORD, WORD  # both invalid
        for tag in TAGS:
            setattr(data, tag, f"{WORD}{tag[:6]}")
        other = pydicom.Dataset()
        other.PatientID = f"{WORD}other"
        data.OtherPatientIDsSequence = pydicom.Sequence([other])
        data.private_block(0x0011, f"{WORD} CREATOR", create=True).add_new(0x01, "LO", f"{WORD}private")
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 0
        data.PixelData = pixels.astype("<u2").tobytes()
        data["PixelData"].VR = "OW"
        data.DataSetTrailingPadding = WORD.encode() * 2
        data.preamble = (WORD * 16).encode()
        data.save_as(path, enforce_file_format=True)
    return path


def patient_of(path):
    """Return the digest of the ID in a DICOM file, or else of its study, or None."""
    with path.open("rb") as file:
        identity = dicom_facts(file, path).identity
    return None if identity is None else identity.patient or identity.study


def forms(word):
    """Return the bytes of a word in several encodings. Fewer than six bytes are in any picture by chance."""
    raw = word.encode()
    found = [raw, raw.upper(), raw.hex().encode(), raw.hex().upper().encode()]
    found += [word.encode("utf-16-le"), word.encode("utf-16-be")]
    for shift in range(3):  # base64 at each offset: only the characters that do not depend on neighbours
        encoded = base64.b64encode(b"\0" * shift + raw + b"\0\0")
        found.append(encoded[-(-8 * shift // 6) : 8 * (shift + len(raw)) // 6])
    return [form for form in found if len(form) >= 6]


def found_in(content, *words):
    """Return the words that `content` holds in any encoding."""
    return [word for word in words for form in forms(word) if form in content]
