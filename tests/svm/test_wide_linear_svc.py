"""WideLinearSVC finds the solution: compared with LIBLINEAR, between its two forms, and by its gradient."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks
from support.svm_problems import SHAPES, draw

from medvlad._util.memory import OutOfMemory
from medvlad.svm import blocks, forms, gram
from medvlad.svm.wide_linear_svc import WideLinearSVC


def liblinear(C, **params):
    return LinearSVC(C=C, dual=False, tol=1e-11, max_iter=100_000, **params)


def assert_same(ours, theirs, X, tol=1e-6, sample_weight=None, y=None):
    ours.fit(X, y, sample_weight)
    theirs.fit(np.asarray(X, np.float64), y, sample_weight)
    a, b = ours.decision_function(X), theirs.decision_function(np.asarray(X, np.float64))
    assert a.dtype == np.float64
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= tol * np.abs(b).max()
    assert ours.coef_.shape == theirs.coef_.shape
    assert ours.intercept_.shape == (len(theirs.coef_),)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=0, atol=tol * np.abs(theirs.coef_).max())
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    margin = np.abs(b) if b.ndim == 1 else np.diff(np.sort(b, axis=1)[:, -2:])[:, 0]
    clear = margin > 1e-5
    np.testing.assert_array_equal(ours.predict(X)[clear], theirs.predict(np.asarray(X, np.float64))[clear])


PARAMS = [
    {},
    {"fit_intercept": False},
    {"intercept_scaling": 7.0},
    {"class_weight": "balanced"},
    {"class_weight": {0: 4.0, 1: 0.25}},
    {"class_weight": {1: 3.0}, "intercept_scaling": 0.3},
]


@pytest.mark.parametrize("params", PARAMS, ids=str)
@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_solution_equals_that_of_liblinear(shape, n_classes, C, params):
    X, y = draw(shape, n_classes)
    assert_same(WideLinearSVC(C, **params), liblinear(C, **params), X, y=y)


@pytest.mark.parametrize("params", PARAMS, ids=str)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_equals_liblinear_with_sample_weight(shape, n_classes, params):
    X, y = draw(shape, n_classes, seed=1)
    weight = np.random.default_rng(2).choice([0.0, 0.5, 1.0, 3.0], size=len(y))
    if params.get("class_weight") == "balanced":
        # Older scikit-learn ignores sample_weight for "balanced", so give the reference the factors.
        totals = np.bincount(y, weight)
        theirs = liblinear(1.0, class_weight=dict(enumerate(weight.sum() / (len(totals) * totals))))
    else:
        theirs = liblinear(1.0, **params)
    assert_same(WideLinearSVC(1.0, **params), theirs, X, y=y, sample_weight=weight)


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
@pytest.mark.parametrize("C", [0.05, 1.0])
@pytest.mark.parametrize("shape", [(60, 200), (300, 20)])
def test_equals_dual_liblinear_closely(shape, C):
    """Compare with coordinate descent run until rounding; LIBLINEAR's Newton method stops at about 1e-7."""
    X, y = draw(shape, 3)
    theirs = LinearSVC(C=C, dual=True, tol=1e-14, max_iter=2_000, random_state=0)
    assert_same(WideLinearSVC(C), theirs, X, tol=1e-10, y=y)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_float32_gives_the_solution_of_float64(shape, order):
    X64, y = draw(shape, 3)
    X = np.asarray(X64, np.float32, order=order)
    assert_same(WideLinearSVC(10.0), liblinear(10.0), X, y=y)
    exact = WideLinearSVC(10.0).fit(X.astype(np.float64), y)
    np.testing.assert_allclose(WideLinearSVC(10.0).fit(X, y).coef_, exact.coef_, rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_memory_map_gives_the_solution_of_an_array(shape, order, tmp_path):
    X64, y = draw(shape, 3)
    X = np.asarray(X64, np.float32, order=order)
    X.tofile(tmp_path / "x.bin") if order == "C" else X.T.tofile(tmp_path / "x.bin")
    mapped = np.memmap(tmp_path / "x.bin", np.float32, mode="r", shape=shape, order=order)
    np.testing.assert_array_equal(
        WideLinearSVC(10.0).fit(mapped, y).coef_, WideLinearSVC(10.0).fit(X, y).coef_
    )


@pytest.mark.parametrize("shape", [(90, 250), (400, 30)])
@pytest.mark.parametrize(
    "make", [np.ascontiguousarray, np.asfortranarray, lambda x: np.repeat(x, 2, 1)[:, ::2]]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_size_of_blocks_does_not_change_the_solution(shape, make, dtype, monkeypatch):
    X, y = draw(shape, 3)
    X = X.astype(dtype)
    whole = WideLinearSVC(30.0, class_weight="balanced").fit(X, y)
    for module in (blocks, forms, gram):
        monkeypatch.setattr(module, "GRAM_BLOCK", 1100)
    for module in (blocks, forms):
        monkeypatch.setattr(module, "PASS_BLOCK", 1700)
    monkeypatch.setattr(blocks, "_LEAST_BLOCK", 1)
    split = WideLinearSVC(30.0, class_weight="balanced").fit(make(X), y)
    np.testing.assert_allclose(split.coef_, whole.coef_, rtol=0, atol=1e-11)
    np.testing.assert_allclose(split.intercept_, whole.intercept_, rtol=0, atol=1e-11)
    np.testing.assert_allclose(
        split.decision_function(make(X)), whole.decision_function(X), rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("shape", [(40, 200), (200, 20)])
def test_equals_liblinear_with_repeated_and_zero_rows(shape, C):
    X, y = draw(shape, 3)
    X = np.concatenate([X, X, X[:10], np.zeros((6, shape[1]))])
    y = np.concatenate([y, y, (y[:10] + 1) % 3, [0, 0, 1, 1, 2, 2]])  # ten rows with two labels each
    # LIBLINEAR's Newton method stops at 5e-5 on these rows. Its coordinate descent is exact enough.
    theirs = LinearSVC(C=C, dual=True, tol=1e-8, max_iter=1_000_000, random_state=0)
    assert_same(WideLinearSVC(C), theirs, X, y=y)


def test_rows_of_zeros_give_zero_weights():
    y = np.array([0, 1, 1])
    model = WideLinearSVC(fit_intercept=False).fit(np.zeros((3, 5)), y)
    assert not model.coef_.any()
    assert not model.decision_function(np.ones((2, 5))).any()


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("params", [{}, {"class_weight": "balanced"}, {"fit_intercept": False}], ids=str)
@pytest.mark.parametrize("C", [0.1, 10.0, 1e4])
def test_both_forms_give_the_same_solution(n_classes, params, C):
    X, y = draw((120, 60), n_classes)
    tall = WideLinearSVC(C, **params).fit(X, y)
    wide = WideLinearSVC(C, **params).fit(np.pad(X, [(0, 0), (0, 100)]), y)
    scale = np.abs(tall.coef_).max()
    np.testing.assert_allclose(wide.coef_[:, :60], tall.coef_, rtol=0, atol=1e-9 * scale)
    np.testing.assert_allclose(wide.intercept_, tall.intercept_, rtol=0, atol=1e-9 * scale)
    assert not wide.coef_[:, 60:].any()


def test_weight_is_repetition_and_zero_weight_is_absence():
    X, y = draw((50, 90), 3)
    weight = np.arange(50) % 4
    weighted = WideLinearSVC(5.0, class_weight="balanced").fit(X, y, weight)
    repeated = WideLinearSVC(5.0, class_weight="balanced").fit(np.repeat(X, weight, 0), np.repeat(y, weight))
    np.testing.assert_allclose(
        weighted.decision_function(X), repeated.decision_function(X), rtol=0, atol=1e-10
    )


finite = st.floats(-4, 4, width=32).map(lambda v: round(v, 2))


@st.composite
def problems(draw):
    n = draw(st.integers(2, 14))
    d = draw(st.integers(1, 14))
    X = draw(hnp.arrays(np.float64, (n, d), elements=finite))
    y = draw(hnp.arrays(np.int64, n, elements=st.integers(0, 2)).filter(lambda v: len(np.unique(v)) > 1))
    weight = draw(hnp.arrays(np.float64, n, elements=st.floats(0.01, 8)))
    params = {
        "C": 10.0 ** draw(st.floats(-4, 4)),
        "fit_intercept": draw(st.booleans()),
        "intercept_scaling": draw(st.floats(0.1, 10)),
    }
    return X, y, weight, params


@settings(deadline=None, max_examples=300)
@given(problems())
def test_the_gradient_is_zero_at_the_solution(problem):
    X, y, weight, params = problem
    model = WideLinearSVC(**params).fit(X, y, weight)
    scale = params["intercept_scaling"] * params["fit_intercept"]
    rows = np.column_stack([X, np.full(len(X), scale)])
    targets = model.classes_[1:] if len(model.classes_) == 2 else model.classes_
    for name, coef, intercept in zip(targets, model.coef_, model.intercept_, strict=True):
        w = np.append(coef, intercept / scale if scale else 0.0)
        sign = np.where(y == name, 1.0, -1.0)
        pull = 2 * params["C"] * weight * np.maximum(0.0, 1.0 - sign * (rows @ w)) * sign
        gradient = w - rows.T @ pull
        # C multiplies the rounding error of a margin, so compare with the largest possible terms.
        terms = np.abs(w).max() + (2 * params["C"] * weight * (1 + np.abs(rows) @ np.abs(w))) @ np.abs(rows)
        assert (np.abs(gradient) <= 1e-11 * terms).all()


@pytest.fixture
def tumours():
    """A classifier with string labels, its rows and its labels."""
    X, y = draw((30, 80), 3)
    names = np.array(["glioma", "pituitary", "meningioma"])[y]
    return WideLinearSVC(100.0).fit(X, names), X, names


def test_string_labels_are_predicted(tumours):
    model, X, names = tumours
    assert model.classes_.tolist() == ["glioma", "meningioma", "pituitary"]
    assert (model.predict(X) == names).all()


def test_one_row_is_predicted(tumours):
    model, X, names = tumours
    assert model.predict(X[:1]).tolist() == [names[0]]


def test_the_number_of_features_and_of_steps_is_kept(tumours):
    model, _, _ = tumours
    assert model.n_features_in_ == 80
    assert 1 <= model.n_iter_ <= 15


def test_a_class_without_weight_is_kept_but_never_predicted():
    X, y = draw((60, 20), 3)
    model = WideLinearSVC().fit(X, y, (y != 1).astype(float))
    assert model.classes_.tolist() == [0, 1, 2]
    assert not (model.predict(X) == 1).any()


@parametrize_with_checks([WideLinearSVC()])
def test_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_too_little_memory_is_told_before_the_matrix_is_read(monkeypatch):
    def reading(*_, **__):
        raise AssertionError("X was read")

    monkeypatch.setattr("medvlad.svm.binary_problems.validate_data", reading)
    n = 2_000_000  # two matrices of 32 TB
    X = np.broadcast_to(np.float32(0), (n, n))
    with pytest.raises(OutOfMemory, match=r"not enough memory for the linear SVM .*: give fewer images"):
        WideLinearSVC(solver="gram").fit(X, np.arange(n) % 2)
