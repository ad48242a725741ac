"""The choice of a backend: by name, by environment, and how often a device is asked."""

import importlib
import os
import platform
import subprocess
import sys

import numpy as np
import pytest

import medvlad as mv
from medvlad import InputError, backends
from medvlad.backends import BACKENDS, available_backends, backend_state, forget_decisions, get_backend


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


def test_the_state_of_the_gpu_is_one_line_and_the_reason_of_an_error():
    """This holds whatever the machine has."""
    state = available_backends()["cuda"]
    assert "\n" not in state
    if not state.startswith("ok"):
        with pytest.raises(InputError, match="backend 'cuda' cannot run here"):
            get_backend("cuda")


def test_without_cupy_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    forget_decisions()
    assert "pip install 'medvlad[cuda12]' or 'medvlad[cuda13]'" in available_backends()["cuda"]
    with pytest.raises(InputError, match="cannot run here: the cuda backend needs the Python module 'cupy'"):
        mv.assign(np.ones((2, 2)), np.ones((1, 2)), backend="cuda")


@pytest.fixture
def failing_cupy(tmp_path, monkeypatch):
    """A CuPy whose import fails, as it does if the home folder is read-only."""
    (tmp_path / "cupy.py").write_text("raise PermissionError(13, 'Permission denied', '/home/me/.cupy')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    forget_decisions()


def test_a_cupy_that_fails_is_a_reason_and_no_end_of_the_run(failing_cupy):
    state = available_backends()["cuda"]
    assert state.startswith("cannot run: ")
    assert "PermissionError: [Errno 13] Permission denied: '/home/me/.cupy'" in state
    assert "pip install" not in state
    with pytest.raises(InputError, match=r"backend 'cuda' cannot run here: .*home/me/.cupy"):
        mv.assign(np.ones((2, 2)), np.ones((1, 2)), backend="cuda")
    assert mv.assign(np.eye(3), np.eye(2, 3)).tolist() == [0, 1, 0]


@pytest.mark.parametrize("error", [OSError("libcuda.so"), RuntimeError("driver"), MemoryError()])
def test_whatever_a_driver_raises_is_a_reason(monkeypatch, error):
    def failing():
        raise error

    monkeypatch.setitem(backends._DESCRIBE, "cuda", failing)
    forget_decisions()
    reason = f"{type(error).__name__}: {error}".removesuffix(": ")
    assert available_backends()["cuda"] == f"cannot run: {reason}"
    with pytest.raises(InputError, match=f"backend 'cuda' cannot run here: {reason}"):
        get_backend("cuda")


def test_the_state_of_one_backend_asks_no_other(monkeypatch):
    def asked():
        raise AssertionError("another backend was asked")

    for name in ("reference", "cuda"):
        monkeypatch.setitem(backends._DESCRIBE, name, asked)
    assert backend_state("native").startswith("ok: ")


@pytest.fixture
def native():
    state = available_backends()["native"]
    if not state.startswith("ok"):
        pytest.skip(f"native: {state}")
    return importlib.import_module("medvlad.backends.native")


def test_the_environment_forces_an_instruction_set(native, monkeypatch):
    monkeypatch.setenv("MEDVLAD_SIMD", "portable")
    assert available_backends()["native"] == "ok: portable"


def test_an_unknown_instruction_set_is_named(native, monkeypatch):
    monkeypatch.setenv("MEDVLAD_SIMD", "mmx")
    assert "mmx" in available_backends()["native"]
    with pytest.raises(InputError, match=r"MEDVLAD_SIMD must be one of .*portable, got 'mmx'"):
        mv.assign(np.eye(3), np.eye(2, 3), backend="native")


def test_an_instruction_set_that_cannot_run_is_named(native, monkeypatch):
    monkeypatch.setattr(native, "available_levels", lambda: ("portable",))
    monkeypatch.setenv("MEDVLAD_SIMD", "avx2")
    with pytest.raises(InputError, match=r"MEDVLAD_SIMD=avx2 .*: use one of portable"):
        mv.assign(np.eye(3), np.eye(2, 3), backend="native")


@pytest.fixture
def requests_for_tiles(native, monkeypatch):
    """A processor with tiles whose system says no. Return a list with an entry for each request."""
    asked = []
    monkeypatch.setattr(native, "available_levels", lambda: ("amx", "avx2", "portable"))
    monkeypatch.setattr(native._native_portable, "supported_levels", lambda: ["amx", "avx2", "portable"])
    monkeypatch.setattr(native, "_may_use_tiles", lambda: asked.append("tiles") or False)
    return asked


def test_tiles_are_requested_only_for_the_level_that_uses_them(native, requests_for_tiles, monkeypatch):
    for name in ("avx2", "portable"):
        monkeypatch.setenv("MEDVLAD_SIMD", name)
        assert native.level() == name
    assert requests_for_tiles == []
    monkeypatch.delenv("MEDVLAD_SIMD")
    assert native.level() == "avx2"
    assert requests_for_tiles == ["tiles"]


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="asks Linux on x86_64"
)
def test_a_process_without_tiles_has_no_permission_for_them(native, tmp_path):
    """On a processor with AMX, this failed if any level asked for it."""
    code = (
        "import ctypes, medvlad as mv\n"
        "mv.assign([[1.0]], [[0.0]], backend='native')\n"
        "permitted = ctypes.c_uint64(0)\n"
        "ctypes.CDLL(None).syscall(158, 0x1022, ctypes.byref(permitted))\n"  # ARCH_GET_XCOMP_PERM
        "print(permitted.value >> 18 & 1)\n"
    )
    environment = {**os.environ, "MEDVLAD_SIMD": "portable"}
    found = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True, cwd=tmp_path)
    assert found == "0\n"


def test_a_refusal_of_tiles_is_named(native, requests_for_tiles, monkeypatch):
    monkeypatch.setenv("MEDVLAD_SIMD", "amx")
    with pytest.raises(InputError, match="amx is refused by the operating system: use one of avx2, portable"):
        native.level()


def test_auto_falls_back_with_one_warning(tmp_path):
    """If native was not built, auto is the reference and says so once."""
    code = (
        "import sys, logging; logging.basicConfig(format='%(message)s')\n"
        "sys.modules['medvlad.backends._native_portable'] = None\n"
        "import medvlad as mv\n"
        "for _ in range(3): print(mv.assign([[1.0], [5.0]], [[0.0], [4.0]]).tolist())\n"
        "print(mv.available_backends()['native'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[:3] == ["[0, 1]"] * 3
    assert done.stderr.count("not built") == 1
    assert "_native_portable" in done.stdout


@pytest.mark.parametrize("is_here", [True, False])
def test_a_checkout_without_compiled_modules_is_named_if_python_starts_in_it(
    monkeypatch, caplog, tmp_path, is_here
):
    (tmp_path / "setup.py").touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path if is_here else tmp_path / "elsewhere")
    monkeypatch.setattr(backends, "__file__", str(tmp_path / "medvlad" / "backends" / "__init__.py"))
    monkeypatch.setitem(sys.modules, "medvlad.backends.native", None)
    assert backends._best_backend.__wrapped__() == "reference"
    assert "computing with the slow reference" in caplog.text
    assert ("start Python in another" in caplog.text) == is_here
