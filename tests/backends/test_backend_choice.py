"""The choice of a backend: by name, by environment, and how often a device is asked."""

import os

import numpy as np
import pytest

import medvlad as mv
from medvlad import InputError, backends
from medvlad.backends import BACKENDS, available_backends, forget_decisions, get_backend


@pytest.fixture
def questions(monkeypatch):
    """List that grows by one for each question whether the reference can run. No decision is left."""
    asked = []

    def describe():
        asked.append(os.getpid())
        return "ok"

    monkeypatch.setitem(backends._DESCRIBE, "reference", describe)
    forget_decisions()
    yield asked
    forget_decisions()


def test_a_device_is_asked_once_however_often_its_backend_is_used(questions):
    for _ in range(3):
        get_backend("reference")
        mv.assign(np.eye(3), np.eye(2, 3), backend="reference")
        mv.VLAD(2, backend="reference", random_state=0).fit_transform(np.eye(4))
    assert len(questions) == 1


def test_a_device_that_failed_is_asked_again(questions, monkeypatch):
    def missing():
        questions.append("failed")
        raise ImportError("no device")

    with monkeypatch.context() as patch:
        patch.setitem(backends._DESCRIBE, "reference", missing)
        for _ in range(2):
            with pytest.raises(InputError, match="backend 'reference' cannot run here: no device"):
                get_backend("reference")
    assert questions == ["failed", "failed"]
    assert get_backend("reference").__name__ == "medvlad.backends.reference"
    assert len(questions) == 3


def test_another_process_asks_for_itself(questions, monkeypatch):
    get_backend("reference")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    get_backend("reference")
    assert len(questions) == 2


def test_the_list_of_backends_is_always_up_to_date(questions):
    get_backend("reference")
    assert available_backends()["reference"] == available_backends()["reference"] == "ok"
    assert len(questions) == 3


def test_every_backend_has_a_state():
    assert set(available_backends()) == set(BACKENDS)


def test_the_reference_can_always_run():
    assert available_backends()["reference"] == "ok"


def test_an_unknown_backend_is_named():
    with pytest.raises(InputError, match="backend must be one of auto, reference, native, cuda, got 'fast'"):
        get_backend("fast")


def test_the_environment_decides_for_auto(monkeypatch):
    monkeypatch.setenv("MEDVLAD_BACKEND", "reference")
    assert get_backend("auto").__name__ == "medvlad.backends.reference"


def test_auto_in_the_environment_is_native(monkeypatch):
    monkeypatch.setenv("MEDVLAD_BACKEND", "auto")
    assert get_backend("auto") is get_backend("native")


@pytest.mark.parametrize("name", ["slow", "turbo"])
def test_an_unknown_backend_in_the_environment_is_named(monkeypatch, name):
    monkeypatch.setenv("MEDVLAD_BACKEND", name)
    message = f"MEDVLAD_BACKEND must be one of auto, reference, native, cuda, got '{name}'"
    with pytest.raises(InputError, match=message):
        get_backend()
