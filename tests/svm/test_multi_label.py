"""MultiLabelSVC equals one LinearSVC a label, also with missing labels."""

import numpy as np
import pytest
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks
from support.label_problems import draw_labels

from medvlad import InputError, WideLinearSVC
from medvlad.svm.multi_label import MultiLabelSVC, best_threshold
from medvlad.svm.platt import platt_parameters, platt_probability

SHAPES = {"wide": (60, 200), "tall": (300, 20)}
WEIGHTS = [None, "balanced", {0: 0.5, 1: 4.0}]


@pytest.mark.parametrize("weight", WEIGHTS, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_each_label_equals_linear_svc_on_the_images_whose_label_is_known(shape, weight):
    X, y = draw_labels(shape, 4, missing=0.2)
    decision = MultiLabelSVC(3.0, class_weight=weight).fit(X, y).decision_function(X)
    for k in range(4):
        known = ~np.isnan(y[:, k])
        theirs = LinearSVC(C=3.0, dual=False, tol=1e-11, max_iter=100_000, class_weight=weight)
        expected = theirs.fit(X[known], y[known, k]).decision_function(X)
        np.testing.assert_allclose(decision[:, k], expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_each_label_equals_wide_linear_svc_to_rounding(shape):
    X, y = draw_labels(shape, 3)
    ours = MultiLabelSVC(2.0, intercept_scaling=3.0).fit(X, y)
    for k in range(3):
        alone = WideLinearSVC(2.0, intercept_scaling=3.0).fit(X, y[:, k])
        np.testing.assert_allclose(ours.coef_[k], alone.coef_[0], rtol=0, atol=1e-10)
        np.testing.assert_allclose(ours.intercept_[k], alone.intercept_[0], rtol=0, atol=1e-10)


def test_a_label_does_not_depend_on_the_others():
    X, y = draw_labels((60, 200), 4, missing=0.3)
    together = MultiLabelSVC().fit(X, y)
    alone = MultiLabelSVC().fit(X, y[:, [2]])
    np.testing.assert_allclose(alone.coef_[0], together.coef_[2], rtol=0, atol=1e-12)


def test_a_path_over_C_equals_single_fits():
    X, y = draw_labels((60, 200), 3, missing=0.2)
    for C, fitted in zip([0.1, 10.0], MultiLabelSVC().fit_path(X, y, [0.1, 10.0]), strict=True):
        np.testing.assert_allclose(fitted.coef_, MultiLabelSVC(C).fit(X, y).coef_, rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", [np.asarray, lambda y: y.astype(bool), lambda y: y.astype(int), list])
def test_labels_are_bool_or_numbers(make):
    X, y = draw_labels((40, 60), 2)
    np.testing.assert_array_equal(MultiLabelSVC().fit(X, make(y)).coef_, MultiLabelSVC().fit(X, y).coef_)


def test_names_are_those_of_the_columns_of_a_data_frame():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y = draw_labels((40, 60), 2)
    named = MultiLabelSVC().fit(X, pandas.DataFrame(y, columns=["effusion", "nodule"]))
    assert named.classes_.tolist() == ["effusion", "nodule"]
    assert MultiLabelSVC().fit(X, y).classes_.tolist() == ["0", "1"]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([[1, 0], [0, 2], [1, 1]], "got 2 in row 1, column 1"),
        ([[1, 0], [0, np.inf], [1, 1]], "infinite in row 1, column 1"),
        ([[1, 0], [1, 1], [1, 1]], "no image lacks the label 0"),
        ([[0, np.nan], [1, 1], [1, 1]], "no image lacks the label 1"),
        ([["a", "b"], ["a", "b"], ["a", "b"]], "must hold numbers"),
    ],
)
def test_wrong_labels_are_refused_with_their_place(y, message):
    with pytest.raises(InputError, match=message):
        MultiLabelSVC().fit(np.eye(3), y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"label_names": ["a"]}, "label_names has 1 different names"),
        ({"label_names": ["a", "a"]}, "label_names has 1 different names"),
        ({"class_weight": {2: 1.0}}, "use 0 and 1"),
        ({"class_weight": {1: -1.0}}, "at least 0"),
        ({"class_weight": "even"}, "'balanced' or None"),
        ({"C": 0.0}, "C"),
    ],
)
def test_wrong_parameters_are_refused(parameters, message):
    with pytest.raises(InputError, match=message):
        MultiLabelSVC(**parameters).fit(np.eye(3), [[1, 0], [0, 1], [1, 1]])


