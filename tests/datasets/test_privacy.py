"""What leaves this program: no request to a network, no identifier, no name that was not to be written."""

import base64
import csv
import getpass
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medvlad import InputError
from medvlad.datasets.pseudonyms import Pseudonyms, is_pseudonym
from medvlad.images.dicom import patient_of
from medvlad.images.read import list_frames, load_image

pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")

TESTS = Path(__file__).parents[1]
NETWORK = ["--model", "mobilenetv2", "--layer", "out_relu", "--weights", "net.weights.h5"]

#: In file names, and thus in every report that is not anonymised.
NAME = "Qvfilename"
#: In metadata of any kind: nowhere at all.
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
    """A DICOM file with markers in every tag that may name somebody."""
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
        # Without an ID the study stands in for it, in a form that pydicom quotes.
        data.StudyInstanceUID = f"{ROOT}.3.{patient}" if patient else f"{WORD} {ROOT}"
        data.SeriesInstanceUID = data.FrameOfReferenceUID = f"{ROOT}.4.{patient}"
        data.PatientName = f"{WORD}^{patient}"
        data.PatientBirthDate = data.StudyDate = data.SeriesDate = data.ContentDate = DATE
        data.PatientAge, data.PatientSex = WORD, WORD  # neither of which a valid file has
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


