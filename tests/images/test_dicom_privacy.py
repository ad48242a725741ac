"""Headers of DICOM files are never quoted, and a patient is known by a digest only."""

import hashlib
import subprocess
import sys
import warnings

import numpy as np
import pytest
from support.marked_dicom import DATE, ROOT, WORD, dicom, found_in, patient_of

from medvlad import InputError
from medvlad.images.read import list_frames, load_image

pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")


def test_an_invalid_study_is_not_quoted(tmp_path, caplog, recwarn):
    """pydicom neither warns nor logs about a complete file."""
    path = dicom(tmp_path / "a.dcm", np.arange(64).reshape(8, 8), 0)
    recwarn.clear()
    caplog.clear()
    assert patient_of(path)
    assert list_frames(path) == [path]
    assert load_image(path).shape == (8, 8, 3)
    assert not recwarn.list
    assert caplog.records == []


@pytest.mark.slow
def test_workers_do_not_quote_headers(tmp_path, small_weights):
    """Processes that extract for the command show no warnings of pydicom either."""
    pytest.importorskip("distributed", reason="needs the extra distributed")
    (tmp_path / "scans" / "a").mkdir(parents=True)
    for i in range(3):
        dicom(tmp_path / "scans" / "a" / f"{i}.dcm", np.arange(4096).reshape(64, 64) % 97, i)
    damaged, syntax = tmp_path / "scans" / "a" / "1.dcm", b"\x02\x00\x10\x00UI"
    before, after = damaged.read_bytes().split(syntax)
    damaged.write_bytes(before + syntax + b"\xe8\x03" + after[2:])  # as long as all that follows
    with pytest.warns(UserWarning, match=WORD), pytest.raises(InputError, match="is damaged"):
        load_image(damaged)
    network = ["--model", "mobilenetv2", "--layer", "out_relu", "--weights", small_weights]
    options = [*network, "--workers", "1", "--store", "store", "--on-error", "skip"]
    done = subprocess.run(
        [sys.executable, "-m", "medvlad", "extract", "scans", *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "skipped: image 'scans/a/1.dcm' is DICOM in a transfer syntax" in done.stderr
    assert WORD not in done.stderr


def test_a_damaged_patient_is_unknown(tmp_path):
    path = dicom(tmp_path / "a.dcm", np.arange(64).reshape(8, 8), 1)
    assert patient_of(path)
    content = path.read_bytes()
    assert content.count(b"\x10\x00\x20\x00LO") == 2
    path.write_bytes(content.replace(b"\x10\x00\x20\x00LO", b"\x10\x00\x20\x00L\x18"))
    assert patient_of(path) is None


def test_damaged_headers_are_not_quoted(tmp_path, rng):
    """In files that are truncated, overwritten or lack bytes: errors of pydicom hold no identifier."""
    whole = dicom(tmp_path / "a.dcm", np.arange(64).reshape(8, 8), 1).read_bytes()
    path, refused = tmp_path / "b.dcm", []
    for i in range(300):
        content = bytearray(whole)
        at = int(rng.integers(132, len(whole) - 128))
        if i % 3 == 0:
            del content[at:]
        elif i % 3 == 1:
            content[at : at + 2] = rng.bytes(2)
        else:
            del content[at : at + int(rng.integers(1, 9))]
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's own, which the command line does not show
            patient_of(path)
            list_frames(path)
            try:
                load_image(path)
            except InputError as error:
                refused.append(str(error))
    assert len(refused) > 100
    assert found_in("\n".join(refused).encode(), WORD[2:], DATE, ROOT) == []


def test_a_patients_digest_is_found_by_trying(tmp_path):
    """The digest is not a secret, as docs/howto/privacy.md says: all IDs of five digits are tried at once."""
    path = tmp_path / "a.dcm"
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.PatientID = "04711"
    data.save_as(path, enforce_file_format=True)
    digest = patient_of(path)
    tried = (f"{number:05}" for number in range(100_000))
    found = [one for one in tried if hashlib.sha256(f"patient {one} ".encode()).hexdigest()[:16] == digest]
    assert found == ["04711"]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            f"A (0028,0101) 'Bits Stored' value of '{WORD}' is invalid, it must be 1",
            "A (0028,0101) ... is invalid, it must be 1",
        ),
        ("There aren't enough items", "There aren't enough items"),
        ("the frame's end is missing", "the frame's end is missing"),
        (f"could not convert string to float: b'{WORD}'", "could not convert string to float"),
        (f'a value b"{WORD}\'s and {WORD}" was found', "a value ... was found"),
        (f"'{WORD}' s {WORD}' is invalid", "... is invalid"),
        (f"not closed: '{WORD} and {WORD}", "not closed"),
        (f"'{WORD}'", "ValueError"),
    ],
)
def test_the_reason_of_a_refusal_has_no_quoted_text(tmp_path, monkeypatch, message, reason):
    def fail(*_):
        raise ValueError(message)

    monkeypatch.setattr("medvlad.images.dicom.decode_frame", fail)
    path = dicom(tmp_path / "a.dcm", np.arange(64).reshape(8, 8), 0)
    with pytest.raises(InputError) as error:
        load_image(path)
    assert f"is damaged, or not DICOM ({reason}): copy it again" in str(error.value)
