"""WideLinearSVC against LIBLINEAR, its own two forms, its optimality conditions, its memory, its messages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from medvlad._util.validate import InputError
from medvlad.svm import blocks, newton
from medvlad.svm.wide_linear_svc import WideLinearSVC

SHAPES = {"wide": (60, 200), "tall": (300, 20), "square": (50, 50), "one wider": (40, 41)}


def draw(shape, n_classes, seed=0):
    """Overlapping classes of rows about as long as one."""
    rng = np.random.default_rng(seed)
    n, d = shape
    y = rng.permutation(np.arange(n) % (n_classes + 1) % n_classes)  # class 0 is twice as frequent
    centres = rng.normal(size=(n_classes, d))
    return (0.5 * centres[y] + rng.normal(size=shape)) / np.sqrt(d), y


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
def test_equals_liblinear(shape, n_classes, C, params):
    X, y = draw(shape, n_classes)
    assert_same(WideLinearSVC(C, **params), liblinear(C, **params), X, y=y)


@pytest.mark.parametrize("params", PARAMS, ids=str)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_equals_liblinear_with_sample_weight(shape, n_classes, params):
    X, y = draw(shape, n_classes, seed=1)
    weight = np.random.default_rng(2).choice([0.0, 0.5, 1.0, 3.0], size=len(y))
    if params.get("class_weight") == "balanced":
        # Older scikit-learn ignores sample_weight when it balances: give the reference the factors.
        totals = np.bincount(y, weight)
        theirs = liblinear(1.0, class_weight=dict(enumerate(weight.sum() / (len(totals) * totals))))
    else:
        theirs = liblinear(1.0, **params)
    assert_same(WideLinearSVC(1.0, **params), theirs, X, y=y, sample_weight=weight)


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
@pytest.mark.parametrize("C", [0.05, 1.0])
@pytest.mark.parametrize("shape", [(60, 200), (300, 20)])
def test_equals_dual_liblinear_closely(shape, C):
    """Coordinate descent left to run until rounding; LIBLINEAR's Newton method stops at about 1e-7."""
    X, y = draw(shape, 3)
    theirs = LinearSVC(C=C, dual=True, tol=1e-14, max_iter=2_000, random_state=0)
    assert_same(WideLinearSVC(C), theirs, X, tol=1e-10, y=y)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_float32_is_read_in_place(shape, order, tmp_path):
    X64, y = draw(shape, 3)
    X = np.asarray(X64, np.float32, order=order)
    assert_same(WideLinearSVC(10.0), liblinear(10.0), X, y=y)
    exact = WideLinearSVC(10.0).fit(X.astype(np.float64), y)
    np.testing.assert_allclose(WideLinearSVC(10.0).fit(X, y).coef_, exact.coef_, rtol=0, atol=1e-12)
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
def test_blocks_do_not_matter(shape, make, dtype, monkeypatch):
    X, y = draw(shape, 3)
    X = X.astype(dtype)
    whole = WideLinearSVC(30.0, class_weight="balanced").fit(X, y)
    for module in (blocks, newton):
        monkeypatch.setattr(module, "GRAM_BLOCK", 1100)
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
def test_repeated_and_zero_rows(shape, C):
    X, y = draw(shape, 3)
    X = np.concatenate([X, X, X[:10], np.zeros((6, shape[1]))])
    y = np.concatenate([y, y, (y[:10] + 1) % 3, [0, 0, 1, 1, 2, 2]])  # ten rows with two labels each
    # LIBLINEAR's Newton method stops at 5e-5 on these, its coordinate descent goes on.
    theirs = LinearSVC(C=C, dual=True, tol=1e-8, max_iter=1_000_000, random_state=0)
    assert_same(WideLinearSVC(C), theirs, X, y=y)


def test_no_signal_at_all():
    y = np.array([0, 1, 1])
    model = WideLinearSVC(fit_intercept=False).fit(np.zeros((3, 5)), y)
    assert not model.coef_.any()
    assert not model.decision_function(np.ones((2, 5))).any()


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("params", [{}, {"class_weight": "balanced"}, {"fit_intercept": False}], ids=str)
@pytest.mark.parametrize("C", [0.1, 10.0, 1e4])
def test_both_forms_agree(n_classes, params, C):
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
def test_gradient_vanishes(problem):
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
        # Rounding of a margin, a few eps, is multiplied by C: measure against what each term could be.
        terms = np.abs(w).max() + (2 * params["C"] * weight * (1 + np.abs(rows) @ np.abs(w))) @ np.abs(rows)
        assert (np.abs(gradient) <= 1e-11 * terms).all()


def test_string_labels_and_single_row_prediction():
    X, y = draw((30, 80), 3)
    names = np.array(["glioma", "pituitary", "meningioma"])[y]
    model = WideLinearSVC(100.0).fit(X, names)
    assert model.classes_.tolist() == ["glioma", "meningioma", "pituitary"]
    assert (model.predict(X) == names).all()
    assert model.predict(X[:1]).tolist() == [names[0]]
    assert model.n_features_in_ == 80
    assert 1 <= model.n_iter_ <= 15


def test_class_without_weight_stays_a_class():
    X, y = draw((60, 20), 3)
    model = WideLinearSVC().fit(X, y, (y != 1).astype(float))
    assert model.classes_.tolist() == [0, 1, 2]
    assert not (model.predict(X) == 1).any()


