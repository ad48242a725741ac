"""Held-out predictions of numbers, and their metrics with intervals by patient."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, r2_score
from support.target_sets import NAMES, target_set

from medvlad import GlobalPool
from medvlad.evaluation.patient_bootstrap import r2_metric, spearman_metric
from medvlad.evaluation.regression import compare_numbers, held_out_numbers, number_scores, number_table
from medvlad.evaluation.targets import TargetRun
from medvlad.svm.wide_ridge import WideRidge


@pytest.fixture(scope="module")
def problem():
    return target_set("regression")


def test_numbers_of_test_images_change_no_prediction():
    data, x = target_set("regression", splits=True)
    first = held_out_numbers(x, data, GlobalPool(), WideRidge(None))
    data.targets[data.splits == "test"] += 100
    again = held_out_numbers(x, data, GlobalPool(), WideRidge(None))
    np.testing.assert_array_equal(first.predicted, again.predicted)


def test_every_image_is_tested_once_by_models_that_have_not_seen_its_patient(problem):
    data, x = problem
    held = held_out_numbers(x, data, GlobalPool(), WideRidge(None), folds=4)
    assert sorted(held.tested) == list(range(len(data)))
    for fold in held.fitted:
        assert not set(data.groups[fold.train]) & set(data.groups[fold.test])


def test_metrics_are_those_of_scikit_learn_and_scipy(rng):
    truth = rng.normal(size=(60, 1))
    predicted = truth + rng.normal(size=(60, 1))
    truth[::5] = np.nan
    known = ~np.isnan(truth[:, 0])
    one = number_scores(truth, predicted, ["age"])["targets"][0]
    pair = truth[known, 0], predicted[known, 0]
    assert one["n"] == known.sum()
    assert one["r2"] == pytest.approx(r2_score(*pair))
    assert one["mae"] == pytest.approx(mean_absolute_error(*pair))
    assert one["spearman"] == pytest.approx(spearmanr(*pair).statistic)
    for metric in ("r2", "mae", "spearman"):
        low, high = one[f"{metric}_ci95"]
        assert low < one[metric] < high


def test_copies_of_images_of_a_patient_do_not_narrow_intervals(rng):
    truth = rng.normal(size=(40, 1))
    predicted = truth + rng.normal(size=(40, 1))
    patients = np.arange(40).astype(str)
    one = number_scores(truth, predicted, ["age"], groups=patients)["targets"][0]
    many = number_scores(
        np.repeat(truth, 3, 0), np.repeat(predicted, 3, 0), ["age"], groups=np.repeat(patients, 3)
    )["targets"][0]
    np.testing.assert_allclose(many["mae_ci95"], one["mae_ci95"])
    assert np.ptp(many["r2_ci95"]) > 0.9 * np.ptp(one["r2_ci95"])


@pytest.mark.parametrize("metric", ["r2", "mae", "spearman"])
def test_intervals_cover_the_metric_of_all_patients(metric):
    """Of 100 samples of 60 patients, about 95 intervals hold the metric of a very large sample."""
    expected = {"r2": 0.5, "mae": np.sqrt(2 / np.pi), "spearman": 6 / np.pi * np.arcsin(np.sqrt(0.5) / 2)}
    hits = 0
    for seed in range(100):
        predicted, error = np.random.default_rng(seed).normal(size=(2, 60, 1))
        low, high = number_scores(predicted + error, predicted, ["a"])["targets"][0][f"{metric}_ci95"]
        hits += low <= expected[metric] <= high
    assert 88 <= hits <= 100


def test_metrics_of_draws_are_those_of_repeated_images(rng):
    truth, predicted = rng.integers(0, 6, (2, 12)).astype(float)
    patients = np.arange(12) // 2
    draws = rng.multinomial(6, np.full(6, 1 / 6), 20).astype(float)
    expected = {r2_metric: r2_score, spearman_metric: lambda a, b: spearmanr(a, b).statistic}
    for make, metric in expected.items():
        found = make(truth, predicted, patients)(draws)
        for value, draw in zip(found, draws, strict=True):
            rows = np.repeat(np.arange(12), draw[patients].astype(int))
            assert value == pytest.approx(metric(truth[rows], predicted[rows]))


def test_resamples_of_one_value_give_no_interval():
    truth = np.arange(12.0)[:, None]
    one = number_scores(truth, truth**2, ["age"])["targets"][0]
    assert one["spearman"] == pytest.approx(1)
    assert one["spearman_ci95"] is None
    assert one["ci95_missing"] == {"spearman_ci95": "all resamples have the same value"}


@pytest.mark.parametrize(("n_patients", "given"), [(9, False), (10, True)])
def test_fewer_than_ten_patients_have_no_interval(rng, n_patients, given):
    truth, error = rng.normal(size=(2, 5 * n_patients, 1))
    groups = np.repeat(np.arange(n_patients), 5)
    one = number_scores(truth, truth + error, ["age"], groups=groups)["targets"][0]
    assert [one[f"{name}_ci95"] is not None for name in ("r2", "mae", "spearman")] == [given] * 3
    reasons = set(one["ci95_missing"].values())
    assert reasons == (set() if given else {"with fewer than 10 patients it would be too narrow"})


def test_a_comparison_without_an_interval_says_why(problem):
    data, x = problem
    held = held_out_numbers(x, data, GlobalPool(), WideRidge(None), folds=3)
    names = NAMES["regression"]
    same = compare_numbers(data, held, held)
    assert same["difference"]["mae"] == dict.fromkeys(names, 0.0)
    assert same["difference_ci95"]["mae"] == dict.fromkeys(names)
    reasons = set(same["difference_ci95_missing"]["mae"].values())
    assert reasons == {"all resamples have the same value"}
    unknown = compare_numbers(replace(data, targets=np.full_like(data.targets, np.nan)), held, held)
    assert unknown["difference"]["mae"] == unknown["difference_ci95"]["mae"] == dict.fromkeys(names)
    reasons = set(unknown["difference_ci95_missing"]["mae"].values())
    assert reasons == {"it is not known for any test image"}


def test_one_patient_or_one_number_has_no_interval_and_says_why():
    one = number_scores(
        np.array([[1.0], [2.0]]), np.array([[1.0], [3.0]]), ["age"], groups=np.array(["a", "a"])
    )
    assert one["targets"][0]["mae_ci95"] is None
    assert "of one patient" in one["targets"][0]["ci95_missing"]["mae_ci95"]
    constant = number_scores(np.ones((5, 1)), np.zeros((5, 1)), ["age"])["targets"][0]
    assert constant["r2"] is None
    assert "different numbers" in constant["ci95_missing"]["r2_ci95"]
    json.dumps(constant, allow_nan=False)


def test_a_run_gives_plain_results_and_a_model(problem):
    data, x = problem
    run = TargetRun(data, folds=3)
    run.check()
    encoders = {"avg": GlobalPool(), "max": GlobalPool("max")}
    metrics, comparisons, _ = run.evaluate(x, encoders)
    json.dumps([metrics, comparisons], allow_nan=False)
    assert metrics["avg"]["task"] == "regression"
    assert metrics["avg"]["targets"][1]["r2"] > 0.9
    assert comparisons[0]["difference_ci95"]["mae"]["weight"][0] > 0
    assert "weight  120" in number_table([{"encode": "avg"} | metrics["avg"]])
    encoder, head, choice = run.train(x, encoders)
    assert (choice.encoding, choice.metric) == ("avg", "R2")
    assert head.target_names_.tolist() == NAMES["regression"]
    assert head.predict(encoder.transform(x)).shape == (120, 2)
