"""X."""

import json
import subprocess
import sys

import pytest
from support.striped_images import write_striped_images

from medvlad import __version__
from medvlad.cli.doctor import diagnose


@pytest.fixture
def images(tmp_path, rng):
    return write_striped_images(tmp_path / "images", rng)


def test_python_m_medvlad():
    command = [sys.executable, "-m", "medvlad", "--version"]
    assert __version__ in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_doctor(run):
    status, printed, _ = run("doctor")
    assert status == 0
    status, as_json, _ = run("doctor", "--json")
    found = json.loads(as_json)
    assert found["backends"]["reference"] == "ok"
    assert found["threads"] >= 1
    assert found.keys() >= {"versions", "backends", "instruction_set", "threads", "gpu", "weights"}
    assert found["versions"]["numpy"] in printed
    extras = "tensorflow openvino medical offline onnx distributed demo report fetch"
    assert " ".join(found["extras"]) == extras


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