@parametrize_with_checks([WideLinearSVC()])
def test_sklearn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"C": 0.0}, r"C must be a finite number above 0, got 0\.0"),
        ({"C": float("nan")}, "C must be a finite"),
        ({"C": float("inf")}, "C must be a finite number above 0, got inf"),
        ({"C": "1"}, "C must be a finite number above 0"),
        ({"intercept_scaling": -1.0}, "intercept_scaling must be a finite"),
        ({"max_iter": 0}, "max_iter must be an integer of at least 1"),
        ({"class_weight": "equal"}, "class_weight must be a dict, 'balanced' or None, got 'equal'"),
        ({"class_weight": {0: -1.0}}, "class_weight of class 0 must be a finite number of at least 0"),
    ],
)
def test_parameters_out_of_range(params, message):
    X, y = draw((10, 20), 2)
    with pytest.raises(InputError, match=message):
        WideLinearSVC(**params).fit(X, y)


def test_one_class():
    with pytest.raises(
        InputError, match=r"y holds only one class, benign, and a classifier needs two: add rows"
    ):
        WideLinearSVC().fit(np.eye(3), ["benign"] * 3)
    with pytest.raises(InputError, match=r"positive sample_weight holds only one class, 1,"):
        WideLinearSVC().fit(np.eye(3), [0, 1, 1], [0, 1, 1])


def test_bad_arrays():
    X, y = draw((10, 20), 2)
    with pytest.raises(ValueError, match="NaN"):
        WideLinearSVC().fit(np.where(X > 0.3, np.nan, X), y)
    with pytest.raises(ValueError, match="sample_weight"):
        WideLinearSVC().fit(X, y, -np.ones(10))
    with pytest.raises(NotFittedError):
        WideLinearSVC().predict(X)
    with pytest.raises(ValueError, match="19 features"):
        WideLinearSVC().fit(X, y).predict(X[:, :19])


@pytest.mark.parametrize("shape", [(10, 20), (20, 10)])
def test_overflow_is_named(shape):
    X, y = draw(shape, 2)
    with pytest.raises(InputError, match="squares of X"):
        WideLinearSVC().fit(X * 1e200, y)


def test_too_few_steps_warn_and_name_the_class():
    X, y = draw((50, 50), 2)
    with pytest.warns(ConvergenceWarning, match=r"class 1 .*max_iter=1 steps: raise max_iter"):
        model = WideLinearSVC(100.0, max_iter=1).fit(X, y)
    assert model.n_iter_ == 1
    assert clone(model).set_params(max_iter=100).fit(X, y).n_iter_ > 1


@pytest.mark.parametrize("pad", [0, 100])
def test_beyond_double_precision_warns(pad):
    rng = np.random.default_rng(0)
    X = np.pad(np.repeat(rng.normal(size=(60, 2)), 2, axis=1), [(0, 0), (0, pad)])
    with pytest.warns(ConvergenceWarning, match="beyond double precision"):
        WideLinearSVC(1e12).fit(1e4 * X, rng.integers(0, 2, 60))


MEASURE = """
import json, sys, time
import numpy as np
from medvlad.svm import WideLinearSVC

def kib(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field))

n, d, dtype = int(sys.argv[1]), int(sys.argv[2]), np.float32
WideLinearSVC().fit(np.eye(3, 5, dtype=dtype), [0, 1, 2])
before = kib("VmRSS:")
rng = np.random.default_rng(0)
X = np.empty((n, d), dtype)
y = np.arange(n) % 3
for row, label in zip(X, y):
    rng.standard_normal(out=row, dtype=dtype)
    row[: d // 8] += 0.1 * (label - 1)
    row /= np.linalg.norm(row)
start = time.perf_counter()
model = WideLinearSVC(float(sys.argv[3])).fit(X, y)
middle = time.perf_counter()
accuracy = float((model.predict(X) == y).mean())
end = time.perf_counter()
# VmHWM begins at exec; ru_maxrss would inherit the peak of the process that started this one.
print(json.dumps({"peak": 1024 * (kib("VmHWM:") - before), "input": X.nbytes, "fit_s": middle - start,
                  "predict_s": end - middle, "n_iter": model.n_iter_, "accuracy": accuracy}))
"""


def measure(n, d, C=1.0):
    root = str(Path(newton.__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", MEASURE, str(n), str(d), str(C)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, check=True, capture_output=True, text=True
    )
    result = json.loads(done.stdout)
    print(f"{n} x {d}: {result} peak / input = {result['peak'] / result['input']:.2f}")  # noqa: T201
    return result


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from /proc"
)


@needs_proc
def test_memory_stays_below_three_inputs():
    result = measure(640, 65_536)
    assert result["input"] <= result["peak"] < 3 * result["input"]


def available_gb():
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / 1e9
    return 0.0


@pytest.mark.slow
@needs_proc
@pytest.mark.skipif(os.environ.get("MEDVLAD_SLOW") != "1", reason="takes minutes: set MEDVLAD_SLOW=1")
def test_full_size_memory():
    if available_gb() < 14:
        pytest.skip(f"needs 14 GB of free memory, {available_gb():.1f} GB are available")
    result = measure(6_400, 131_072)
    assert result["input"] <= result["peak"] < 3 * result["input"]
    assert result["accuracy"] > 0.99


def test_c_beyond_float64():
    with pytest.raises(InputError, match="beyond float64"):
        WideLinearSVC(C=1.7e308).fit([[0.0], [1.0]], [0, 1])
