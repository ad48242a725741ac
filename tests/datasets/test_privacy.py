"""No command asks a network, and none writes an identifier or, with --anonymise, a name."""

import base64
import csv
import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support.marked_dicom import DATE, ROOT, WORD, dicom, found_in, patient_of

from medvlad.datasets.pseudonyms import Pseudonyms, is_pseudonym

pytestmark = pytest.mark.slow  # some twenty commands run first

TESTS = Path(__file__).parents[1]
NETWORK = ["--model", "mobilenetv2", "--layer", "out_relu", "--weights", "net.weights.h5"]

#: Part of every file name, and so of every report that is not anonymised.
NAME = "Qvfilename"


def marked(rng, patient, upright):
    """Return a noisy wave along or across 48 x 48 pixels of 12 bits."""
    wave = 2000 + 1500 * np.sin(np.arange(48) / 2 + rng.uniform(0, 6))
    pixels = np.broadcast_to(wave if upright else wave[:, None], (48, 48)) + rng.normal(0, 90, (48, 48))
    return np.clip(pixels, 0, 4095)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Two classes of DICOM files, a JPEG and a PNG with text in their metadata, and one damaged file."""
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
    """Run commands in one process without a network. Return what the import and each command did."""
    guard = folder / "guard"
    guard.mkdir(exist_ok=True)
    shutil.copy(TESTS / "support" / "network_cut.py", guard / "sitecustomize.py")
    log = folder / "network.log"
    paths = [str(guard), str(TESTS), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = os.environ | {"NETWORK_LOG": str(log), "PYTHONPATH": os.pathsep.join(paths)} | environment
    environment.pop("MEDVLAD_WEIGHTS", None)
    words = [sys.executable, str(TESTS / "support" / "run_commands.py")]
    # A namespace of its own has no network, not even for the C++ of TensorFlow, and its own host name.
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
    """Run all commands on `scans`. Return what each printed and which addresses it asked for, by name."""
    shutil.copy(small_weights, scans / "net.weights.h5")
    files = [f"Qtscans/upright/{NAME}_{patient}a.dcm" for patient in (10, 11)]
    learn = [*NETWORK, "--on-error", "skip"]
    results = ["--encode", "avg,vlad2", "--folds", "2"]
    commands = {
        "doctor": "-v doctor --json",  # -v counts for all later commands
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


def test_every_command_ends_with_the_expected_status(everything):
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


def test_only_a_download_asks_a_network(everything):
    """Neither the import nor another command does."""
    assert {name for name, one in everything.items() if one["asked"]} == {"download"}


def test_a_download_fails_in_one_sentence(everything):
    """This also shows that the guard notices requests."""
    done = everything["download"]
    assert done["asked"]
    line = done["error"].splitlines()[-1]
    assert "Traceback" not in done["error"]
    assert line.startswith("medvlad: the ImageNet weights of VGG19 could not be downloaded (")
    assert "check the internet connection, or give a file of weights" in line


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("used folder", "out holds files, which may name images: with --anonymise give a new or an empty"),
        ("key inside", "--anonymise-key new/key.json lies in new, and would be passed on with it"),
        ("other key", "runs that used the same --anonymise-key"),
    ],
)
def test_a_mistake_with_anonymise_is_told_in_the_last_line(everything, name, part):
    assert part in everything[name]["error"].splitlines()[-1]


def test_the_card_of_an_anonymised_model_has_no_folder(everything):
    assert json.loads(everything["show"]["out"])["card"]["images"] is None


WRITTEN = ["audit", "anon-audit", "store", "out", "anon-out", "m.medvlad", "maps", "anon-maps", "head.onnx"]


def written(folder, *names):
    """Yield the files that the commands wrote, or those below `names`."""
    for name in names or WRITTEN:
        path = folder / name
        yield from (one for one in ([path] if path.is_file() else sorted(path.rglob("*"))) if one.is_file())


def decisions(folder):
    """Return the rows of predictions.csv."""
    return list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))


def test_identifiers_are_found_in_every_form():
    for text in (WORD, f"x{WORD}", f"xy{WORD}yz"):
        for content in (text.encode(), base64.b64encode(text.encode()), text.encode("utf-16-le")):
            assert found_in(content, WORD), content


def test_no_identifier_of_a_header_is_in_a_written_file(scans, everything):
    """Neither of a DICOM header, nor text of JPEG and PNG."""
    n = 0
    for path in written(scans):
        assert found_in(path.read_bytes(), WORD, DATE, ROOT) == [], path.relative_to(scans)
        assert found_in(path.name.encode(), WORD, DATE, ROOT) == []
        n += 1
    assert n > 30


def test_no_identifier_of_a_header_is_printed_or_logged(scans, everything):
    printed = json.dumps(everything) + (scans / "stderr.txt").read_text()
    assert found_in(printed.encode(), WORD, DATE, ROOT) == []
    assert "is damaged, or not DICOM" in everything["damaged"]["error"]
    assert "evaluating avg" in everything["evaluate"]["error"]  # the log was looked at


def test_no_machine_or_user_is_named_in_what_is_written(scans, everything):
    """No home, user, host or installation, and no folder except those that were given."""
    strangers = [scans.name, str(scans), "Qzhome", "Qzuser", "Qyhost", sys.prefix]
    strangers += [name for name in (socket.gethostname(), getpass.getuser()) if len(name) > 7]
    printed = {name: one["out"] for name, one in everything.items() if name != "doctor"}
    for path in written(scans):
        assert found_in(path.read_bytes(), *strangers) == [], path.relative_to(scans)
    assert found_in(json.dumps(printed).encode(), *strangers) == []


def test_no_library_leaves_an_identity(scans, everything):
    """onnxruntime 1.32 does this on import: it keeps a number for this device, and events to send."""
    left = {path.relative_to(scans / "Qzhome").parts[-1] for path in (scans / "Qzhome").rglob("*")}
    assert {name for name in left if "device" in name.lower() or name.endswith((".db", ".sqlite"))} == set()
    assert {name for name in left if name in ("Microsoft", "telemetry", ".openvino")} == set()


def test_names_stay_without_anonymise(scans, everything):
    rows = decisions(scans / "out")
    assert all(NAME in row["image"] for row in rows)
    dicom_file = scans / "Qtscans" / "upright" / f"{NAME}_10a.dcm"
    assert patient_of(dicom_file) in {row["patient"] for row in rows}
    assert NAME in (scans / "out" / "results.json").read_text()
    assert NAME in (scans / "maps" / "explain.html").read_text()
    assert NAME in (scans / "audit" / "audit.json").read_text()


@pytest.fixture(scope="module")
def patients(scans):
    """Digests of the patients of all DICOM files."""
    return {patient_of(path) for path in (scans / "Qtscans").rglob("*.dcm")} - {None}


def test_eight_patients_are_planted(patients):
    assert len(patients) == 8


def test_anonymised_files_name_no_image_folder_or_patient(scans, everything, patients):
    for path in written(scans, "anon-out", "anon-audit", "anon-maps"):
        assert found_in(path.name.encode(), NAME) == []
        assert found_in(path.read_bytes(), NAME, "Qtscans", *patients) == [], path.relative_to(scans)


@pytest.mark.parametrize("name", ["anonymised", "anonymised audit", "anonymised predict"])
def test_anonymised_output_names_no_image_or_patient(everything, patients, name):
    assert found_in(everything[name]["out"].encode(), NAME, *patients) == []


def test_anonymised_predictions_are_sorted_by_pseudonym(scans, everything):
    of_avg = [row["image"] for row in decisions(scans / "anon-out") if row["encode"] == "avg"]
    assert all(is_pseudonym(name) for name in of_avg)
    assert of_avg == sorted(of_avg)


def test_anonymised_patients_stay_apart(scans, everything):
    rows = decisions(scans / "anon-out")
    assert len({row["patient"] for row in rows}) == 10  # 8, and 2 files without a patient
    assert all(re.fullmatch("patient-[0-9a-f]{16}", row["patient"]) for row in rows)


def test_a_skipped_image_has_a_pseudonym(scans, everything):
    skipped = json.loads((scans / "anon-out" / "results.json").read_text())["skipped"]
    assert len(skipped) == 1
    assert is_pseudonym(skipped[0]["image"])


def test_an_evidence_map_is_named_by_its_pseudonym(everything):
    first = json.loads(everything["anonymised predict"]["out"])["predictions"][0]
    assert is_pseudonym(first["image"])
    assert first["evidence"] == first["image"] + ".png"


def test_only_this_user_may_read_the_key(scans, everything):
    assert (scans / "key.json").stat().st_mode & 0o077 == 0


def test_the_table_of_the_key_leads_back_to_every_name(scans, everything):
    names = Pseudonyms.read(scans / "key.json")
    plain = {(r["encode"], r["image"]): r for r in decisions(scans / "out")}
    rows = decisions(scans / "anon-out")
    assert len(rows) == len(plain)
    for row in rows:
        there = plain[row["encode"], names.original(row["image"])]
        assert row["decided"] == there["decided"]
        assert names.original(row["patient"]) == there["patient"]


def test_the_key_is_in_no_other_file(scans, everything):
    secret = json.loads((scans / "key.json").read_text())["key"]
    assert not any(found_in(path.read_bytes(), secret) for path in written(scans))


def test_pictures_are_left_out_unless_asked_for(scans, everything):
    page = (scans / "anon-audit" / "audit.html").read_text()
    assert "data:image/" not in page
    assert "image-" in page
    assert "data:image/jpeg" in (scans / "audit" / "audit.html").read_text()
    if find_spec("matplotlib"):
        asked = sorted(path.name for path in (scans / "anon-out" / "figures").iterdir())
        assert "vlad2-clusters.png" in asked  # --pictures