def marked(rng, patient, upright):
    wave = 2000 + 1500 * np.sin(np.arange(48) / 2 + rng.uniform(0, 6))
    pixels = np.broadcast_to(wave if upright else wave[:, None], (48, 48)) + rng.normal(0, 90, (48, 48))
    return np.clip(pixels, 0, 4095)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Two classes of DICOM files, a JPEG and a PNG with words in them, and one file that is damaged."""
    folder, rng = tmp_path_factory.mktemp("Qwfolder"), np.random.default_rng(20261127)
    for label, upright in (("lying", False), ("upright", True)):
        (folder / "Qtscans" / label).mkdir(parents=True)
        for i in range(4):
            patient = i + 10 * upright
            for copy in "ab":
                path = folder / "Qtscans" / label / f"{NAME}_{patient}{copy}.dcm"
                dicom(path, marked(rng, patient, upright), patient)
    odd = Image.fromarray((marked(rng, 0, True) / 16).astype(np.uint8))
    exif = Image.Exif()
    exif[0x013B] = exif[0x010E] = WORD
    odd.save(folder / "Qtscans" / "upright" / f"{NAME}_e.jpg", exif=exif, comment=WORD.encode())
    info = PngInfo()
    info.add_text("Patient", WORD)
    odd.rotate(90).save(folder / "Qtscans" / "lying" / f"{NAME}_f.png", pnginfo=info)
    whole = (folder / "Qtscans" / "lying" / f"{NAME}_1a.dcm").read_bytes()
    (folder / "Qtscans" / "lying" / f"{NAME}_z.dcm").write_bytes(whole[: -len(whole) // 3])
    return folder


def without_a_network(folder, commands, **environment):
    """Run commands in one process that has no network; what the import and each of them did."""
    guard = folder / "guard"
    guard.mkdir(exist_ok=True)
    shutil.copy(TESTS / "support" / "network_cut.py", guard / "sitecustomize.py")
    log = folder / "network.log"
    paths = [str(guard), str(TESTS), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = os.environ | {"NETWORK_LOG": str(log), "PYTHONPATH": os.pathsep.join(paths)} | environment
    environment.pop("MEDVLAD_WEIGHTS", None)
    words = [sys.executable, str(TESTS / "support" / "run_commands.py")]
    # A namespace of its own has no network, whoever asks: the C++ of TensorFlow as well. And a host name.
    apart = ["unshare", "--net", "--uts", "sh", "-c", 'hostname Qyhost && exec "$@"', "sh"]
    if shutil.which("unshare") and subprocess.run([*apart, "true"], capture_output=True).returncode == 0:
        words = [*apart, *words]
    done = subprocess.run(
        words, input=json.dumps(commands), capture_output=True, text=True, cwd=folder, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (folder / "stderr.txt").write_text(done.stderr)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def everything(scans, small_weights):
    """All commands over those files; by name what each printed, and what of a network it asked for."""
    shutil.copy(small_weights, scans / "net.weights.h5")
    files = [f"Qtscans/upright/{NAME}_{patient}a.dcm" for patient in (10, 11)]
    learn = [*NETWORK, "--on-error", "skip"]
    results = ["--encode", "avg,vlad2", "--folds", "2"]
    commands = {
        "doctor": "-v doctor --json",  # the first says how much is logged by all
        "audit": "audit Qtscans --out audit",
        "anonymised audit": "audit Qtscans --out anon-audit --anonymise --threads 1",
        "extract": ["extract", "Qtscans", "--store", "store", *learn],
        "store": "store ls store",
        "verify": "store verify store",
        "evaluate": ["evaluate", "Qtscans", *learn, *results, "--out", "out", "--store", "store"],
        "anonymised": [
            *["evaluate", "Qtscans", *learn, *results, "--store", "store"],
            *["--out", "anon-out", "--anonymise-key", "key.json", "--pictures"],
        ],
        "train": [
            "-v",
            "train",
            "Qtscans",
            *learn,
            "--encode",
            "vlad2",
            "-o",
            "m.medvlad",
            "--anonymise",
            "--store",
            "store",
        ],
        "show": "show m.medvlad",
        "predict": ["predict", "m.medvlad", *files, "--json", "--explain", "maps"],
        "anonymised predict": [
            *["predict", "m.medvlad", *files, f"Qtscans/lying/{NAME}_z.dcm", "--on-error", "skip"],
            *["--json", "--explain", "anon-maps", "--anonymise"],
        ],
        "damaged": ["predict", "m.medvlad", f"Qtscans/lying/{NAME}_z.dcm"],
        "export": "export m.medvlad head.onnx --from-features",
        "compare": "compare out out --encode avg,vlad2",
        "download": "evaluate Qtscans --encode avg --folds 2",
        "used folder": "evaluate Qtscans --out out --anonymise",
        "key inside": "audit Qtscans --out new --anonymise-key new/key.json",
        "other key": "compare out anon-out --encode avg",
    }
    if find_spec("onnx") is None:
        del commands["export"]
    lists = [words.split() if isinstance(words, str) else words for words in commands.values()]
    home = scans / "Qzhome"
    home.mkdir()
    done = without_a_network(scans, lists, HOME=str(home), USER="Qzuser", LOGNAME="Qzuser")
    for name, one in zip(["import", *commands], done, strict=True):
        print(f"{name}: {one.get('seconds', 0):.1f} s of processors")  # noqa: T201
    return dict(zip(["import", *commands], done, strict=True))


def test_every_command_does_its_work(everything):
    for name, one in everything.items():
        expected = {
            "import": None,
            "damaged": 2,
            "used folder": 2,
            "key inside": 2,
            "other key": 2,
            "download": 2,
            "audit": 1,
            "extract": 1,
            "evaluate": 1,
            "train": 1,
        }
        expected |= {"anonymised": 1, "anonymised audit": 1, "anonymised predict": 1}
        assert one.get("status") == expected.get(name, 0), (name, one["error"])


def test_no_command_asks_a_network(everything):
    """Nor does the import: but for the one that is to download."""
    assert {name for name, one in everything.items() if one["asked"]} == {"download"}


def test_a_download_fails_in_one_sentence(everything):
    """Which also shows that the guard notices."""
    done = everything["download"]
    assert done["asked"]
    line = done["error"].splitlines()[-1]
    assert "Traceback" not in done["error"]
    assert line.startswith("medvlad: the ImageNet weights of VGG19 could not be downloaded (")
    assert "check the network, or give a file of weights" in line


def test_mistakes(everything):
    for name, part in (
        ("used folder", "out holds files, which may name images: with --anonymise give a new or an empty"),
        ("key inside", "--anonymise-key new/key.json lies in new, and would be passed on with it"),
        ("other key", "compares with runs that were given the same --anonymise-key"),
    ):
        assert part in everything[name]["error"].splitlines()[-1]


def test_a_card_without_a_folder(everything):
    assert json.loads(everything["show"]["out"])["card"]["images"] is None


def forms(word):
    """Bytes as which a word may stand in a file; of six at least, as fewer are in any picture by chance."""
    raw = word.encode()
    found = [raw, raw.upper(), raw.hex().encode(), raw.hex().upper().encode()]
    found += [word.encode("utf-16-le"), word.encode("utf-16-be")]
    for shift in range(3):  # whatever stands before and behind it: the characters that are its own bits alone
        encoded = base64.b64encode(b"\0" * shift + raw + b"\0\0")
        found.append(encoded[-(-8 * shift // 6) : 8 * (shift + len(raw)) // 6])
    return [form for form in found if len(form) >= 6]


WRITTEN = ["audit", "anon-audit", "store", "out", "anon-out", "m.medvlad", "maps", "anon-maps", "head.onnx"]


def written(folder, *names):
    """Files below some of what the commands wrote."""
    for name in names or WRITTEN:
        path = folder / name
        yield from (one for one in ([path] if path.is_file() else sorted(path.rglob("*"))) if one.is_file())


def decisions(folder):
    return list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))


def found_in(content, *words):
    return [word for word in words for form in forms(word) if form in content]


def test_identifiers_are_found_in_every_form():
    for text in (WORD, f"x{WORD}", f"xy{WORD}yz"):
        for content in (text.encode(), base64.b64encode(text.encode()), text.encode("utf-16-le")):
            assert found_in(content, WORD), content


def test_no_identifier_leaves_a_file(scans, everything):
    """Of the DICOM header, nor words in JPEG and PNG: in no file, output, log or message."""
    n = 0
    for path in written(scans):
        assert found_in(path.read_bytes(), WORD, DATE, ROOT) == [], path.relative_to(scans)
        assert found_in(path.name.encode(), WORD, DATE, ROOT) == []
        n += 1
    assert n > 30
    printed = json.dumps(everything) + (scans / "stderr.txt").read_text()
    assert found_in(printed.encode(), WORD, DATE, ROOT) == []
    assert "is damaged, or not DICOM" in everything["damaged"]["error"]
    assert "evaluating avg" in everything["evaluate"]["error"]  # the log was looked at


def test_no_place_or_person_in_what_is_written(scans, everything):
    """No folder but those that were given, no home, user, host or installation."""
    strangers = [scans.name, str(scans), "Qzhome", "Qzuser", "Qyhost", sys.prefix]
    strangers += [name for name in (socket.gethostname(), getpass.getuser()) if len(name) > 7]
    printed = {name: one["out"] for name, one in everything.items() if name != "doctor"}
    for path in written(scans):
        assert found_in(path.read_bytes(), *strangers) == [], path.relative_to(scans)
    assert found_in(json.dumps(printed).encode(), *strangers) == []


def test_no_library_leaves_an_identity(scans, everything):
    """As onnxruntime 1.32 does when it is imported: a number for this device, and events to be sent."""
    left = {path.relative_to(scans / "Qzhome").parts[-1] for path in (scans / "Qzhome").rglob("*")}
    assert {name for name in left if "device" in name.lower() or name.endswith((".db", ".sqlite"))} == set()
    assert {name for name in left if name in ("Microsoft", "telemetry", ".openvino")} == set()


def test_names_stay_where_nothing_is_said(scans, everything):
    rows = decisions(scans / "out")
    assert all(NAME in row["image"] for row in rows)
    dicom_file = scans / "Qtscans" / "upright" / f"{NAME}_10a.dcm"
    assert patient_of(dicom_file) in {row["patient"] for row in rows}
    assert NAME in (scans / "out" / "results.json").read_text()
    assert NAME in (scans / "maps" / "explain.html").read_text()
    assert NAME in (scans / "audit" / "audit.json").read_text()


def test_anonymised_reports_name_nobody(scans, everything):
    done = everything
    patients = {patient_of(path) for path in (scans / "Qtscans").rglob("*.dcm")} - {None}
    assert len(patients) == 8
    folders = ["anon-out", "anon-audit", "anon-maps"]
    for path in written(scans, *folders):
        assert found_in(path.name.encode(), NAME) == []
        assert found_in(path.read_bytes(), NAME, "Qtscans", *patients) == [], path.relative_to(scans)
    for name in ("anonymised", "anonymised audit", "anonymised predict"):
        assert found_in(done[name]["out"].encode(), NAME, *patients) == [], name
    rows = decisions(scans / "anon-out")
    of_avg = [row["image"] for row in rows if row["encode"] == "avg"]
    assert all(is_pseudonym(name) for name in of_avg)
    assert of_avg == sorted(of_avg)
    assert len({row["patient"] for row in rows}) == 10  # 8, and 2 files that name nobody
    assert all(re.fullmatch("patient-[0-9a-f]{16}", row["patient"]) for row in rows)
    skipped = json.loads((scans / "anon-out" / "results.json").read_text())["skipped"]
    assert len(skipped) == 1
    assert is_pseudonym(skipped[0]["image"])
    predicted = json.loads(done["anonymised predict"]["out"])
    assert is_pseudonym(predicted["predictions"][0]["image"])
    assert predicted["predictions"][0]["evidence"] == predicted["predictions"][0]["image"] + ".png"


def test_the_table_leads_back(scans, everything):
    key = scans / "key.json"
    assert key.stat().st_mode & 0o077 == 0
    names = Pseudonyms.read(key)
    plain = {(r["encode"], r["image"]): r for r in decisions(scans / "out")}
    rows = decisions(scans / "anon-out")
    assert len(rows) == len(plain)
    for row in rows:
        there = plain[row["encode"], names.original(row["image"])]
        assert row["decided"] == there["decided"]
        assert names.original(row["patient"]) == there["patient"]
    secret = json.loads(key.read_text())["key"]
    assert not any(found_in(path.read_bytes(), secret) for path in written(scans))


def test_pictures_are_left_out_unless_asked_for(scans, everything):
    page = (scans / "anon-audit" / "audit.html").read_text()
    assert "data:image/" not in page
    assert "image-" in page
    assert "data:image/jpeg" in (scans / "audit" / "audit.html").read_text()
    if find_spec("matplotlib"):
        asked = sorted(path.name for path in (scans / "anon-out" / "figures").iterdir())
        assert "vlad2-clusters.png" in asked  # --pictures


# --------------------------------------------------------------------------------------- pieces


def test_pseudonyms(tmp_path):
    names, others = Pseudonyms(), Pseudonyms()
    assert names.image("a.dcm") == names.image(Path("a.dcm"))
    assert names.image("a.dcm") != others.image("a.dcm")
    assert names.image("a").removeprefix("image-") != names.patient("a").removeprefix("patient-")
    assert names.original(names.patient("a")) == "a"
    assert names.original("image-0000000000000000") is None
    names.write(tmp_path / "key")
    again = Pseudonyms.read(tmp_path / "key")
    assert again.image("b") == names.image("b")
    assert again.original(names.image("a.dcm")) == "a.dcm"
    assert is_pseudonym(names.image("a"))
    assert not is_pseudonym("image-a.png")
    with pytest.raises(InputError, match="32 bytes, got 3"):
        Pseudonyms(b"abc")


@pytest.mark.parametrize("name", ["a/smith.png", "o'neil.png", 'a "b".png', "smith.dcm#3", "\udce9.png"])
def test_reasons_without_names(name):
    try:
        load_image(name)
    except InputError as error:
        text = str(error)
    told = Pseudonyms().reason(text, name)
    assert Path(name).stem.partition("#")[0] not in told
    assert "image-" in told or told == "it cannot be read"


def test_the_reason_of_a_copy_names_the_other_image():
    told = Pseudonyms().reason("image 'x/smith.png' is empty (0 bytes): copy it again", "x/copy.png")
    assert told == "it cannot be read"


def test_a_reason_is_of_one_image():
    """The names of others are not looked for, so there may be any number of them."""
    told = Pseudonyms().reason("image 'x/smith.png' is empty (0 bytes): copy it again", "x/smith.png")
    assert re.fullmatch(r"image image-[0-9a-f]{16} is empty \(0 bytes\): copy it again", told)


def test_a_key_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"nowhere cannot be read .*No such file.*: check the path"):
        Pseudonyms.read(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "[]", '{"key": "00"}', '{"key": 3}', '{"key": "xx", "images": {}}'])
def test_a_file_that_is_no_key(tmp_path, content):
    (tmp_path / "key").write_text(content)
    with pytest.raises(InputError, match=r"does not hold a key of pseudonyms|must have 32 bytes"):
        Pseudonyms.read(tmp_path / "key")


def test_an_odd_study_is_not_quoted(tmp_path, caplog, recwarn):
    """Of a whole file pydicom has nothing to say, in a warning or in its log."""
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
    """Processes that extract for the command are as quiet as it is."""
    pytest.importorskip("distributed", reason="needs the extra distributed")
    (tmp_path / "scans" / "a").mkdir(parents=True)
    for i in range(3):
        dicom(tmp_path / "scans" / "a" / f"{i}.dcm", np.arange(4096).reshape(64, 64) % 97, i)
    damaged, syntax = tmp_path / "scans" / "a" / "1.dcm", b"\x02\x00\x10\x00UI"
    before, after = damaged.read_bytes().split(syntax)
    damaged.write_bytes(before + syntax + b"\xe8\x03" + after[2:])  # as long as all that follows
    with pytest.warns(UserWarning, match=WORD), pytest.raises(InputError, match="is damaged"):
        load_image(damaged)
    options = [*NETWORK[:-1], small_weights, "--workers", "1", "--store", "store", "--on-error", "skip"]
    done = subprocess.run(
        [sys.executable, "-m", "medvlad", "extract", "scans", *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "skipped: image 'scans/a/1.dcm' is damaged" in done.stderr
    assert WORD not in done.stderr


def test_a_damaged_patient_is_nobody(tmp_path):
    path = dicom(tmp_path / "a.dcm", np.arange(64).reshape(8, 8), 1)
    assert patient_of(path)
    content = path.read_bytes()
    assert content.count(b"\x10\x00\x20\x00LO") == 2
    path.write_bytes(content.replace(b"\x10\x00\x20\x00LO", b"\x10\x00\x20\x00L\x18"))
    assert patient_of(path) is None


def test_damaged_headers_are_not_quoted(tmp_path, rng):
    """Cut, overwritten, and with bytes missing: whatever pydicom says of them, no identifier is in it."""
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
    """It is no secret, as docs/howto/privacy.md says: IDs of five digits are tried in no time."""
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
