"""The duality gap certifies the solution, and fast products give the solution of float64."""

import pickle
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from support.label_problems import draw_labels
from support.svm_problems import SHAPES, draw

from medvlad import WideLinearSVC
from medvlad.backends import native
from medvlad.svm import gram, refinement, wide_form
from medvlad.svm.multi_label import MultiLabelSVC

#: Levels with one way each of computing the fast matrix: emulated tiles, and float32 of BLAS.
LEVELS = ("amx_emulated", "portable")


def losses(model, X, y, C, weight=1.0):
    """Return P(w) of each binary problem of a classifier, in extended precision."""
    w = np.column_stack([model.coef_, model.intercept_]).astype(np.longdouble)
    rows = np.column_stack([X, np.ones(len(X))]).astype(np.longdouble)
    targets = model.classes_[1:] if len(model.classes_) == 2 else model.classes_
    sign = np.where(np.asarray(y)[:, np.newaxis] == targets, 1, -1)
    slack = np.maximum(0, 1 - sign * (rows @ w.T))
    return 0.5 * (w**2).sum(axis=1) + (C * np.reshape(weight, (-1, 1)) * slack**2).sum(axis=0)


@contextmanager
def fast_products(level):
    """Use fast products of a level, for the smallest problems too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDVLAD_SIMD", level)
        assert native.level() == level
        patch.setattr(gram, "_LEAST_ROWS", 1)
        patch.setattr(gram, "_LEAST_PRODUCTS", 1)
        yield


@pytest.fixture(params=LEVELS)
def always_fast(request):
    with fast_products(request.param):
        yield


@pytest.fixture
def exact_matrices(monkeypatch):
    """Return a list that gets an entry for each matrix that is computed in float64."""
    computed = []

    def counted(x, *rest):
        computed.append(x.shape)
        return gram.gram(x, *rest)

    monkeypatch.setattr(wide_form, "gram", counted)
    return computed


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_gap_of_a_solution_is_rounding(shape, n_classes, C):
    X, y = draw(shape, n_classes)
    assert 0 <= WideLinearSVC(C).fit(X, y).dual_gap_ < 1e-20


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_gap_bounds_the_distance_to_the_minimum(shape, steps):
    X, y = draw(shape, 3)
    early, exact = WideLinearSVC(100.0, max_iter=steps).fit(X, y), WideLinearSVC(100.0).fit(X, y)
    value, least = losses(early, X, y, 100.0), losses(exact, X, y, 100.0)
    assert (value > least).all()
    assert early.dual_gap_ >= ((value - least) / value).max()
    assert early.dual_gap_ > 1e-6
    distance = (early.coef_ - exact.coef_) ** 2
    assert (0.5 * distance.sum(axis=1) <= early.dual_gap_ * value).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_with_few_features_the_gap_is_that_of_the_optimal_dual_variables():
    X, y = draw((300, 20), 2)
    model = WideLinearSVC(10.0, max_iter=1).fit(X, y)
    sign, rows = np.where(y == 1, 1, -1), np.column_stack([X, np.ones(300)])
    alpha = 2 * 10.0 * np.maximum(0, 1 - sign * model.decision_function(X))
    dual = alpha.sum() - 0.5 * ((rows.T @ (sign * alpha)) ** 2).sum() - (alpha**2).sum() / (4 * 10.0)
    primal = float(losses(model, X, y, 10.0)[0])
    np.testing.assert_allclose(model.dual_gap_, (primal - dual) / primal, rtol=1e-9)


def test_a_path_has_a_gap_for_each_C():
    X, y = draw((60, 200), 3)
    for model in WideLinearSVC().fit_path(X, y, [0.1, 10.0]):
        assert 0 <= model.dual_gap_ < 1e-20


def test_a_clone_forgets_the_gap_and_a_pickle_keeps_it():
    model = WideLinearSVC().fit(*draw((60, 200), 3))
    assert isinstance(model.dual_gap_, float)
    assert not hasattr(clone(model), "dual_gap_")
    assert pickle.loads(pickle.dumps(model)).dual_gap_ == model.dual_gap_


@st.composite
def problems(draw):
    """Return wide rows with offsets and repetitions, labels, weights and parameters."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, more = draw(st.integers(4, 60)), draw(st.integers(1, 150))
    X = rng.normal(size=(n, n + more)) * 10.0 ** draw(st.integers(-6, 6))
    X += draw(st.sampled_from([0.0, 1.0, 300.0])) * np.abs(X).mean() * rng.uniform(0.5, 1.0, n + more)
    X[rng.random(n) < draw(st.sampled_from([0.0, 0.3]))] = X[0]
    X = X.astype(draw(st.sampled_from([np.float32, np.float64])))
    X = np.asarray(X, order=draw(st.sampled_from("CF")))
    y = rng.integers(0, draw(st.sampled_from([2, 4])), n)
    y[:2] = [0, 1]
    y = np.unique(y, return_inverse=True)[1]
    weight = rng.choice([0.0, 0.5, 3.0] if draw(st.booleans()) else [1.0], n)
    weight[:2] = 1.0
    # C relative to the lengths of the rows minus their mean: from tiny to huge.
    spread = ((X - X.mean(axis=0)) ** 2).sum(axis=1).mean()
    assume(spread > 0)  # otherwise all rows are the same
    C = 10.0 ** draw(st.integers(-4, 4)) / spread
    return X, y, weight, {"C": float(C), "class_weight": draw(st.sampled_from([None, "balanced"]))}


