"""The package as a whole: rooms and their order, sizes, the cost of importing it, its exports and version."""

import ast
import functools
import os
import re
import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import version
from pathlib import Path

import pytest

import medvlad

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "medvlad"

#: Packages that choose between several modules when they are imported, or that are the command itself.
MAY_HOLD_CODE = {"medvlad/backends", "medvlad/extraction/engines", "medvlad/cli"}
MAY_HOLD_CODE |= {"medvlad/extraction"}  # imports its names at their first use

MOST_LEVELS = 10
MOST_FILES_BESIDE_THE_ROOMS = 6
MOST_LINES = 450
MOST_LINES_OF_A_CLASS = 250

#: Modules that lay directly in medvlad/ before there were rooms. These paths do not exist any more.
MOVED = (
    *("_blas_threads", "_files", "_memory", "_validate", "anonymise", "array_api", "bag_of_words"),
    *("calibration", "classify", "codebook", "compaction", "comparison", "deep_colour", "demo", "dicom"),
    *("doctor", "encoder", "encoding", "engines", "evaluation_report", "features", "fetch", "figures"),
    *("fisher", "frames", "gpu_array", "grey_levels", "held_out", "loading", "memberships", "model_file"),
    *("model_steps", "network", "nifti", "onnx_export", "page", "paper", "paper_datasets", "pooling"),
    *("progress", "projection", "recipe", "second_order", "shard", "significance", "stored", "svm_solver"),
    *("threshold", "tiles", "vector_file", "weights", "whole_file", "winograd"),
    *("audit.page", "backends.candidates", "cli.session", "extraction.network"),
)
#: Modules that became packages of the same name.
NOW_PACKAGES = ("datasets", "descriptors", "evaluation", "images", "store")


# ------------------------------------------------------------------------------------------ the house


@functools.cache
def checked_in():
    """Return the files of the checkout, as git lists them with new files that are not ignored."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs a git checkout: {error}")
    found = [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]
    if PACKAGE / "__init__.py" not in found:  # sources that lie in the checkout of something else
        pytest.skip("needs a git checkout")
    return found


@functools.cache
def sources():
    """Return the package's Python files in the checkout."""
    if not (PACKAGE / "__init__.py").is_file():
        pytest.skip("needs the sources beside the tests")
    return sorted(PACKAGE.rglob("*.py"))


def named(path):
    return path.relative_to(ROOT).as_posix()


def room_of(path):
    """Return the package, or the module beside the packages, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(source):
    """Yield the rooms that Python code imports, also inside functions and for type checkers."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "medvlad":
            names = [f"medvlad.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Constant) and re.fullmatch(r"medvlad(\.\w+)+", str(node.value)):
            names = [node.value]  # the argument of importlib.import_module
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("medvlad."))


@functools.cache
def rooms():
    """Return the rooms that each room imports. `medvlad/__init__` and `__main__` are not rooms."""
    graph = {}
    for path in sources():
        room = room_of(path)
        if room not in ("__init__", "__main__"):
            graph.setdefault(room, set()).update(imported_rooms(path.read_text("utf-8")))
    return {room: needed - {room} for room, needed in graph.items()}


def levels(graph):
    """Return the level of each room: 1 without imports, otherwise one above the highest import.

    CycleError names a circle.
    """
    level = {}
    for room in TopologicalSorter(graph).static_order():
        level[room] = 1 + max((level[needed] for needed in graph.get(room, ())), default=0)
    return level


def test_each_suite_has_one_conftest():
    """Tests import it by this name. A second one may be found in its place, by the order of the folders."""
    found = [named(path) for path in checked_in() if path.name == "conftest.py"]
    assert sorted(found) == ["benchmarks/conftest.py", "tests/conftest.py"]


def test_rooms_import_only_rooms():
    for room, needed in rooms().items():
        assert needed <= rooms().keys(), room


def test_rooms_form_no_circle_and_few_levels():
    assert max(levels(rooms()).values()) <= MOST_LEVELS, levels(rooms())


def test_circles_and_levels_are_found():
    assert levels({"a": {"b", "c"}, "b": {"c"}}) == {"c": 1, "b": 2, "a": 3}
    with pytest.raises(CycleError, match="cycle"):
        levels({"a": {"b"}, "b": {"a"}})


