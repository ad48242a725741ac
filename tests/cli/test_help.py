"""Help texts, suggestions, plain output, and the time until they appear."""

import json
import os
import pty
import re
import shlex
import subprocess
import sys

import click
import pytest
from support.in_this_process import run_command

from medvlad.backends import BACKENDS
from medvlad.classifier.parameters import AUGMENTATIONS
from medvlad.cli import cli
from medvlad.cli.evaluate import evaluate
from medvlad.datasets.published import LAYOUTS
from medvlad.datasets.unknown_patients import UNKNOWN_PATIENTS
from medvlad.decisions.calibration import AUTO, METHODS
from medvlad.encoders.recipe import PRESETS
from medvlad.extraction.engines import DTYPES, ENGINES
from medvlad.images import RESIZE_FILTERS
from medvlad.images.colour_profile import COLOUR_PROFILES
from medvlad.images.damage import ON_DAMAGE
from medvlad.images.picture import DECODE

MOST_PEOPLE_USE = ["evaluate", "train", "predict", "extract", "audit"]


def every_command(group=cli, path=("medvlad",)):
    """Return path and command of every command that is no group."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(every_command())


@pytest.fixture
def help_of(monkeypatch):
    """Return the help of a command as lines of a terminal with 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *words: run_command(*words, "--help")[1].splitlines()


# --------------------------------------------------------------------------------------- what it says


def test_the_summary_of_each_command_fits_its_line(help_of):
    lines = help_of()
    assert not [line for line in lines if "..." in line and "COMMAND" not in line]
    assert max(map(len, lines)) <= 79


def test_commands_are_in_the_order_of_first_use(help_of):
    named = [line.split()[0] for line in help_of() if re.match(r"  [a-z]+ ", line)]
    order = ["demo", "doctor", "audit", "evaluate", "compare", "train", "predict"]
    assert [name for name in named if name in order] == order


@pytest.mark.parametrize("command", MOST_PEOPLE_USE)
def test_the_first_screen_has_examples_and_the_options_most_used(help_of, command):
    lines = help_of(command)[:40]
    assert "  Examples:" in lines
    assert sum(line.startswith(f"    medvlad {command} ") for line in lines) == 2
    assert "Most used:" in lines
    shown = [line for line in lines if line.startswith(("  -", "  --"))]
    assert len(shown) >= min(10, len(COMMANDS["medvlad", command].params) - 3)


def test_the_options_of_evaluate_are_in_named_groups(help_of):
    headings = [line for line in help_of("evaluate") if re.fullmatch(r"[A-Z][a-z ]+:", line)]
    assert headings == [
        "Positional arguments:",
        "Most used:",
        "Data:",
        "Table:",
        "Network:",
        "Encoding:",
        "Classifier:",
        "Evaluation:",
        "Output:",
        "Advanced:",
        "Monitoring:",
        "Other options:",
    ]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_each_option_says_what_it_is(path):
    for option in COMMANDS[path].params:
        assert re.fullmatch(r"[A-Z].*(\.|\.\.\.)(  \[default: .*\])?", option.help), option.help


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_examples_are_commands_with_options_that_exist(path):
    for example in getattr(COMMANDS[path], "examples", ()):
        words = shlex.split(example)
        assert tuple(words[: len(path)]) == path
        known = {name for option in COMMANDS[path].params for name in option.opts}
        assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ("layout", LAYOUTS),
        ("engine", ENGINES),
        ("dtype", ("auto", *DTYPES)),
        ("resize", RESIZE_FILTERS),
        ("backend", ("auto", *BACKENDS)),
        ("preset", PRESETS),
        ("unknown_patients", UNKNOWN_PATIENTS),
        ("calibration", ("none", AUTO, *METHODS)),
        ("colour_profile", COLOUR_PROFILES),
        ("augment", AUGMENTATIONS),
        ("decode", DECODE),
        ("on_damage", ["stop" if one == "raise" else one for one in ON_DAMAGE]),
    ],
)
def test_choices_are_those_of_the_library(option, choices):
    found = next(one for one in evaluate.params if one.name == option)
    assert set(found.type.choices) == set(choices)


# ---------------------------------------------------------------------------------------- suggestions


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["evaluate", "x", "--scal", "1"], "No such option '--scal'. Did you mean '--scale'?"),
        (["evaluate", "x", "--foldes", "1"], "No such option '--foldes'. Did you mean '--folds'?"),
        (["evalate", "x"], "No such command 'evalate'. Did you mean 'evaluate'?"),
        (["store", "verfy"], "No such command 'verfy'. Did you mean 'verify'?"),
        (["evaluate", "x", "--layout", "fodler"], "got 'fodler'. Did you mean 'folder'?"),
        (["evaluate", "x", "--preset", "bets"], "got 'bets'. Did you mean 'best'?"),
        (["evaluate", "{images}", "--encode", "vald64"], "did you mean 'vlad64'?"),
        (["evaluate", "{images}", "--encode", "mx"], "did you mean 'max'?"),
        (["evaluate", "{images}", "--model", "vgg91"], "did you mean vgg19"),
    ],
)
def test_a_wrong_name_suggests_the_right_one(run, tmp_path, words, told):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    status, _, error = run(*(word.format(images=tmp_path) for word in words))
    assert status == 2
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [["evaluate", "x", "--nonesuch"], ["evaluate"], ["train", "x"]])
def test_a_wrong_command_line_names_its_help(run, words):
    assert f"See 'medvlad {words[0]} --help'." in run(*words)[2]


# --------------------------------------------------------------------------------------- plain output


def printed_on_a_terminal(words, environment):
    """Run a command whose standard output and error are a terminal; return what it prints."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "medvlad", *words], stdout=its, stderr=its, env=os.environ | environment
    )
    os.close(its)
    printed = b""
    try:
        while block := os.read(ours, 4096):
            printed += block
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    process.wait()
    return printed


@pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    "environment", [{"NO_COLOR": "1", "TERM": "xterm-256color"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"]
)
@pytest.mark.parametrize("words", [["evaluate", "--help"], ["evaluate", "--nonesuch"]], ids=" ".join)
def test_a_plain_terminal_gets_no_escape_codes(words, environment):
    printed = printed_on_a_terminal(words, environment)
    assert b"medvlad" in printed
    assert b"\x1b" not in printed


@pytest.mark.parametrize("words", [["evaluate", "--help"], ["doctor"]], ids=" ".join)
def test_output_that_is_no_terminal_has_no_escape_codes(words):
    done = subprocess.run([sys.executable, "-m", "medvlad", *words], capture_output=True, check=True)
    assert b"medvlad" in done.stdout
    assert b"\x1b" not in done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------- speed


@pytest.mark.parametrize("words", [["--help"], ["evaluate", "--help"], ["--version"]], ids=" ".join)
def test_help_imports_no_large_package(words):
    program = f"""
import json, sys
from medvlad.cli import main
sys.argv = ["medvlad", *{words!r}]
try:
    main()
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = set(json.loads(done.stderr))
    assert "medvlad.cli.evaluate" in imported
    assert not imported & {"numpy", "scipy", "sklearn", "PIL", "tensorflow", "keras", "medvlad.images"}
