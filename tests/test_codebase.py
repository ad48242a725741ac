"""The package as a whole: what importing it costs, what it exports, that its version stands in one place."""

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import medvlad

ROOT = Path(__file__).parents[1]


def python(code, tmp_path):
    """Run code in a fresh interpreter in another folder; what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    return done.stdout.split()


def test_import_is_light(tmp_path):
    loaded = "print(*[m for m in ('tensorflow', 'keras', 'cupy', 'sklearn', 'scipy') if m in sys.modules])"
    assert python(f"import sys, medvlad; {loaded}", tmp_path) == []
    use = "[getattr(medvlad, name) for name in medvlad.__all__]"
    assert python(f"import sys, medvlad; {use}; {loaded}", tmp_path) == ["sklearn", "scipy"]


def test_import_time(tmp_path):
    code = "import time; t = time.perf_counter(); import medvlad; print(time.perf_counter() - t)"
    assert min(float(python(code, tmp_path)[0]) for _ in range(3)) < 0.5


def test_public_names():
    assert set(dir(medvlad)) >= set(medvlad.__all__)
    for name in medvlad.__all__:
        assert getattr(medvlad, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'vald'"):
        _ = medvlad.vald


def test_one_version():
    assert medvlad.__version__ == version("medvlad")
    declared = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert declared == medvlad.__version__
    assert f"## {declared}" in (ROOT / "CHANGELOG.md").read_text()


def test_package_data_is_installed():
    installed = Path(medvlad.__file__).parent
    for name in ("py.typed", "backends/_native_portable.pyi", "backends/_blas.pyi"):
        assert (installed / name).is_file(), name


def test_the_core_knows_no_python():
    for path in (ROOT / "csrc" / "core").iterdir():
        text = path.read_text()
        assert "Python.h" not in text, path
        assert "pybind11" not in text, path


def test_the_stub_is_the_module():
    """Names and parameters of the native module, in their order, as the stub has them."""
    native = pytest.importorskip(
        "medvlad.backends._native_portable", reason="the native backend was not built"
    )
    stub = ast.parse((ROOT / "medvlad" / "backends" / "_native_portable.pyi").read_text())
    declared = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert set(declared) == {name for name in vars(native) if not name.startswith("_")}
    for name, node in declared.items():
        if not isinstance(node, ast.FunctionDef):
            assert {part.name for part in node.body} - {"__init__"} == {
                part for part in vars(native.ConvNet) if not part.startswith("_")
            }
            continue
        signature = getattr(native, name).__doc__.splitlines()[0]
        found = re.findall(r"(\w+): ", signature)
        assert [argument.arg for argument in node.args.args] == found, name


OUTSIDE = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONHASHSEED": "3",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
KEPT = {"KERAS_BACKEND": "tensorflow", "MEDVLAD_SIMD": "portable"}


def names_in(environment):
    """Return the names of variables in what `env` has printed."""
    return {line.partition("=")[0] for line in environment.splitlines()}


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("arguments", [[], ["PYTHON=python-of-the-user"]], ids=["default", "PYTHON"])
def test_make_passes_no_settings_of_python_on(tmp_path, arguments):
    # A make that runs this test has passed its own choice of PYTHON on.
    outer = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "PYTHON")}
    (tmp_path / "print.mk").write_text("print-environment:\n\t@echo CHOSEN=$(PYTHON)\n\t@env\n")
    done = subprocess.run(
        ["make", "-s", "-f", "Makefile", "-f", tmp_path / "print.mk", *arguments, "print-environment"],
        cwd=ROOT,
        env=outer | OUTSIDE | KEPT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = names_in(done.stdout)
    assert names >= {*KEPT, "PATH"}
    assert not [name for name in names if name.startswith(("PYTHON", "OPENBLAS", "OMP", "MKL"))]
    assert f"CHOSEN={'python-of-the-user' if arguments else 'python3'}\n" in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_ci_passes_no_settings_of_python_on(tmp_path):
    """With a program in place of make that prints its environment."""
    make = tmp_path / "make"
    make.write_text("#!/bin/sh\nenv\n")
    make.chmod(0o755)
    chosen = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHON": "python-of-the-user"}
    done = subprocess.run(
        ["bash", ROOT / ".ci" / "run"],
        env=os.environ | OUTSIDE | KEPT | chosen,
        capture_output=True,
        text=True,
        check=True,
    )
    names = names_in(done.stdout)
    assert names >= {*KEPT, "PATH", "PYTHON", "MEDVLAD_WERROR"}
    assert not names & OUTSIDE.keys()


def test_smoke():
    from support.smoke import main

    pytest.importorskip("medvlad.backends._native_portable", reason="not built")
    main()
