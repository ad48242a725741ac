"""WideRidge equals scikit-learn's Ridge, and left-out errors equal those of models that are fitted again."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.utils.estimator_checks import parametrize_with_checks
from support.label_problems import draw_numbers

from medvlad import InputError
from medvlad.svm import blocks, gram, ridge_forms
from medvlad.svm.wide_ridge import WideRidge

SHAPES = {"wide": (50, 160), "tall": (60, 12), "square": (40, 40)}


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("alpha", [1e-3, 0.7, 100.0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_each_target_equals_ridge_on_the_rows_whose_number_is_known(shape, alpha, intercept):
    X, y = draw_numbers(shape, 3, missing=0.2)
    y[:, 0] = np.nan_to_num(y[:, 0], nan=1.0)
    ours = WideRidge(alpha, fit_intercept=intercept).fit(X, y)
    for k in range(3):
        known = ~np.isnan(y[:, k])
        theirs = Ridge(alpha, fit_intercept=intercept, solver="svd").fit(X[known], y[known, k])
        scale = np.abs(theirs.coef_).max()
        np.testing.assert_allclose(ours.coef_[k], theirs.coef_, rtol=0, atol=1e-10 * scale)
        np.testing.assert_allclose(ours.predict(X)[:, k], theirs.predict(X), rtol=0, atol=1e-9)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_chosen_alpha_has_the_smallest_error_of_models_that_are_fitted_again(shape, grouped, intercept):
    X, y = draw_numbers(shape, 2, missing=0.2)
    alphas = [0.01, 0.3, 10.0]
    patients = np.arange(len(X)) // 3 if grouped else np.arange(len(X))
    ours = WideRidge(None, alphas=alphas, fit_intercept=intercept)
    ours.fit(X, y, groups=patients if grouped else None)
    for k in range(2):
        known = ~np.isnan(y[:, k])
        errors = []
        for alpha in alphas:
            squares = 0.0
            for patient in np.unique(patients[known]):
                out, rest = known & (patients == patient), known & (patients != patient)
                model = Ridge(alpha, fit_intercept=intercept, solver="svd").fit(X[rest], y[rest, k])
                squares += ((model.predict(X[out]) - y[out, k]) ** 2).sum()
            errors.append(squares / known.sum())
        assert ours.alpha_[k] == alphas[int(np.argmin(errors))]
        np.testing.assert_allclose(ours.error_[k], min(errors), rtol=1e-8)


def test_a_fit_with_the_chosen_alpha_is_the_same():
    X, y = draw_numbers((50, 160), 1)
    chosen = WideRidge(None).fit(X, y)
    again = WideRidge(float(chosen.alpha_[0])).fit(X, y)
    np.testing.assert_array_equal(chosen.coef_, again.coef_)
    assert not hasattr(again, "error_")


@pytest.mark.parametrize("shape", [(50, 160), (150, 20)])
def test_a_large_offset_of_the_rows_does_not_change_the_weights(shape):
    X, y = draw_numbers(shape, 1)
    X = np.round(X * 1024) / 1024  # exact with the offset
    plain, moved = WideRidge(0.5).fit(X, y[:, 0]), WideRidge(0.5).fit(X + 2.0**20, y[:, 0])
    np.testing.assert_allclose(moved.coef_, plain.coef_, rtol=0, atol=1e-8 * np.abs(plain.coef_).max())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(50, 160), (150, 20)])
def test_the_size_of_blocks_does_not_change_the_solution(shape, order, monkeypatch):
    X, y = draw_numbers(shape, 2, missing=0.1)
    X = np.asarray(X, np.float32, order=order)
    whole = WideRidge(0.1).fit(X, y)
    for module in (blocks, gram):
        monkeypatch.setattr(module, "GRAM_BLOCK", 900)
    for module in (blocks, ridge_forms):
        monkeypatch.setattr(module, "PASS_BLOCK", 700)
    monkeypatch.setattr(blocks, "_LEAST_BLOCK", 1)
    np.testing.assert_allclose(WideRidge(0.1).fit(X, y).coef_, whole.coef_, rtol=0, atol=1e-12)


def test_one_dimension_of_y_gives_one_dimension():
    X, y = draw_numbers((50, 160), 1)
    model = WideRidge().fit(X, y[:, 0])
    assert model.coef_.shape == (160,)
    assert isinstance(model.intercept_, float)
    np.testing.assert_array_equal(model.predict(X), WideRidge().fit(X, y).predict(X)[:, 0])


def test_constant_rows_predict_the_mean():
    model = WideRidge(None).fit(np.ones((4, 6)), [1.0, 2.0, 3.0, 6.0])
    np.testing.assert_allclose(model.predict(np.ones((1, 6))), [3.0])


@pytest.mark.parametrize(
    ("parameters", "y", "message"),
    [
        ({}, [1.0, np.nan, np.nan], "known for 1 rows"),
        ({}, [1.0, np.inf, 2.0], "infinite in row 1"),
        ({}, ["a", "b", "c"], "must hold numbers"),
        ({"alpha": 0.0}, [1.0, 2.0, 3.0], "alpha"),
        ({"alpha": None, "alphas": []}, [1.0, 2.0, 3.0], "alphas is empty"),
        ({"target_names": ["a", "b"]}, [1.0, 2.0, 3.0], "target_names has 2 different names"),
    ],
)
def test_mistakes_are_refused(parameters, y, message):
    with pytest.raises(InputError, match=message):
        WideRidge(**parameters).fit(np.eye(3), y)


def test_one_group_is_refused():
    with pytest.raises(InputError, match="known for 1 groups"):
        WideRidge(None).fit(np.eye(3), [1.0, 2.0, 3.0], groups=["a", "a", "a"])


@parametrize_with_checks([WideRidge()])
def test_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("level", ["amx_emulated", "portable"])
@pytest.mark.parametrize("intercept", [True, False])
def test_fast_products_give_the_solution_of_float64(level, intercept, monkeypatch):
    X, y = draw_numbers((50, 160), 3, missing=0.2)
    X += 100.0 * intercept
    alphas = [1e-9, 0.1, 100.0]
    exact = [WideRidge(alpha, fit_intercept=intercept).fit(X, y).coef_ for alpha in alphas]
    computed = []
    monkeypatch.setenv("MEDVLAD_SIMD", level)
    monkeypatch.setattr(gram, "_LEAST_ROWS", 1)
    monkeypatch.setattr(gram, "_LEAST_PRODUCTS", 1)
    monkeypatch.setattr(ridge_forms, "gram", lambda *given: computed.append(1) or gram.gram(*given))
    for alpha, expected in zip(alphas, exact, strict=True):
        found = WideRidge(alpha, fit_intercept=intercept).fit(X, y).coef_
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7 * np.abs(expected).max())
    assert computed == []
    WideRidge(None, fit_intercept=intercept).fit(X, y)
    assert computed == [1]  # a choice of alpha takes the matrix of float64


def test_fast_products_that_are_not_enough_are_replaced_by_float64(monkeypatch):
    X, y = draw_numbers((50, 160), 2, missing=0.2)
    X += 1e5  # without an intercept, the offset stays in the matrix
    exact = WideRidge(1.0, fit_intercept=False).fit(X, y)
    computed = []
    monkeypatch.setenv("MEDVLAD_SIMD", "amx_emulated")
    monkeypatch.setattr(gram, "_LEAST_ROWS", 1)
    monkeypatch.setattr(gram, "_LEAST_PRODUCTS", 1)
    monkeypatch.setattr(ridge_forms, "gram", lambda *given: computed.append(1) or gram.gram(*given))
    found = WideRidge(1.0, fit_intercept=False).fit(X, y)
    assert computed == [1]
    np.testing.assert_array_equal(found.coef_, exact.coef_)