@pytest.mark.parametrize("level", LEVELS)
@settings(deadline=None, max_examples=150)
@given(problems())
def test_the_fast_solution_is_that_of_float64(level, problem):
    X, y, weight, params = problem
    exact = WideLinearSVC(**params).fit(X, y, weight)
    with fast_products(level):
        fast = WideLinearSVC(**params).fit(X, y, weight)
    assert fast.dual_gap_ <= 1e-8
    factors = fast._class_factors(fast.classes_, y, np.bincount(y, weight, len(fast.classes_)))
    C = params["C"] * weight.max() * factors.max()
    bound = np.sqrt(2 * (fast.dual_gap_ + exact.dual_gap_) * losses(fast, X, y, C).max()) + 1e-12
    difference = np.linalg.norm(fast.coef_ - exact.coef_, axis=1)
    assert (difference <= bound + 1e-9 * np.linalg.norm(exact.coef_, axis=1)).all()
    scores = np.sort(np.reshape(exact.decision_function(X), (len(X), -1)), axis=1)
    margin = np.abs(scores[:, 0]) if scores.shape[1] == 1 else scores[:, -1] - scores[:, -2]
    clear = margin > 1e-5 * (1 + np.abs(scores).max())
    np.testing.assert_array_equal(fast.predict(X)[clear], exact.predict(X)[clear])


@pytest.mark.parametrize("C", [0.01, 1.0, 30.0])
def test_fast_products_are_enough_for_usual_C(always_fast, exact_matrices, C):
    X, y = draw((60, 200), 3)
    model = WideLinearSVC(C).fit(X, y)
    assert exact_matrices == []
    assert model.dual_gap_ <= 1e-10


def test_one_matrix_is_enough_for_a_path(always_fast, exact_matrices, monkeypatch):
    computed = []
    monkeypatch.setattr(wide_form, "fast_gram", lambda *given: computed.append(1) or gram.fast_gram(*given))
    X, y = draw((60, 200), 3)
    for model in WideLinearSVC().fit_path(X, y, [0.01, 1.0, 30.0]):
        alone = WideLinearSVC(model.C).fit(X, y)
        np.testing.assert_allclose(model.coef_, alone.coef_, rtol=0, atol=1e-4)
        assert model.dual_gap_ <= 1e-10
    assert len(computed) == 4  # one for the path, one for each single fit
    assert exact_matrices == []


def test_a_huge_C_takes_the_matrix_of_float64(exact_matrices):
    X, y = draw((60, 200), 2)
    X = np.repeat(X[:, :20], 20, axis=1)  # the classes overlap, so C matters
    exact = WideLinearSVC(1e6).fit(X, y)
    exact_matrices.clear()
    with fast_products("amx_emulated"):
        fast = WideLinearSVC(1e6).fit(X, y)
    assert exact_matrices == [X.shape]
    np.testing.assert_allclose(fast.coef_, exact.coef_, rtol=0, atol=1e-7 * np.abs(exact.coef_).max())
    assert fast.dual_gap_ <= 1e-8


@pytest.mark.slow
def test_a_search_without_end_on_the_fast_matrix_takes_that_of_float64(always_fast):
    """C times the squared length of a row is 1e9."""
    rng = np.random.default_rng(5)
    X, y = rng.normal(size=(200, 400)) * np.sqrt(1e7 / 400), rng.integers(0, 2, 200)
    model = WideLinearSVC(100.0).fit(X, y)
    assert model.dual_gap_ <= 1e-8
    assert model.n_iter_ <= 20


