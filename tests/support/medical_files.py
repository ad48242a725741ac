"""DICOM and NIfTI files made by hand, and how the tests read them."""

import numpy as np
import pytest

from medvlad._util.validate import InputError
from medvlad.images.read import load_image

pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")
nibabel = pytest.importorskip("nibabel", reason="needs the extra medical")

RAMP = np.array([[0, 1000, 2000], [3000, 4000, 4095]], np.uint16)
"""Numbers of 12 bits, from the smallest to the largest."""


def write_dicom(path, pixels, *, bits=None, signed=False, photometric="MONOCHROME2", frames=None, **tags):
    """Write an uncompressed DICOM file of these numbers."""
    pixels = np.asarray(pixels)
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.SOPClassUID, data.SOPInstanceUID = pydicom.uid.SecondaryCaptureImageStorage, "1.2.3"
    colour = pixels.ndim == 3 + (frames is not None)
    data.Rows, data.Columns = pixels.shape[1:3] if frames else pixels.shape[:2]
    data.SamplesPerPixel = 3 if colour else 1
    if colour:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = 8 * pixels.itemsize
    data.BitsStored = bits or data.BitsAllocated
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(signed)
    if frames:
        data.NumberOfFrames = frames
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    data.save_as(path, enforce_file_format=True)
    return path


def write_nifti(path, values, affine=None, **header):
    """Write a volume. `affine` is the identity if it is None; `header` sets fields of the header."""
    image = nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def grey(path):
    """Return one channel of a loaded image, after a check that all three are equal."""
    pixels = load_image(path)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def pixels_or_reason(path):
    """Return the pixels and None, or None and why the image was refused."""
    try:
        return load_image(path), None
    except InputError as error:
        return None, str(error)
