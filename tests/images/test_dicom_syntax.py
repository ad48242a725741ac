"""A DICOM file is read in the encoding that its bytes show, whatever its meta information says."""

import numpy as np
import pytest
from PIL import Image
from support.medical_files import grey
from support.unusual_dicom import (
    BIG,
    EXPLICIT,
    IMPLICIT,
    SYNTAXES,
    body,
    encapsulated,
    image_of,
    imagecodecs,
    jpeg,
    meta,
    pydicom,
    rle,
    smooth_colours,
    write,
)

from medvlad import InputError, load_image_folder
from medvlad.images.dicom import is_dicom
from medvlad.images.read import list_frames, load_image

RAMP = np.arange(0, 4096, 273, dtype=np.uint16).reshape(4, 4)
LEVELS = np.arange(0, 256, 17).reshape(4, 4)

every_encoding = pytest.mark.parametrize(
    "encoding", [IMPLICIT, EXPLICIT, BIG], ids=["implicit", "explicit", "big"]
)


@every_encoding
@pytest.mark.parametrize(
    "start", [b"", bytes(128) + b"DICM", meta()], ids=["bare", "magic only", "no syntax named"]
)
def test_a_file_that_names_no_syntax_is_read(tmp_path, encoding, start):
    path = tmp_path / "a.dcm"
    path.write_bytes(start + body(image_of(RAMP, bits=12, encoding=encoding), encoding))
    np.testing.assert_array_equal(grey(path), LEVELS)


@every_encoding
def test_a_command_before_the_data_set_is_passed_over(tmp_path, encoding):
    command = b"\0\0\0\1\2\0\0\0\1\0"  # (0000,0100), of two bytes
    path = tmp_path / "a.dcm"
    path.write_bytes(command + body(image_of(RAMP, bits=12, encoding=encoding), encoding))
    np.testing.assert_array_equal(grey(path), LEVELS)


@every_encoding
@pytest.mark.parametrize("named", [IMPLICIT, EXPLICIT, BIG])
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_wrong_name_of_the_encoding_changes_no_pixel(tmp_path, encoding, named):
    path = tmp_path / "a.dcm"
    path.write_bytes(meta(SYNTAXES[named]) + body(image_of(RAMP, bits=12, encoding=encoding), encoding))
    np.testing.assert_array_equal(grey(path), LEVELS)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_compressed_pixels_after_implicit_elements_are_read(tmp_path):
    data = image_of(smooth_colours(), photometric="YBR_FULL_422")
    frame = jpeg(smooth_colours(), "YBR", marker="JFIF")
    data.PixelData = pydicom.encaps.encapsulate([frame])
    data["PixelData"].is_undefined_length = True
    path = tmp_path / "a.dcm"
    path.write_bytes(meta(pydicom.uid.JPEGBaseline8Bit) + body(data, IMPLICIT))
    assert np.abs(load_image(path).astype(int) - smooth_colours()).max() <= 4


COMPRESSED = {
    "JPEG": lambda: imagecodecs.jpeg8_encode(LEVELS.astype(np.uint8), level=100),
    "JPEG-LS": lambda: imagecodecs.jpegls_encode(RAMP),
    "JPEG 2000": lambda: imagecodecs.jpeg2k_encode(RAMP, level=0, codecformat="j2k", reversible=True),
    "RLE": lambda: rle(RAMP),
}


@pytest.mark.parametrize("syntax", [None, pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.JPEGLossless])
@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_compressed_frame_tells_its_own_syntax(tmp_path, kind, syntax):
    data = image_of(LEVELS.astype(np.uint8) if kind == "JPEG" else RAMP, bits=8 if kind == "JPEG" else 12)
    path = tmp_path / "a.dcm"
    path.write_bytes((b"" if syntax is None else meta(syntax)) + encapsulated([COMPRESSED[kind]()], data))
    assert np.abs(grey(path).astype(int) - LEVELS).max() <= (1 if kind == "JPEG" else 0)


def test_a_syntax_that_the_bytes_do_not_show_is_not_guessed(tmp_path):
    content = body(image_of(RAMP, bits=12))
    path = tmp_path / "a.dcm"
    path.write_bytes(b" " + content)  # a stray byte before all tags
    with pytest.raises(InputError, match=r"a\.dcm' .*names no transfer syntax, and its bytes show none"):
        load_image(path)


@pytest.mark.parametrize("syntax", ["1.2.840.113619.5.2", "1.2.840.10008.1.2.999", "1.2.840.10008.1.1"])
def test_a_private_or_unknown_syntax_is_refused(tmp_path, syntax):
    path = tmp_path / "a.dcm"
    path.write_bytes(meta(syntax) + body(image_of(RAMP, bits=12), IMPLICIT))
    with pytest.raises(InputError, match="in a transfer syntax that is not supported"):
        load_image(path)


@every_encoding
def test_dicom_without_meta_information_is_known_by_content(tmp_path, encoding):
    for kind in "ab":
        (tmp_path / kind).mkdir()
        path = tmp_path / kind / "IM0001"
        path.write_bytes(body(image_of(RAMP, bits=12, encoding=encoding, PatientID="7"), encoding))
    assert is_dicom(path)
    data = load_image_folder(tmp_path)
    assert len(data.paths) == 2
    assert data.groups[0] == data.groups[1]


@pytest.mark.parametrize(
    "content", [b"", b"\x08\0", bytes(1000), b"\x08\0\x05\0" * 300, b"some text\n" * 100]
)
def test_other_content_is_not_taken_for_dicom(tmp_path, content):
    path = tmp_path / "IM0001"
    path.write_bytes(content)
    assert not is_dicom(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "PPM"])
def test_another_picture_under_the_name_of_dicom_is_read(tmp_path, kind):
    path = tmp_path / "a.dcm"
    Image.fromarray(np.full((4, 4), 77, np.uint8)).save(path, kind)
    assert not is_dicom(path)
    assert np.abs(load_image(path).astype(int) - 77).max() <= 1
    assert list_frames(path) == [path]


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
@pytest.mark.parametrize("text", ["monochrome1", "Monochrome1", " MONOCHROME1", "MONOCHROME1\0"])
def test_monochrome1_is_inverted_however_it_is_written(tmp_path, text):
    path = write(tmp_path / "a.dcm", image_of(RAMP, bits=12, photometric=text))
    np.testing.assert_array_equal(grey(path), 255 - LEVELS)


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_ybr_in_lower_case_is_converted(tmp_path):
    ybr = np.tile(np.array([76, 85, 255], np.uint8), (4, 4, 1))  # red
    path = write(tmp_path / "a.dcm", image_of(ybr, photometric="ybr_full"))
    assert np.abs(load_image(path).astype(int) - [254, 0, 0]).max() <= 1


@pytest.mark.parametrize("photometric", ["HSV", "YBR_PARTIAL_420", "ARGB"])
def test_colours_that_nothing_converts_are_refused(tmp_path, photometric):
    path = write(tmp_path / "a.dcm", image_of(smooth_colours(), photometric=photometric))
    with pytest.raises(InputError, match=f"colours of the kind {photometric}, .* convert it to RGB"):
        load_image(path)
