"""Held-out predictions of several labels: no test image is seen, and metrics are those of scikit-learn."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score
from support.target_sets import NAMES, target_set

from medvlad import GlobalPool, InputError
from medvlad.evaluation.comparison import compare
from medvlad.evaluation.label_metrics import label_calibration, label_scores, label_table, macro_auc
from medvlad.evaluation.several_labels import compare_labels, held_out_labels, inner_label_folds
from medvlad.evaluation.targets import TargetRun
from medvlad.svm.multi_label import MultiLabelSVC


@pytest.fixture(scope="module")
def problem():
    return target_set("labels")


@pytest.fixture(scope="module")
def held(problem):
    data, x = problem
    classifier = MultiLabelSVC(label_names=data.class_names)
    return held_out_labels(x, data, GlobalPool(), classifier, folds=4, penalties=[0.1, 1.0])


def test_every_image_is_tested_once_by_models_that_have_not_seen_its_patient(problem, held):
    data, _ = problem
    assert sorted(held.tested) == list(range(len(data)))
    for fold in held.fitted:
        assert not set(data.groups[fold.train]) & set(data.groups[fold.test])


def test_targets_of_test_images_change_no_prediction(problem):
    data, x = target_set("labels", splits=True)
    classifier = MultiLabelSVC(label_names=data.class_names)
    first = held_out_labels(x, data, GlobalPool(), classifier)
    data.targets[data.splits == "test"] = 1 - data.targets[data.splits == "test"]
    again = held_out_labels(x, data, GlobalPool(), classifier)
    for name in ("decision", "probability", "predicted"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


def test_metrics_are_those_of_scikit_learn_on_the_known_pairs(problem, held):
    data, _ = problem
    truth = data.targets[held.tested]
    groups = data.groups[held.tested]
    found = label_scores(
        truth, held.decision, held.probability, held.predicted, data.class_names, groups=groups
    )
    for k, one in enumerate(found["labels"]):
        known = ~np.isnan(truth[:, k])
        own = truth[known, k] == 1
        assert one["label"] == data.class_names[k]
        assert (one["n"], one["n_positive"]) == (known.sum(), own.sum())
        assert one["auc"] == pytest.approx(roc_auc_score(own, held.decision[known, k]))
        assert one["average_precision"] == pytest.approx(
            average_precision_score(own, held.decision[known, k])
        )
        assert one["sensitivity"] == held.predicted[known, k][own].mean()
        assert one["specificity"] == (~held.predicted[known, k][~own]).mean()
        assert one["auc_ci95"][0] < one["auc"] < one["auc_ci95"][1]
    assert found["macro"]["auc"] == pytest.approx(np.mean([one["auc"] for one in found["labels"]]))
    known = ~np.isnan(truth)
    assert found["micro"]["auc"] == pytest.approx(roc_auc_score(truth[known], held.probability[known]))
    assert found["micro"]["n"] == known.sum()
    assert found["ci95_of"] == "patients"


def test_copies_of_images_of_a_patient_do_not_narrow_intervals(problem, held):
    data, _ = problem
    one = macro_auc(data.targets[held.tested], held.decision, data.groups[held.tested])
    twice = macro_auc(
        np.repeat(data.targets[held.tested], 2, axis=0),
        np.repeat(held.decision, 2, axis=0),
        np.repeat(data.groups[held.tested], 2),
    )
    assert twice.value == pytest.approx(one.value)
    assert np.ptp(twice.ends) > 0.7 * np.ptp(one.ends)  # independent copies would give 0.7


def test_a_label_without_both_kinds_of_test_images_is_left_out_of_the_mean(rng):
    truth = np.column_stack([rng.integers(0, 2, 30), np.zeros(30), np.full(30, np.nan)]).astype(float)
    values = rng.random((30, 3))
    found = label_scores(truth, values, values, values > 0.5, ["a", "b", "c"])
    assert found["macro"]["left_out"] == ["b", "c"]
    assert found["macro"]["auc"] == found["labels"][0]["auc"]
    assert found["labels"][1]["auc"] is None
    assert "auc_ci95" in found["labels"][2]["ci95_missing"]
    json.dumps(found, allow_nan=False)
    assert re.search(r"^avg +b +30 +0.0% +- ", label_table([{"encode": "avg"} | found]), re.MULTILINE)


def test_calibration_metrics_by_hand():
    truth, probability = np.array([True, False, False, True]), np.array([0.8, 0.2, 0.2, 0.4])
    found = label_calibration(truth, probability)
    assert found["brier"] == pytest.approx((0.04 + 0.04 + 0.04 + 0.36) / 4)
    assert found["log_loss"] == pytest.approx(log_loss(truth, probability))
    assert found["expected_calibration_error"] == pytest.approx((2 * 0.2 + 0.6 + 0.2) / 4)
    assert [one["n"] for one in found["bins"]] == [2, 1, 1]


def test_probabilities_are_calibrated(problem, held):
    data, _ = problem
    truth = data.targets[held.tested]
    known = ~np.isnan(truth)
    assert label_calibration(truth[known] == 1, held.probability[known])["expected_calibration_error"] < 0.06


def test_a_label_that_an_inner_fold_lacks_has_no_decision_value_there():
    data, x = target_set("labels")
    targets = data.targets.copy()
    targets[:, 0] = 0.0
    targets[:2, 0] = 1.0  # the two images of one patient
    found = inner_label_folds(x, targets, data.groups, GlobalPool(), MultiLabelSVC(), [1.0], folds=3)
    missing = np.isnan(found.decision)
    assert missing[:2, 0].all()  # their training images have no such label
    assert not missing[:, 1:].any()


def test_the_rarest_label_is_found_with_its_learned_threshold(held):
    assert held.predicted[:, 0].any()


def test_a_run_gives_plain_results_and_a_calibrated_model(problem):
    data, x = problem
    run = TargetRun(data, penalties=(0.1, 1.0), folds=3)
    run.check("platt")
    encoders = {"avg": GlobalPool(), "max": GlobalPool("max")}
    metrics, comparisons, _ = run.evaluate(x, encoders)
    json.dumps([metrics, comparisons], allow_nan=False)
    assert metrics["avg"]["task"] == "labels"
    assert len(metrics["avg"]["labels"][0]["threshold"]) == 3
    assert comparisons[0]["difference"]["auc"] < 0 > comparisons[0]["difference_ci95"]["auc"][1]
    encoder, head, choice = run.train(x, encoders)
    assert choice.encoding == "avg"
    assert choice.metric == "mean AUC"
    assert head.classes_.tolist() == NAMES["labels"]
    assert head.predict_proba(encoder.transform(x)).shape == (120, 3)


def test_labels_that_are_ranked_alike_have_no_interval_of_the_difference(problem, held):
    found = compare_labels(problem[0], held, replace(held, decision=2 * held.decision))
    assert found["difference"] == {"auc": 0}
    assert found["difference_ci95"] == {"auc": None}
    assert found["difference_ci95_missing"] == {"auc": "both rank all images alike"}


def test_one_label_is_compared_as_two_classes_are(problem, held):
    data, _ = problem
    known = ~np.isnan(data.targets[held.tested, 1])
    rows = held.tested[known]
    values = [held.decision[known, 1], -held.decision[known, 0]]
    one = replace(data, targets=data.targets[:, [1]], class_names=["nodule"])
    first, second = (replace(held, tested=rows, decision=own[:, None]) for own in values)
    labels = data.targets[rows, 1].astype(int)
    two_columns = [np.column_stack([-own, own]) for own in values]
    expected = compare(labels, *two_columns, groups=data.groups[rows])
    found = compare_labels(one, first, second)
    assert found["difference_ci95"]["auc"] == pytest.approx(expected["difference_ci95"]["auc"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"calibration": "isotonic"}, "'isotonic' is for classes"), ({"positive": "nodule"}, "two classes")],
)
def test_settings_of_classes_are_refused(problem, settings, message):
    with pytest.raises(InputError, match=message):
        TargetRun(problem[0]).check(**settings)