def test_a_wrong_matrix_cannot_give_a_wrong_solution(always_fast, exact_matrices, monkeypatch):
    X, y = draw((60, 200), 3)
    exact = WideLinearSVC().fit(X, y)
    monkeypatch.setattr(wide_form, "fast_gram", lambda *given: 1.5 * gram.fast_gram(*given) + 3.0)
    wrong = WideLinearSVC().fit(X, y)
    assert wrong.dual_gap_ <= 1e-8
    np.testing.assert_allclose(wrong.coef_, exact.coef_, rtol=0, atol=1e-4)


def test_a_matrix_beyond_float32_falls_back_to_float64(always_fast):
    X, y = draw((30, 90), 2)
    fast = WideLinearSVC(1e-60, fit_intercept=False).fit(X * 1e30, y)
    plain = WideLinearSVC(1.0, fit_intercept=False).fit(X, y)
    np.testing.assert_allclose(fast.coef_ * 1e30, plain.coef_, rtol=0, atol=1e-5)
    assert fast.dual_gap_ <= 1e-8


def test_a_limit_of_steps_still_warns(always_fast):
    X, y = draw((60, 200), 2)
    with pytest.warns(ConvergenceWarning, match="max_iter=1"):
        model = WideLinearSVC(100.0, max_iter=1).fit(X, y)
    assert model.dual_gap_ > 1e-8


@pytest.mark.parametrize(
    ("estimator", "labels"),
    [(WideLinearSVC(100.0), lambda y: y), (MultiLabelSVC(100.0), lambda y: y[:, np.newaxis])],
    ids=["classes", "labels"],
)
def test_a_gap_above_the_bound_warns_and_says_what_to_do(estimator, labels):
    """Far from the origin, rounding limits the solution, although the search has converged."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(15, 13)) + 1e6 * rng.normal(size=13), labels(np.arange(15) % 2)
    with pytest.warns(ConvergenceWarning) as caught:
        model = estimator.fit(X, y)
    assert model.dual_gap_ > 1e-8
    (message,) = (str(one.message) for one in caught)
    gap = f"dual_gap_ is {model.dual_gap_:.1e} and should be at most 1e-08: standardise X or lower C"
    assert message == f"the solution is only approximate, because its relative duality gap {gap}"
    standardised = (X - X.mean(axis=0)) / X.std(axis=0)
    assert clone(estimator).fit(standardised, y).dual_gap_ <= 1e-8  # a warning would be an error


def test_steps_of_the_refinement_need_no_larger_limit(always_fast, monkeypatch):
    monkeypatch.setattr(refinement, "WANTED", 1e-16)  # two rounds
    X, y = draw((60, 200), 2)
    steps = WideLinearSVC(10.0).fit(X, y).n_iter_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for limit in range(steps - 1, steps + 1):
            assert WideLinearSVC(10.0, max_iter=limit).fit(X, y).dual_gap_ <= 1e-8


def test_labels_are_solved_from_fast_products_too(always_fast, exact_matrices):
    X, y = draw_labels((60, 200), 4, missing=0.2)
    fast = MultiLabelSVC(3.0).fit(X, y)
    assert exact_matrices == []
    for k in range(4):
        known = ~np.isnan(y[:, k])
        alone = WideLinearSVC(3.0).fit(X[known], y[known, k])
        np.testing.assert_allclose(fast.coef_[k], alone.coef_[0], rtol=0, atol=1e-4)
    assert fast.dual_gap_ <= 1e-10


def test_blocks_and_runs_do_not_change_the_solution(always_fast, monkeypatch):
    X, y = draw((90, 400), 3)
    whole = WideLinearSVC(10.0).fit(X, y)
    monkeypatch.setattr(gram, "GRAM_BLOCK", 900)
    monkeypatch.setattr(gram, "_RUN", 50)
    monkeypatch.setattr("medvlad.svm.blocks._LEAST_BLOCK", 1)
    np.testing.assert_allclose(WideLinearSVC(10.0).fit(X, y).coef_, whole.coef_, rtol=0, atol=1e-5)


def test_the_bound_is_that_of_the_documentation():
    assert refinement.BOUND == 1e-8
    assert not gram.has_fast_gram(400, 1_000_000)
    assert gram.has_fast_gram(2_000, 32_768)
