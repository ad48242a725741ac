"""The command doctor, and the version."""

import json
import subprocess
import sys

import pytest
from support.in_this_process import run_command

from medvlad import __version__
from medvlad.cli.doctor import diagnose


def test_python_m_medvlad_prints_the_version():
    command = [sys.executable, "-m", "medvlad", "--version"]
    assert __version__ in subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def found():
    return json.loads(run_command("doctor", "--json")[1])


def test_doctor_answers_every_question(found):
    assert found["backends"]["reference"] == "ok"
    assert found["threads"] >= 1
    assert found.keys() >= {
        "dtype_of_vgg16",
        "versions",
        "backends",
        "instruction_set",
        "threads",
        "gpu",
        "weights",
    }


def test_doctor_lists_the_extras_of_users(found):
    extras = "tensorflow bags openvino medical offline onnx torch distributed report tables fetch "
    extras += "cloud s3 gs azure"
    assert " ".join(found["extras"]) == extras


def test_doctor_prints_text(run, found):
    status, printed, _ = run("doctor")
    assert status == 0
    assert found["versions"]["numpy"] in printed


def test_doctor_does_not_import_scikit_learn():
    program = (
        "import sys\nfrom medvlad.cli.doctor import diagnose\ndiagnose()\n"
        "print([name for name in ('sklearn', 'pandas', 'keras', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_question_that_fails_does_not_stop_the_others(monkeypatch):
    def broken():
        raise RuntimeError("no such device")

    monkeypatch.setattr("medvlad.cli.doctor._gpu", broken)
    found = diagnose()
    assert found["gpu"] == "unknown (RuntimeError: no such device)"
    assert found["backends"]["reference"] == "ok"


def test_doctor_names_missing_extras(monkeypatch):
    required = [
        "numpy",
        'scipy>=1; extra == "a"',
        "nonesuch-1.x>=3; extra == 'b-c'",
        'nonesuch; extra == "test"',
        'nonesuch; python_version < "3.0" and extra == "a"',
    ]
    monkeypatch.setattr("medvlad.cli.doctor.metadata.requires", lambda _: required)
    found = diagnose()["extras"]
    assert found == {"a": "installed", "b-c": "without nonesuch-1.x: pip install 'medvlad[b-c]'"}