@pytest.mark.parametrize(
    "source",
    [
        "import medvlad.store.shard",
        "from medvlad.store import shard",
        "from medvlad import store",
        "def f():\n    from medvlad.store.shard import Shard",
        "if TYPE_CHECKING:\n    import medvlad.store",
        "importlib.import_module('medvlad.store.shard')",
    ],
)
def test_every_kind_of_import_is_found(source):
    assert set(imported_rooms(source)) == {"store"}


def test_the_library_does_not_import_the_command():
    assert [room for room, needed in rooms().items() if "cli" in needed] == []


def test_few_files_lie_beside_the_rooms():
    beside = {path.name for path in PACKAGE.iterdir() if path.suffix in (".py", ".pyx", ".pyi")}
    if not beside:
        pytest.skip("needs the sources beside the tests")
    assert len(beside) <= MOST_FILES_BESIDE_THE_ROOMS, beside


CODE = (".py", ".pyx", ".pyi", ".cpp", ".hpp", ".cu", ".cuh")


def code():
    """Return the source files that people read."""
    folders = {"medvlad", "csrc", "tests", "benchmarks", "docs"}
    return [
        path for path in checked_in() if path.suffix in CODE and path.relative_to(ROOT).parts[0] in folders
    ]


def classes(path):
    """Yield name and number of lines of each class in a Python or C++ file."""
    text = path.read_text("utf-8")
    if path.suffix in (".py", ".pyi"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                yield node.name, node.end_lineno - node.lineno + 1
        return
    lines = text.splitlines()
    for i, line in enumerate(lines):
        begun = re.match(r"(\s*)(?:class|struct) (\w+)[^;]*\{$", line)
        if begun:
            end = begun[1] + "}"
            yield begun[2], next(n for n, later in enumerate(lines[i:], 1) if later.startswith(end))


def test_files_are_short():
    lengths = {named(path): len(path.read_text("utf-8").splitlines()) for path in code()}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_classes_are_short():
    lengths = {f"{named(path)}: {name}": length for path in code() for name, length in classes(path)}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES_OF_A_CLASS} == {}


def test_classes_are_measured_in_python_and_in_cpp(tmp_path):
    python, cpp = tmp_path / "a.py", tmp_path / "a.cpp"
    python.write_text("class A:\n    x = 1\n\n    class B:\n        pass\n")
    cpp.write_text(
        "struct A {\n  int x;\n  class B {\n   int y;\n  };\n};\n\n"
        "class C : public A {\n};\nclass D;\nstruct E {\n} e;\n"
    )
    assert dict(classes(python)) == {"A": 5, "B": 2}
    assert dict(classes(cpp)) == {"A": 6, "B": 3, "C": 2, "E": 2}


TEXT = (*CODE, ".md", ".toml", ".yml", ".yaml", ".cfg", ".txt", ".json", ".h", "")

OLD_PATH = re.compile(
    r"\bmedvlad[./](?:{})(?:\.py|\b(?!/))|\bmedvlad/(?:{})\.py\b".format(
        "|".join(name.replace(".", "[./]") for name in MOVED), "|".join(NOW_PACKAGES)
    )
)


def old_paths(text):
    """Return the old paths of moved modules in a text, imports by name included."""
    found = OLD_PATH.findall(text)
    for names in re.findall(r"^\s*from medvlad import (?:\(([^)]*)\)|(.*))$", text, re.MULTILINE):
        found += [name for name in re.findall(r"\w+", " ".join(names)) if name in MOVED]
    return found


def test_no_file_names_a_module_by_its_old_path():
    """Only the history of changes may name them."""
    found = {}
    for path in checked_in():
        if path.suffix in TEXT and named(path) != "CHANGELOG.md":
            try:
                found[named(path)] = old_paths(path.read_text("utf-8"))
            except UnicodeDecodeError:
                continue
    assert {name: paths for name, paths in found.items() if paths} == {}


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("import {}.features", 1),
        ("from {}._validate import InputError", 1),
        ("from {} import (\n    classify,\n    Descriptors,\n)", 1),
        ("see {}/store.py", 1),
        ("{}.audit.page", 1),
        ("{}.store.shard and {}/store/store.py and {}.evaluation.metrics", 0),
        ("from {} import Descriptors, load_model", 0),
        ("{}.report.paper and {} paper and {}-demo/", 0),
    ],
)
def test_old_paths_are_found(text, n):
    assert len(old_paths(text.replace("{}", "medvlad"))) == n


def is_facade(source):
    """Return whether a package's __init__ has a docstring, and otherwise only imports and __all__."""
    tree = ast.parse(source)
    if not ast.get_docstring(tree):
        return False
    return all(
        isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"])
        for node in tree.body[1:]
    )


