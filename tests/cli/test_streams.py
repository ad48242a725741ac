"""Standard output or standard error that is full, closed, or no longer read.

Each command runs in a process of its own, with Python's usual buffers and with PYTHONUNBUFFERED=1.
"""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from support.faults import fill, write_images
from support.small_sets import without_size_warning

from medvlad.cli import cli

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full and a POSIX shell")

FULL = "medvlad: standard output: No space left on device\n"
CLOSED = "medvlad: standard output: Bad file descriptor\n"
NOT_READ = "medvlad: standard output: Broken pipe\n"
#: The command with a small network in place of a real one.
LIGHT_COMMAND = """
import medvlad.__main__
from support import faults
faults.light_network(setattr)
medvlad.__main__.main()
"""
#: The help of each command, in a fork each: all modules are imported once.
HELP_OF_EACH = """
import json, os, sys, medvlad.__main__, medvlad.cli
statuses = []
for words in json.loads(sys.argv[1]):
    process = os.fork()
    if process == 0:
        sys.argv = ["medvlad", *words, "--help"]
        medvlad.__main__.main()
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
print(statuses, file=sys.stderr)
"""
LIGHT = ["--model", "light", "--layer", "x", "--weights", "imagenet"]


@pytest.fixture(params=["buffered", "unbuffered"])
def shell(request, tmp_path):
    """Run a command with shell redirections; returns its status, standard output and standard error."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    if request.param == "unbuffered":
        environment["PYTHONUNBUFFERED"] = "1"
    paths = [str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

    def call(redirections, *arguments, code=None, stdout=subprocess.PIPE):
        python = [sys.executable, *(["-m", "medvlad"] if code is None else ["-c", code])]
        done = subprocess.run(
            ["bash", "-c", f'"$@" {redirections}', "bash", *python, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            timeout=120,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture
def store(tmp_path):
    fill(tmp_path / "store", 3)
    return tmp_path / "store"


@pytest.mark.parametrize(
    ("redirections", "message"),
    [(">/dev/full", FULL), (">&-", CLOSED), ("<&- >&-", CLOSED), ("1</dev/null", CLOSED)],
)
def test_standard_output_is_full_or_closed(shell, store, redirections, message):
    assert shell(redirections, "store", "ls", store) == (2, "", message)


def commands_of(group, *names):
    """Return the words of a group and of every command in it."""
    words = [[*names]]
    for name, command in group.commands.items():
        words += commands_of(command, *names, name) if isinstance(command, click.Group) else [[*names, name]]
    return words


def test_help_of_every_command_on_a_full_device(shell):
    words = commands_of(cli)
    assert len(words) > 15
    status, _, error = shell(">/dev/full", json.dumps(words), code=HELP_OF_EACH)
    statuses = [2] * len(words)
    assert (status, error) == (0, FULL * len(words) + f"{statuses}\n")


@pytest.mark.parametrize("arguments", [["--version"], ["doctor"], ["doctor", "--json"]], ids=" ".join)
def test_a_version_and_json_on_a_full_device(shell, arguments):
    assert shell(">/dev/full", *arguments) == (2, "", FULL)


def test_nobody_reads_standard_output(shell, store):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        for arguments in (["store", "ls", store], ["--version"], ["doctor", "--json"]):
            assert shell("", *arguments, stdout=pipe) == (2, None, NOT_READ)


@pytest.mark.parametrize(
    "name", [pytest.param("evaluate", marks=pytest.mark.slow), "extract", "train", "audit"]
)
def test_work_is_kept_although_standard_output_is_full(shell, tmp_path, name):
    """What the command has computed is in its files."""
    write_images(tmp_path / "images", 4)
    arguments, written = {
        "evaluate": ([*LIGHT, "--encode", "avg", "--folds", "2", "--out", "out"], "out/results.json"),
        "extract": ([*LIGHT, "--store", "new store"], "new store"),
        "train": ([*LIGHT, "--encode", "avg", "-o", "model"], "model"),
        "audit": (["--out", "out"], "out"),
    }[name]
    status, printed, error = shell(">/dev/full", name, "images", *arguments, code=LIGHT_COMMAND)
    assert (status, printed, without_size_warning(error)) == (2, "", FULL)
    assert (tmp_path / written).exists()


def test_standard_error_is_full_or_closed(shell, store):
    """The message is lost. The status is not, and neither is standard output."""
    for redirections in ("2>/dev/full", "2>&-"):
        assert shell(redirections, "store", "ls", "nowhere") == (2, "", "")
        assert shell(redirections, "evaluate", "--nonesuch") == (2, "", "")
        status, out, error = shell(redirections, "-v", "store", "ls", store)
        assert (status, error) == (0, "")
        assert "vgg16" in out
    assert shell(">/dev/full 2>/dev/full", "store", "ls", store) == (2, "", "")
    assert shell(">&- 2>&-", "store", "ls", store) == (2, "", "")


def test_a_broken_pipe_inside_a_command_is_told(run, monkeypatch, tmp_path):
    """Click ends such a command with status 1, which means skipped images, and without a word."""

    def broken(*_):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("medvlad.cli.doctor.diagnose", broken)
    assert run("doctor") == (2, "", "medvlad: Broken pipe\n")


def test_python_code_with_standard_error_closed(tmp_path):
    """Python has None in place of the stream then."""
    pytest.importorskip("keras", reason="needs the extra tensorflow")
    code = (
        "import numpy, sys, medvlad\n"
        "from medvlad.extraction.keras_startup import start_keras\n"
        "assert sys.stderr is None\n"
        "start_keras()\n"
        "from support import tiny_networks\n"
        "layer = tiny_networks.install('MobileNetV2', setattr, 'tiny.weights.h5')\n"
        "settings = {'weights': 'tiny.weights.h5', 'progress': True}\n"
        "network = medvlad.CNNDescriptors('mobilenetv2', layer, **settings)\n"
        "print(len(network.transform(numpy.zeros((2, 32, 32, 3), numpy.uint8))))\n"
    )
    command = ["bash", "-c", '"$@" 2>&-', "bash", sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "2\n")
