"""Parameters of the library in messages, spelled as options of the running command."""

import subprocess
import sys

import click
import pytest
from support.in_this_process import run_command

from medvlad import InputError
from medvlad.cli.evaluate import evaluate
from medvlad.cli.export import export
from medvlad.cli.extract import extract
from medvlad.cli.predict import predict
from medvlad.cli.spelling import as_options
from medvlad.cli.train import train


@pytest.mark.parametrize(
    ("python", "options"),
    [
        ("use folds=5", "use --folds 5"),
        ("scales=(0,) is too small", "--scale 0 is too small"),
        ("give scales=(0, 1), or scales=(0,).", "give --scale 0,1, or --scale 0."),
        ("on_error='skip' leaves it out", "--on-error skip leaves it out"),
        ("on_error='raise' ends the run", "--on-error stop ends the run"),
        ("random_state=3 and seed=3", "--seed 3 and --seed 3"),
        ("n_threads=4", "--threads 4"),
        ("give store=FILE", "give --store FILE"),
        ("store='my store' is a file", "--store 'my store' is a file"),
        ("with store=None", "with no --store"),
        ("C=None chooses it, C=0.5 does not", "--C cv chooses it, --C 0.5 does not"),
        ("tol=1e-3 and power=0.5", "tol=1e-3 and --power 0.5"),
        ("class_weight=None", "--class-weight none"),
        ("calibration='platt'", "--calibration platt"),
        ("n_components=8 and descriptor_norm=True", "--pca 8 and --l2-descriptors"),
        ("descriptor_norm=False", "--no-l2-descriptors"),
        ("tiles=((1, 1), (2, 2))", "--tiles 1x1,2x2"),
        ("group_pattern='(case[0-9]+)_'", "--patient '(case[0-9]+)_'"),
        ("unknown_patients='drop'", "--unknown-patients drop"),
        ("name them with group_pattern=REGEX, or stop", "name them with --patient REGEX, or stop"),
        ("(folds=2)", "(--folds 2)"),
        ("encodings=('avg', 'vlad64')", "--encode avg,vlad64"),
    ],
)
def test_a_parameter_with_a_value_is_an_option(python, options):
    assert as_options(python, evaluate.params) == options


@pytest.mark.parametrize(
    ("python", "options"),
    [
        ("`folds` is too large", "--folds is too large"),
        ("use `folds=3`: `n_threads` is free", "use --folds 3: --threads is free"),
        ("batch_size must be at least 1", "--batch-size must be at least 1"),
        ("`l2_norm` stays", "`l2_norm` stays"),
    ],
)
def test_a_parameter_without_a_value_is_an_option(python, options):
    assert as_options(python, evaluate.params) == options


@pytest.mark.parametrize(
    "message",
    [
        "/data/folds=5/a.png cannot be read",
        "/data/scale=1.png cannot be read",
        "the file folds=5.png cannot be read",
        "x.folds=5",
        "the folds must be whole numbers",
        "n_clusters=64 is larger than 12",
        "output='store' needs a store",
    ],
)
def test_other_text_stays(message):
    assert as_options(message, train.params) == message


def test_only_options_of_the_command_are_spelled():
    message = "use folds=5, from_features=True or n_workers=2"
    assert as_options(message, predict.params) == message
    assert as_options(message, export.params) == "use folds=5, --from-features or n_workers=2"
    assert as_options(message, extract.params) == "use folds=5, from_features=True or --workers 2"


@pytest.mark.parametrize("command", [evaluate, train, extract], ids=lambda command: command.name)
def test_what_is_spelled_is_an_option_that_the_command_takes(command):
    """A wrong option would be a usage error before the folder is looked at."""
    parser = command.make_parser(click.Context(command))
    for option in command.params:
        if isinstance(option, click.Option) and option.name != "help":
            spelled = as_options(f"`{option.name}`", command.params)
            assert spelled in parser._long_opt or option.name == "output", option.name


def test_an_error_of_the_library_is_printed_with_options(monkeypatch, tmp_path):
    def refuse(*args):
        raise InputError("folds=5 needs at least 5 patients in every class, but class 'b' has 3: use folds=3")

    monkeypatch.setattr("medvlad.experiment.Experiment.load", refuse)
    status, _, error = run_command("evaluate", tmp_path)
    assert status == 2
    assert error == (
        "medvlad: --folds 5 needs at least 5 patients in every class, but class 'b' has 3: use --folds 3\n"
    )


def test_a_warning_and_the_log_are_printed_with_options(tmp_path):
    program = """
import logging, sys, warnings
from medvlad import InputError, cli
from medvlad.experiment import Experiment

def load(*args):
    warnings.warn("scales=(0,) is small", UserWarning, stacklevel=1)
    logging.getLogger("medvlad.x").warning("use n_threads=%d", 2)
    raise InputError("enough")

Experiment.load = load
sys.argv = ["medvlad", "evaluate", "."]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.splitlines() == [
        "medvlad: --scale 0 is small",
        "medvlad: use --threads 2",
        "medvlad: enough",
    ]
