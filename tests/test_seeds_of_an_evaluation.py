"""Several seeds of one evaluation: each equals a run with that seed alone."""

from dataclasses import replace

import numpy as np
import pytest
from support.folders import touch
from support.in_this_process import run_command
from support.striped_images import NETWORK, small_experiment, write_striped_images

from medvlad import InputError
from medvlad.experiment import Experiment


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_striped_images(
        tmp_path_factory.mktemp("seeds") / "images", np.random.default_rng(5), train=6, test=4
    )


@pytest.fixture(scope="module")
def three(tiny_weights, folder):
    """The experiment with seed 4, and its results over three seeds."""
    experiment = replace(small_experiment(tiny_weights), seed=4)
    dataset = experiment.load(folder)
    return experiment, replace(experiment, n_seeds=3).evaluate(dataset, ["avg", "vlad3"]).results


@pytest.mark.parametrize("encoding", [0, 1], ids=["avg", "vlad3"])
@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "auc"])
def test_a_seed_gives_what_a_run_with_it_gives(three, folder, encoding, metric):
    experiment, results = three
    found = results["results"][encoding]["over_seeds"]
    assert found["seeds"] == [4, 5, 6]
    for seed, value in zip(found["seeds"], found[metric]["values"], strict=True):
        alone = replace(experiment, seed=seed)
        (expected,) = alone.evaluate(alone.load(folder), [["avg", "vlad3"][encoding]]).results["results"]
        assert value == pytest.approx(expected[metric], abs=1e-12)


def test_mean_and_spread_are_those_of_the_values(three):
    found = three[1]["results"][1]["over_seeds"]["auc"]
    assert found["mean"] == pytest.approx(np.mean(found["values"]))
    assert found["std"] == pytest.approx(np.std(found["values"], ddof=1))
    assert (found["min"], found["max"]) == (min(found["values"]), max(found["values"]))


def test_a_seed_of_average_pooling_changes_nothing_with_a_test_part(three):
    found = three[1]["results"][0]["over_seeds"]
    assert found["accuracy"]["std"] == 0


def test_the_first_seed_is_the_result_itself(three):
    for one in three[1]["results"]:
        assert one["over_seeds"]["accuracy"]["values"][0] == pytest.approx(one["accuracy"])


def test_one_seed_adds_nothing(tiny_weights, folder):
    experiment = small_experiment(tiny_weights)
    (one,) = experiment.evaluate(experiment.load(folder), ["avg"]).results["results"]
    assert "over_seeds" not in one


def test_the_command_prints_mean_and_spread(tiny_weights, folder):
    arguments = ["evaluate", folder, *NETWORK, "--weights", tiny_weights, "--encode", "vlad3"]
    status, printed, error = run_command(*arguments, "--n-seeds", "2")
    assert status == 0, error
    (line,) = [line for line in printed.splitlines() if "over 2 seeds" in line]
    assert line.startswith("vlad3 over 2 seeds, mean (standard deviation, range): accuracy ")


def test_no_seed_is_refused(tmp_path):
    images = touch(tmp_path / "two", *(f"{name}/{i}.png" for name in ("a", "b") for i in range(5)))
    with pytest.raises(InputError, match="n_seeds must be an integer of at least 1, got 0"):
        Experiment(n_seeds=0).load(images)


def test_seeds_of_labels_are_refused_before_the_extraction(tmp_path, tiny_weights):
    table = tmp_path / "labels.csv"
    touch(tmp_path, *(f"{i}.png" for i in range(4)))
    table.write_text("image,label\n" + "".join(f"{i}.png,{'a|b' if i % 2 else 'a'}\n" for i in range(4)))
    status, _, error = run_command("evaluate", table, *NETWORK, "--weights", tiny_weights, "--n-seeds", "2")
    assert status == 2
    assert "--n-seeds 2 is for data sets with one class an image, and this one has labels" in error
