"""Metrics against arithmetic by hand and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from medvlad import InputError
from medvlad.evaluation import balanced_accuracy, class_aucs, score_table, scores


def test_balanced_accuracy_is_scikit_learns(rng):
    labels, predicted = rng.integers(0, 3, (2, 60))
    assert balanced_accuracy(labels, predicted) == balanced_accuracy_score(labels, predicted)


def test_a_class_that_is_only_predicted_does_not_count():
    """Such a class has no recall; scikit-learn's own function warns about it."""
    assert balanced_accuracy(np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])) == 0.75


def test_each_class_has_its_auc_against_the_others(rng):
    labels, decision = rng.integers(0, 3, 60), rng.normal(size=(60, 3))
    expected = [roc_auc_score(labels == k, decision[:, k]) for k in range(3)]
    assert class_aucs(labels, decision) == expected


def test_a_class_of_no_image_or_of_all_images_has_no_auc():
    assert class_aucs(np.zeros(4, int), np.eye(2)[[0, 1, 0, 1]]) == [None, None]


@pytest.fixture
def two_classes():
    """Labels, predicted labels, decision values and class names of five images."""
    values = np.array([-2.0, -1.0, 0.5, 0.2, 3.0])
    decision = np.column_stack([-values, values])
    return np.array([0, 0, 0, 1, 1]), decision.argmax(axis=1), decision, ["NORMAL", "PNEUMONIA"]


def test_scores_of_two_classes_are_those_by_hand(two_classes):
    found = scores(*two_classes)
    assert found["accuracy"] == 4 / 5
    assert found["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["auc"] == pytest.approx(5 / 6)
    assert found["confusion_matrix"] == [[2, 1], [0, 2]]


def test_sensitivity_is_that_of_the_last_of_two_classes(two_classes):
    found = scores(*two_classes)
    assert found["positive_class"] == "PNEUMONIA"
    assert found["sensitivity"] == 1.0
    assert found["specificity"] == pytest.approx(2 / 3)


def test_the_other_class_can_be_positive(two_classes):
    found, swapped = scores(*two_classes), scores(*two_classes, positive="NORMAL")
    assert swapped["sensitivity"] == pytest.approx(found["specificity"])


@pytest.mark.parametrize("positive", ["NORMAL", "PNEUMONIA"])
def test_average_precision_is_that_of_the_positive_class(two_classes, positive):
    labels, _, decision, names = two_classes
    k = names.index(positive)
    found = scores(*two_classes, positive=positive)
    assert found["average_precision"] == average_precision_score(labels == k, decision[:, k])


@pytest.mark.parametrize("only", [0, 1])
def test_average_precision_is_undefined_if_one_class_is_there(only):
    decision = np.column_stack([-np.linspace(-1, 1, 8), np.linspace(-1, 1, 8)])
    found = scores(np.full(8, only), decision.argmax(axis=1), decision, ["a", "b"])
    assert found["average_precision"] is None
    assert [one["average_precision"] for one in found["per_class"].values()] == [None, None]


def test_average_precision_of_three_classes_is_a_mean():
    labels = np.array([0, 0, 1, 1, 2, 2])
    decision = np.eye(3)[[0, 1, 1, 1, 2, 0]]
    found = scores(labels, decision.argmax(axis=1), decision, ["a", "b", "c"])
    each = [average_precision_score(labels == k, decision[:, k]) for k in range(3)]
    assert found["average_precision"] == pytest.approx(np.mean(each))


@pytest.fixture
def of_patients(rng):
    """Arguments for ten patients with eight images each, which are decided alike."""
    labels = np.repeat(np.arange(10) % 2, 8)
    values = np.repeat(rng.normal(size=10), 8) + 0.2 * rng.normal(size=80) + labels
    decision = np.column_stack([-values, values])
    return labels, decision.argmax(axis=1), decision, ["a", "b"]


def test_every_interval_is_by_patient(of_patients):
    """With ten patients, each interval is wider than with eighty independent images."""
    apart = scores(*of_patients)
    together = scores(*of_patients, groups=np.arange(80) // 8)
    assert (apart["ci95_of"], together["ci95_of"]) == ("images", "patients")
    names = ["accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity"]
    pairs = [
        (one[f"{name}_ci95"], other[f"{name}_ci95"]) for name in names for one, other in [(apart, together)]
    ]
    for k in ("a", "b"):
        one, other = apart["per_class"][k], together["per_class"][k]
        pairs += [(one[key], other[key]) for key in one if key.endswith("_ci95")]
    assert len(pairs) == 5 + 2 * 4
    for narrow, wide in pairs:
        assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])


def test_a_missing_interval_has_a_reason():
    """Class b is one patient."""
    labels = np.repeat([0, 0, 0, 1], 2)
    values = np.array([-1, -2, 1, -1, -2, -1, 2, -1.0])
    decision = np.column_stack([-values, values])
    found = scores(labels, decision.argmax(axis=1), decision, ["a", "b"], groups=np.arange(8) // 2)
    assert found["accuracy_ci95"] is not None
    assert found["sensitivity_ci95"] is None
    assert found["ci95_missing"]["sensitivity_ci95"] == "all 2 images are of one patient"
    assert found["per_class"]["b"]["ci95_missing"].keys() == {"sensitivity_ci95", "auc_ci95"}


def test_an_unknown_positive_class_is_refused(two_classes):
    with pytest.raises(InputError, match="the positive class must be one of NORMAL, PNEUMONIA, got 'X'"):
        scores(*two_classes, positive="X")


def test_a_class_without_test_images_has_no_sensitivity():
    decision = np.eye(3)[[0, 1, 1]]
    found = scores(np.array([0, 1, 1]), decision.argmax(axis=1), decision, ["a", "b", "c"])
    assert found["per_class"]["c"]["sensitivity"] is None
    assert found["per_class"]["c"]["specificity"] == 1.0
    assert found["auc"] is None
    assert found["sensitivity"] is None


def test_scores_of_three_classes_are_means_over_classes():
    labels = np.array([0, 0, 1, 1, 2, 2])
    decision = np.eye(3)[[0, 1, 1, 1, 2, 0]]
    found = scores(labels, decision.argmax(axis=1), decision, ["a", "b", "c"])
    assert found["sensitivity"] == found["balanced_accuracy"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert found["specificity"] == pytest.approx((3 / 4 + 3 / 4 + 1) / 3)
    assert "positive_class" not in found


@pytest.fixture
def table_row():
    return {
        "encode": "vlad64",
        "scales": [0, 1],
        "accuracy": 0.8,
        "accuracy_ci95": [0.7, 0.9],
        "balanced_accuracy": 0.75,
        "auc": None,
    }


@pytest.fixture
def table_lines(table_row):
    """Lines of a table of two results."""
    row = table_row
    return score_table([row, row | {"encode": "avg", "auc": 0.9}]).splitlines()


def test_the_columns_of_a_table_line_up(table_lines):
    assert table_lines[0].split()[:2] == ["encode", "scale"]
    assert {line.index("0.8") for line in table_lines[2:]} == {table_lines[0].index("accuracy")}


def test_a_table_shows_a_dash_for_a_missing_interval(table_row):
    lines = score_table([table_row | {"accuracy_ci95": None}]).splitlines()
    assert lines[2].split()[3] == "-"


def test_a_table_shows_intervals_and_a_dash_for_an_undefined_metric(table_lines):
    assert "0.700 to 0.900" in table_lines[3]
    assert table_lines[2].endswith("-")