def test_each_room_begins_with_a_facade():
    packages = [path for path in sources() if path.name == "__init__.py" and path.parent != PACKAGE]
    assert len(packages) > 10
    wrong = [
        named(path)
        for path in packages
        if named(path.parent) not in MAY_HOLD_CODE and not is_facade(path.read_text("utf-8"))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""Read."""\nfrom a import b\nimport c\n__all__ = ["b"]', True),
        ('"""Read."""', True),
        ("from a import b", False),
        ('"""Read."""\nx = 1', False),
        ('"""Read."""\ndef f(): pass', False),
    ],
)
def test_what_is_a_facade(source, expected):
    assert is_facade(source) is expected


# -------------------------------------------------------------------------------- imports and exports


def python(code, tmp_path):
    """Run code in a fresh interpreter in another folder. Return the words that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    return done.stdout.split()


LOADED = "print(*[m for m in ('tensorflow', 'keras', 'cupy', 'sklearn', 'scipy') if m in sys.modules])"


def test_importing_the_package_loads_no_large_package(tmp_path):
    assert python(f"import sys, medvlad; {LOADED}", tmp_path) == []


def test_the_public_names_load_neither_tensorflow_nor_cupy(tmp_path):
    use = "[getattr(medvlad, name) for name in medvlad.__all__]"
    assert python(f"import sys, medvlad; {use}; {LOADED}", tmp_path) == ["sklearn", "scipy"]


def test_importing_the_package_takes_less_than_half_a_second(tmp_path):
    code = "import time; t = time.perf_counter(); import medvlad; print(time.perf_counter() - t)"
    assert min(float(python(code, tmp_path)[0]) for _ in range(3)) < 0.5


def test_public_names_are_listed_and_documented():
    assert set(dir(medvlad)) >= set(medvlad.__all__)
    for name in medvlad.__all__:
        assert getattr(medvlad, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'vald'"):
        _ = medvlad.vald


def test_all_files_state_the_same_version():
    assert medvlad.__version__ == version("medvlad")
    declared = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert declared == medvlad.__version__
    assert f"## {declared}" in (ROOT / "CHANGELOG.md").read_text()


def test_type_stubs_and_the_typed_marker_are_installed():
    installed = Path(medvlad.__file__).parent
    stubs = ("backends/_native_portable.pyi", "backends/_blas.pyi", "images/_jpeg.pyi", "images/_resize.pyi")
    for name in ("py.typed", *stubs):
        assert (installed / name).is_file(), name


def test_the_cpp_core_does_not_include_python():
    for path in (path for room in ("core", "jpeg", "resize") for path in (ROOT / "csrc" / room).iterdir()):
        text = path.read_text()
        assert "Python.h" not in text, path
        assert "pybind11" not in text, path


def test_the_stub_of_the_native_module_matches_it():
    """Names, parameters and their order are equal."""
    native = pytest.importorskip(
        "medvlad.backends._native_portable", reason="the native backend was not built"
    )
    stub = ast.parse((ROOT / "medvlad" / "backends" / "_native_portable.pyi").read_text())
    declared = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert set(declared) == {name for name in vars(native) if not name.startswith("_")}
    for name, node in declared.items():
        if not isinstance(node, ast.FunctionDef):
            assert {part.name for part in node.body} - {"__init__"} == {
                part for part in vars(getattr(native, name)) if not part.startswith("_")
            }
            continue
        signature = getattr(native, name).__doc__.splitlines()[0]
        found = re.findall(r"(\w+): ", signature)
        assert [argument.arg for argument in node.args.args] == found, name


# ------------------------------------------------------------------------------ a clean environment

OUTSIDE = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONHASHSEED": "3",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
KEPT = {"KERAS_BACKEND": "tensorflow", "MEDVLAD_SIMD": "portable"}


def names_in(environment):
    """Return the names of the variables in the output of `env`."""
    return {line.partition("=")[0] for line in environment.splitlines()}


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("arguments", [[], ["PYTHON=python-of-the-user"]], ids=["default", "PYTHON"])
def test_make_passes_no_settings_of_python_on(tmp_path, arguments):
    # A make that runs this test passes its own choice of PYTHON on.
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
    """A program that prints its environment takes the place of make."""
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


def test_the_smoke_test_of_the_wheel_passes():
    from support.smoke import main

    pytest.importorskip("medvlad.backends._native_portable", reason="not built")
    main()
