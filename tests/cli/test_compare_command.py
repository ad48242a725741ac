"""The command compare: two runs compared afterwards."""

import json

import numpy as np
import pytest
from support.in_this_process import run_command
from support.striped_images import NETWORK, write_striped_images

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_weights):
    """A folder with the results of avg, of max, and of both in one run."""
    folder = tmp_path_factory.mktemp("compare")
    images = write_striped_images(folder / "images", np.random.default_rng(4))
    arguments = ["evaluate", images, *NETWORK, "--weights", tiny_weights]
    for encode in ("avg", "max", "avg,max"):
        assert run_command(*arguments, "--encode", encode, "--out", folder / encode)[0] == 0
    return folder


def test_a_comparison_afterwards_is_the_one_inside_a_run(run, runs):
    (inside,) = json.loads((runs / "avg,max" / "results.json").read_text())["comparisons"]
    status, printed, _ = run("compare", runs / "avg", runs / "max", "--json")
    assert status == 0
    found = json.loads(printed)
    for name in ("only_first", "only_second", "mcnemar_p", "difference", "difference_ci95"):
        assert found[name] == inside[name]


@pytest.mark.parametrize("both", ["max,max", "max"])
def test_the_same_encoding_has_no_difference(run, runs, both):
    status, printed, _ = run("compare", runs / "avg,max", runs / "max", "--encode", both)
    assert status == 0
    assert "8 images, 95 % intervals over images" in printed
    assert "accuracy +0.000 (-0.324 to +0.324)" in printed  # 3.84 / (8 + 3.84)
    assert "balanced accuracy +0.000 (" in printed
    assert "auc +0.000 (" in printed
    assert "(+0.000 to +0.000)" not in printed


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["{runs}/avg,max", "{runs}/max"], "holds several encodings"),
        (["{runs}", "{runs}/max"], "no predictions.csv"),
        (["{runs}/avg,max", "{runs}"], "{runs} holds no predictions.csv"),
        (["{runs}/avg", "{runs}/max", "--encode", "vlad4,max"], "holds no encoding"),
    ],
)
def test_runs_that_cannot_be_compared_are_told(run, runs, wrong, told):
    status, _, error = run("compare", *(word.format(runs=runs) for word in wrong))
    assert status == 2
    assert told.format(runs=runs) in error


@pytest.mark.parametrize("wrong", [",avg", "avg,max,gem"])
def test_encode_takes_one_or_two_encodings(run, runs, wrong):
    status, _, error = run("compare", runs / "avg", runs / "max", "--encode", wrong)
    assert status == 2
    assert f"--encode takes one encoding, or two separated by a comma, got '{wrong}'" in error


def test_runs_on_other_images_are_not_compared(run, runs, tmp_path):
    rows = (runs / "max" / "predictions.csv").read_text().splitlines(keepends=True)
    (tmp_path / "predictions.csv").write_text("".join(rows[:-1]))
    status, _, error = run("compare", runs / "avg", tmp_path)
    assert status == 2
    assert "other test images" in error
