"""Mistakes of the user, warnings and too little memory: one line on standard error, status 2."""

import os
import subprocess
import sys
import warnings

import pytest
from support.striped_images import NETWORK, write_striped_images

from medvlad import InputError
from medvlad._util.memory import OutOfMemory
from medvlad.cli.console import sentence_of


@pytest.fixture
def images(tmp_path, rng):
    return write_striped_images(tmp_path / "images", rng)


MISTAKES = {
    "no folder": (["evaluate", "nowhere"], "nowhere"),
    "no model": (["predict", "missing.model", "a.png"], "missing.model"),
    "model is a folder": (["predict", ".", "a.png"], "folder"),
    "unknown encoding": (["evaluate", "{images}", "--encode", "fisher"], "fisher"),
    "unknown model": (["evaluate", "{images}", "--model", "vgg18"], "vgg18"),
    "unknown layer": (
        ["evaluate", "{images}", *NETWORK[:2], "--layer", "block9", "--weights", "{weights}"],
        "block9",
    ),
    "no weights file": (["evaluate", "{images}", *NETWORK, "--weights", "gone.h5"], "gone.h5"),
    "weights of another network": (
        ["evaluate", "{images}", "--model", "vgg16", "--weights", "{weights}"],
        "mobilenetv2",
    ),
    "scale": (["evaluate", "{images}", "--scale", "big"], "big"),
    "negative scale": (["evaluate", "{images}", *NETWORK, "--weights", "{weights}", "--scale", "-1"], "-1"),
    "C": (["evaluate", "{images}", *NETWORK, "--weights", "{weights}", "--C", "0"], "C must"),
    "power": (
        ["evaluate", "{images}", *NETWORK, "--weights", "{weights}", "--power", "2", "--encode", "vlad2"],
        "power",
    ),
    "resize": (["evaluate", "{images}", *NETWORK, "--weights", "{weights}", "--resize", "magic"], "magic"),
    "backend": (
        ["evaluate", "{images}", *NETWORK, "--weights", "{weights}", "--backend", "gpu", "--encode", "vlad2"],
        "gpu",
    ),
    "layout": (["evaluate", "{images}", "--layout", "tree"], "tree"),
    "positive class": (
        ["evaluate", "{images}", *NETWORK, "--weights", "{weights}", "--positive", "sitting"],
        "sitting",
    ),
    "too many clusters": (
        ["evaluate", "{images}", *NETWORK, "--weights", "{weights}", "--encode", "vlad9999"],
        "9999",
    ),
    "no folder for the model": (["train", "{images}", "-o", "no/such/model"], "no/such"),
    "one class": (["evaluate", "{images}/train/upright"], "class"),
    "unknown option": (["evaluate", "{images}", "--speed", "9"], "--speed"),
    "no command": (["classify"], "classify"),
    "seed": (["evaluate", "{images}", "--seed", "-1"], "--seed must be"),
    "threads": (["evaluate", "{images}", "--threads", "99999999999"], "99999999999"),
    "memory": (["evaluate", "{images}", "--memory", "lots"], "'2 GiB', got 'lots'"),
    "folds": (["evaluate", "{images}", "--folds", "0"], "folds"),
    "a pattern without a group": (["evaluate", "{images}", "--patient", "case[0-9]+"], "--patient 'case["),
    "a space in a list": (["evaluate", "{images}", "--encode", "avg, vlod8"], "unknown encoding 'vlod8'"),
    "power is not a number": (["evaluate", "{images}", "--power", "nan"], "power"),
    "batch size": (
        ["evaluate", "{images}", *NETWORK, "--weights", "{weights}", "--batch-size", "0"],
        "--batch-size must",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_in_one_sentence(run, images, tiny_weights, mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, named = MISTAKES[mistake]
    arguments = [a.format(images=images, weights=tiny_weights) for a in arguments]
    status, printed, error = run(*arguments)
    assert status == 2, error
    assert named in error
    assert "Traceback" not in printed + error
    assert error.startswith("medvlad: ")
    assert error.count("\n") == 1, error


def test_c_is_a_number_or_cv(run, images):
    status, _, error = run("evaluate", images, *NETWORK, "--C", "much")
    assert status == 2
    assert "--C must be a number above 0 or the word cv, got 'much'" in error


def test_an_unknown_backend_of_keras_is_told(tmp_path, images):
    pytest.importorskip("keras", reason="needs the extra tensorflow")
    done = subprocess.run(
        [sys.executable, "-c", "from medvlad.cli import main; main()", "evaluate", str(images)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"KERAS_BACKEND": "foo"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("medvlad: Keras cannot start")
    assert done.stderr.count("\n") == 1


@pytest.mark.filterwarnings("always:the clusters")
def test_a_warning_is_one_line(run, images, monkeypatch):
    """It does not name the place in the code."""

    def warn(*args):
        warnings.warn("the clusters are few", UserWarning, stacklevel=1)
        raise InputError("enough")

    monkeypatch.setattr("medvlad.experiment.Experiment.load", warn)
    status, _, error = run("evaluate", images)
    assert status == 2
    assert error.splitlines() == ["medvlad: the clusters are few", "medvlad: enough"]


def test_too_little_memory_is_told(run, images, monkeypatch):
    def exhausted(*args, **kwargs):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr("medvlad.experiment.Experiment.load", exhausted)
    status, _, error = run("evaluate", images)
    assert status == 2
    assert error.startswith("medvlad: not enough memory (Unable to allocate 9 TiB)")


def test_the_installed_command_ends_with_one_line(tmp_path):
    """It runs in another folder: plain output, no traceback, the right status."""
    done = subprocess.run(
        [sys.executable, "-c", "from medvlad.cli import main; main()", "evaluate", "nowhere"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("medvlad: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libscipy_openblas.so: failed to map segment from shared object"),
        MemoryError(),
        OutOfMemory("not enough memory for k-means: use fewer centres"),
    ],
)
def test_a_core_library_that_does_not_fit_into_memory_is_one_sentence(error):
    assert "memory" in sentence_of(error)


def test_a_missing_module_of_the_core_is_a_defect_and_keeps_its_traceback():
    assert sentence_of(ModuleNotFoundError("No module named 'medvlad.gone'")) is None


@pytest.mark.parametrize("kib", [28_000, 30_000, 36_000, 50_000])
def test_too_little_memory_to_start_is_told(tmp_path, kib):
    """The limit is reached before or while NumPy is loaded."""
    script = f'ulimit -v {kib}; exec "{sys.executable}" -m medvlad extract nowhere --store store'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    beginnings = ("medvlad: a library cannot be loaded (", "medvlad: there is too little memory to start: ")
    assert done.stderr.startswith(beginnings)
    assert "ulimit -v" in done.stderr
    assert done.stderr.count("\n") == 1
