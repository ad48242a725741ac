"""WideLinearSVC refuses wrong input in one sentence, and warns at the caller's line."""

import inspect

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.pipeline import make_pipeline
from support.svm_problems import draw

from medvlad._util.validate import InputError
from medvlad.svm.wide_linear_svc import WideLinearSVC


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"C": 0.0}, r"C must be a finite number above 0, got 0\.0"),
        ({"C": float("nan")}, "C must be a finite"),
        ({"C": float("inf")}, "C must be a finite number above 0, got inf"),
        ({"C": "1"}, "C must be a finite number above 0"),
        ({"intercept_scaling": -1.0}, "intercept_scaling must be a finite"),
        ({"intercept_scaling": float("inf")}, "intercept_scaling must be a finite number above 0, got inf"),
        ({"max_iter": 0}, "max_iter must be an integer of at least 1"),
        ({"max_iter": float("inf")}, "max_iter must be an integer of at least 1, got inf"),
        ({"class_weight": "equal"}, "class_weight must be a dict, 'balanced' or None, got 'equal'"),
        ({"class_weight": {0: -1.0}}, "class_weight of class 0 must be a finite number of at least 0"),
        ({"class_weight": {0: float("inf")}}, "class_weight of class 0 must be a finite number"),
    ],
)
def test_a_parameter_out_of_range_is_named(params, message):
    X, y = draw((10, 20), 2)
    with pytest.raises(InputError, match=message):
        WideLinearSVC(**params).fit(X, y)


def test_one_class_is_refused_by_name():
    with pytest.raises(
        InputError, match=r"y holds only one class, benign, and a classifier needs two: add rows"
    ):
        WideLinearSVC().fit(np.eye(3), ["benign"] * 3)


def test_one_class_with_positive_weight_is_refused():
    with pytest.raises(InputError, match=r"positive sample_weight holds only one class, 1,"):
        WideLinearSVC().fit(np.eye(3), [0, 1, 1], [0, 1, 1])


def test_nan_in_x_is_refused():
    X, y = draw((10, 20), 2)
    with pytest.raises(ValueError, match="NaN"):
        WideLinearSVC().fit(np.where(X > 0.3, np.nan, X), y)


def test_a_negative_sample_weight_is_refused():
    X, y = draw((10, 20), 2)
    with pytest.raises(ValueError, match="sample_weight"):
        WideLinearSVC().fit(X, y, -np.ones(10))


def test_predict_before_fit_is_refused():
    X, _ = draw((10, 20), 2)
    with pytest.raises(NotFittedError):
        WideLinearSVC().predict(X)


def test_another_number_of_features_is_refused():
    X, y = draw((10, 20), 2)
    with pytest.raises(ValueError, match="19 features"):
        WideLinearSVC().fit(X, y).predict(X[:, :19])


@pytest.mark.parametrize("shape", [(10, 20), (20, 10)])
def test_squares_beyond_float64_are_refused(shape):
    X, y = draw(shape, 2)
    with pytest.raises(InputError, match="squares of X"):
        WideLinearSVC().fit(X * 1e200, y)


def test_c_beyond_float64_is_refused():
    with pytest.raises(InputError, match="beyond float64"):
        WideLinearSVC(C=1.7e308).fit([[0.0], [1.0]], [0, 1])


def test_too_few_steps_warn_and_name_the_class():
    X, y = draw((50, 50), 2)
    with pytest.warns(ConvergenceWarning, match=r"class 1 .*max_iter=1 steps: raise max_iter"):
        model = WideLinearSVC(100.0, max_iter=1).fit(X, y)
    assert model.n_iter_ == 1
    assert clone(model).set_params(max_iter=100).fit(X, y).n_iter_ > 1


@pytest.mark.parametrize("pad", [0, 100])
def test_a_solution_beyond_double_precision_warns(pad):
    rng = np.random.default_rng(0)
    X = np.pad(np.repeat(rng.normal(size=(60, 2)), 2, axis=1), [(0, 0), (0, pad)])
    with pytest.warns(ConvergenceWarning, match="beyond double precision"):
        WideLinearSVC(1e12).fit(1e4 * X, rng.integers(0, 2, 60))


CALLS = {
    "fit": lambda X, y: WideLinearSVC(100.0, max_iter=1).fit(X, y),
    "fit_path": lambda X, y: WideLinearSVC(max_iter=1).fit_path(X, y, [100.0]),
    "pipeline": lambda X, y: make_pipeline(WideLinearSVC(100.0, max_iter=1)).fit(X, y),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_warning_points_at_the_line_that_calls_fit(call):
    with pytest.warns(ConvergenceWarning) as caught:
        call(*draw((50, 50), 2))
    assert {(one.filename, one.lineno) for one in caught} == {(__file__, inspect.getsourcelines(call)[1])}
