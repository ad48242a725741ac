"""CalibratedSVC as a scikit-learn classifier."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.utils.estimator_checks import parametrize_with_checks

from medvlad import InputError, WideLinearSVC
from medvlad.decisions import CalibratedSVC, answers_of, calibrate_on, check_answers, linear_part
from medvlad.decisions.answers import with_threshold
from medvlad.decisions.operating_point import Target
from medvlad.svm.decision import decision_columns


@parametrize_with_checks(
    [CalibratedSVC()],
    expected_failed_checks=lambda _: {
        "check_classifiers_train": "the label is that of the SVM, which need not be the most probable class"
    },
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def problem(n_classes, n=120, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    x = rng.normal(size=(n, 4))
    x[np.arange(n), y] += 1.5
    return x, np.array(list("abcd"))[y]


@pytest.fixture(params=[2, 3])
def fitted(request):
    x, y = problem(request.param)
    return CalibratedSVC(WideLinearSVC(0.5)).fit(x, y), x, y


def test_labels_and_scores_are_those_of_the_svm(fitted):
    calibrated, x, y = fitted
    svm = WideLinearSVC(0.5).fit(x, y)
    np.testing.assert_array_equal(calibrated.decision_function(x), svm.decision_function(x))
    np.testing.assert_array_equal(calibrated.predict(x), svm.predict(x))
    np.testing.assert_array_equal(calibrated.coef_, svm.coef_)
    np.testing.assert_array_equal(calibrated.intercept_, svm.intercept_)
    assert calibrated.C == 0.5


def test_held_out_values_come_from_classifiers_that_have_not_seen_the_row():
    x, y = problem(2)
    groups = np.arange(120) // 4
    calibrated = CalibratedSVC(folds=3, random_state=5).fit(x, y, groups)
    for train, test in StratifiedGroupKFold(3, shuffle=True, random_state=5).split(x, y, groups):
        values = WideLinearSVC().fit(x[train], y[train]).decision_function(x[test])
        np.testing.assert_array_equal(calibrated.held_out_decision_[test], decision_columns(values))


def test_a_pickle_and_a_clone_answer_the_same(fitted):
    calibrated, x, y = fitted
    again = pickle.loads(pickle.dumps(calibrated))
    refitted = clone(calibrated).fit(x, y)
    for other in (again, refitted):
        np.testing.assert_array_equal(other.predict_proba(x), calibrated.predict_proba(x))
        np.testing.assert_array_equal(other.prediction_sets(x, 0.8), calibrated.prediction_sets(x, 0.8))
        np.testing.assert_array_equal(other.novelty_p(x), calibrated.novelty_p(x))
    assert not hasattr(clone(calibrated), "classifier_")


def test_an_operating_point_moves_labels_but_neither_scores_nor_probabilities():
    x, y = problem(2)
    labels = (y == "b").astype(np.int64)
    svm = WideLinearSVC().fit(x, y)
    decision = decision_columns(svm.decision_function(x))
    plain = calibrate_on(svm, decision, labels)
    moved = calibrate_on(svm, decision, labels, target=Target("specificity", 0.97))
    assert moved.threshold_ > 0
    np.testing.assert_array_equal(moved.predict(x) == "b", svm.decision_function(x) > moved.threshold_)
    assert (moved.predict(x) != plain.predict(x)).any()
    np.testing.assert_array_equal(moved.predict_proba(x), plain.predict_proba(x))


@pytest.mark.parametrize(("n", "expected"), [(998, "platt"), (1000, "isotonic")])
def test_shifted_copies_do_not_count_for_the_choice_of_the_calibration(n, expected):
    labels = np.arange(n) % 2
    x = np.random.default_rng(0).normal(size=(n, 2)) + labels[:, None]
    svm = WideLinearSVC().fit(x, labels)
    decision = decision_columns(svm.decision_function(x))
    is_image = np.arange(2 * n) < n
    made = calibrate_on(svm, np.tile(decision, (2, 1)), np.tile(labels, 2), is_image=is_image)
    assert made.calibration_.method == expected


def test_more_rows_than_are_kept_are_subsampled_by_class(monkeypatch):
    monkeypatch.setattr("medvlad.decisions.calibrated_svc.MAX_HELD_OUT", 30)
    x, y = problem(3)
    calibrated = CalibratedSVC().fit(x, y)
    np.testing.assert_array_equal(np.bincount(calibrated.held_out_labels_), [10, 10, 10])
    np.testing.assert_array_equal(calibrated.training_counts_, [40, 40, 40])


def test_a_class_with_one_row_is_refused():
    x, y = problem(2)
    y = np.where(np.arange(120) == 0, "c", y)
    with pytest.raises(InputError, match="calibration needs at least 2 rows of each class"):
        CalibratedSVC().fit(x, y)


def test_decision_values_of_another_shape_are_refused():
    x, y = problem(2)
    svm = WideLinearSVC().fit(x, y)
    with pytest.raises(InputError, match=r"must have shape \(120, 2\), got \(120,\)"):
        calibrate_on(svm, svm.decision_function(x), (y == "b").astype(np.int64))


def test_the_linear_part_has_the_weights(fitted):
    calibrated, x, y = fitted
    assert linear_part(calibrated) is calibrated.classifier_
    logistic = LogisticRegression().fit(x, y)
    assert linear_part(logistic) is logistic
    assert linear_part("svm") is None


def test_an_answer_says_everything(fitted):
    calibrated, x, _ = fitted
    decision = decision_columns(calibrated.decision_function(x))
    answers = answers_of(calibrated, decision, x, coverage=0.8)
    assert [one["label"] for one in answers] == calibrated.predict(x).tolist()
    classes = calibrated.classes_.tolist()
    found = np.array([[one["probabilities"][name] for name in classes] for one in answers])
    np.testing.assert_array_equal(found, calibrated.predict_proba(x))
    sets = [[name in one["prediction_set"] for name in classes] for one in answers]
    np.testing.assert_array_equal(sets, calibrated.prediction_sets(x, 0.8))
    np.testing.assert_array_equal([one["novelty_p"] for one in answers], calibrated.novelty_p(x))


def test_a_label_is_left_open_unless_it_is_alone_in_the_set(fitted):
    calibrated, x, _ = fitted
    decision = decision_columns(calibrated.decision_function(x))
    answers = answers_of(calibrated, decision, x, coverage=0.95, abstain=True)
    labels = calibrated.predict(x).tolist()
    assert {one["abstained"] for one in answers} == {True, False}
    for one, label in zip(answers, labels, strict=True):
        assert one["abstained"] == (one["prediction_set"] != [label])
        assert one["label"] == (None if one["abstained"] else label)


def test_abstaining_alone_means_a_coverage_of_09(fitted):
    calibrated, x, _ = fitted
    decision = decision_columns(calibrated.decision_function(x))
    assert answers_of(calibrated, decision, x, abstain=True) == answers_of(
        calibrated, decision, x, abstain=True, coverage=0.9
    )


def test_answers_are_decided_again_with_another_threshold():
    x, y = problem(2)
    calibrated = CalibratedSVC().fit(x, y)
    decision = decision_columns(calibrated.decision_function(x))
    answers = answers_of(calibrated, decision, x, abstain=True)
    with_threshold(answers, ["a", "b"], 0.7)
    expected = answers_of(calibrated, decision, x, abstain=True, threshold=0.7)
    assert [one | {"threshold": 0.7} for one in expected] == answers


def test_a_plain_svm_answers_label_and_scores():
    x, y = problem(3)
    svm = WideLinearSVC().fit(x, y)
    answers = answers_of(svm, svm.decision_function(x), None)
    assert [one["label"] for one in answers] == svm.predict(x).tolist()
    assert set(answers[0]) == {"label", "scores"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coverage": 0.9}, "coverage=0.9 needs a model with calibration, this one ends in WideLinearSVC"),
        ({"abstain": True}, "abstain=True needs a model with calibration"),
        ({"coverage": 2}, "coverage must lie in"),
        ({"threshold": 0.1}, "a threshold needs a model with two classes, this one has 3"),
    ],
)
def test_what_a_model_cannot_answer_is_refused(settings, message):
    x, y = problem(3)
    with pytest.raises(InputError, match=message):
        check_answers(WideLinearSVC().fit(x, y), **settings)