def test_calibration_learns_thresholds_and_probabilities():
    X, y = draw_labels((200, 30), 2, missing=0.1)
    model = MultiLabelSVC().fit(X[:100], y[:100])
    assert not hasattr(model, "predict_proba")
    held_out = model.decision_function(X[100:])
    model.calibrate(held_out, y[100:])
    probability = model.predict_proba(X[100:])
    np.testing.assert_array_equal(model.predict(X[100:]), held_out > model.thresholds_)
    assert (np.argsort(probability, axis=0) == np.argsort(held_out, axis=0)).all()
    known = ~np.isnan(y[100:, 0])
    assert abs(probability[known, 0].mean() - y[100:, 0][known].mean()) < 0.02


def test_calibration_needs_both_kinds_of_images():
    X, y = draw_labels((40, 60), 2)
    with pytest.raises(InputError, match="cannot be calibrated"):
        MultiLabelSVC().fit(X, y).calibrate(np.zeros((3, 2)), [[1, 0], [1, 1], [1, 0]])


def test_the_threshold_has_the_largest_sum_of_sensitivity_and_specificity(rng):
    for _ in range(50):
        decision, truth = rng.integers(0, 8, 20).astype(float), rng.random(20) < 0.4
        truth[:2] = [True, False]
        decision[:2] = [9.0, -1.0]

        def youden(cut, decision=decision, truth=truth):
            return (decision > cut)[truth].mean() + (decision <= cut)[~truth].mean()

        assert youden(best_threshold(decision, truth)) == max(youden(cut) for cut in np.arange(-2, 10, 0.5))


def test_platt_parameters_minimise_the_log_loss_of_smoothed_targets(rng):
    from scipy.optimize import minimize

    decision = rng.normal(3.0, 20.0, 60)
    truth = decision + rng.normal(0, 15, 60) > 10
    n1, n0 = truth.sum(), (~truth).sum()
    wanted = np.where(truth, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))

    def loss(ab):
        p = platt_probability(decision, *ab)
        return -(wanted * np.log(p) + (1 - wanted) * np.log(1 - p)).mean()

    found = platt_parameters(decision, truth)
    best = minimize(loss, [-0.1, 0.0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14})
    np.testing.assert_allclose(found, best.x, rtol=1e-4)
    assert loss(found) <= best.fun + 1e-12


def test_platt_of_separable_values_is_finite():
    a, b = platt_parameters(np.array([-1.0, -2.0, 1.0, 2.0]), np.array([False, False, True, True]))
    assert np.isfinite([a, b]).all()
    assert 0.5 < platt_probability(np.array(2.0), a, b) < 1


#: Checks whose y are class names or more than two classes; labels are columns of 0 and 1.
CLASSES = dict.fromkeys(
    (
        "check_estimators_dtypes",
        "check_classifier_data_not_an_array",
        "check_classifiers_classes",
        "check_classifiers_train",
        "check_classifiers_regression_target",
        "check_classifier_not_supporting_multiclass",
        "check_classifier_multioutput",
        "check_fit2d_1feature",
    ),
    "y holds classes, not labels of 0 and 1",
)


@parametrize_with_checks([MultiLabelSVC()], expected_failed_checks=lambda _: CLASSES)
def test_passes_the_checks_of_scikit_learn_that_apply(estimator, check):
    check(estimator)
