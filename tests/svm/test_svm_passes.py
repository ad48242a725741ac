"""The linear SVM by passes: the certified solution of the square matrix, whatever carries out the passes."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks
from support.label_problems import draw_labels
from support.svm_problems import SHAPES, draw

from medvlad import WideLinearSVC
from medvlad._util.passes import run_here
from medvlad._util.processors import Processors
from medvlad._util.validate import InputError
from medvlad.svm import pass_path, pass_solver, row_pass
from medvlad.svm.multi_label import MultiLabelSVC
from medvlad.svm.row_source import ArrayRows


@pytest.fixture
def small_chunks(monkeypatch):
    """Cut the rows of small matrices too, into chunks and jobs."""
    monkeypatch.setattr(row_pass, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(row_pass, "_CHUNKS_IN_JOB", 3)


def losses(model, X, y, C, weight=1.0):
    w = np.column_stack([model.coef_, model.intercept_])
    targets = model.classes_[1:] if len(model.classes_) == 2 else model.classes_
    sign = np.where(np.asarray(y)[:, np.newaxis] == targets, 1, -1)
    slack = np.maximum(0, 1 - sign * (np.column_stack([X, np.ones(len(X))]) @ w.T))
    return 0.5 * (w**2).sum(axis=1) + (C * np.reshape(weight, (-1, 1)) * slack**2).sum(axis=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("C", [0.1, 10.0])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_solution_is_that_of_the_square_matrix(small_chunks, shape, n_classes, C, dtype):
    X, y = draw(shape, n_classes)
    X = X.astype(dtype)
    exact = WideLinearSVC(C).fit(X, y)
    found = WideLinearSVC(C, solver="passes", tol=1e-12).fit(X, y)
    assert found.dual_gap_ <= 1e-12
    assert found.n_passes_ > 2 > exact.n_passes_ == 0
    np.testing.assert_allclose(found.coef_, exact.coef_, rtol=0, atol=1e-5 * np.abs(exact.coef_).max())
    np.testing.assert_allclose(found.intercept_, exact.intercept_, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "params",
    [
        {"class_weight": "balanced"},
        {"class_weight": {0: 3.0, 1: 0.5}},
        {"fit_intercept": False},
        {"intercept_scaling": 20.0},
    ],
)
def test_weights_and_parameters_count(small_chunks, params):
    X, y = draw((150, 40), 3)
    weight = np.random.default_rng(3).choice([0.0, 0.5, 2.0], len(X))
    exact = WideLinearSVC(3.0, **params).fit(X, y, weight)
    found = WideLinearSVC(3.0, solver="passes", tol=1e-12, **params).fit(X, y, weight)
    np.testing.assert_allclose(found.coef_, exact.coef_, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.intercept_, exact.intercept_, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tol", [1e-1, 1e-4])
def test_the_gap_is_reached_and_bounds_the_distance_to_the_minimum(small_chunks, tol):
    X, y = draw((400, 60), 4)
    found, exact = WideLinearSVC(5.0, solver="passes", tol=tol).fit(X, y), WideLinearSVC(5.0).fit(X, y)
    value, least = losses(found, X, y, 5.0), losses(exact, X, y, 5.0)
    assert 0 < ((value - least) / value).max() <= found.dual_gap_ <= tol
    distance = ((found.coef_ - exact.coef_) ** 2).sum(axis=1)
    assert (distance <= 2 * found.dual_gap_ * value).all()


def test_the_minimum_is_that_of_liblinear():
    X, y = draw((500, 80), 3)
    theirs = LinearSVC(C=2.0, dual=True, tol=1e-8, max_iter=1_000_000).fit(X, y)
    ours = WideLinearSVC(2.0, solver="passes", tol=1e-4).fit(X, y)
    ratio = losses(ours, X, y, 2.0) / losses(theirs, X, y, 2.0)
    np.testing.assert_allclose(ratio, 1.0, rtol=0, atol=1.01e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mean_far_above_the_spread_costs_few_passes(dtype):
    X, y = draw((300, 60), 2)
    near, far = (WideLinearSVC(solver="passes").fit((X + c).astype(dtype), y) for c in (0, 1000))
    assert far.dual_gap_ <= 1e-4
    assert far.n_passes_ < 8 * near.n_passes_


def test_one_pass_serves_all_classes():
    X, y = draw((300, 40), 2)
    two = WideLinearSVC(solver="passes").fit(X, y)
    X, y = draw((300, 40), 6)
    assert WideLinearSVC(solver="passes").fit(X, y).n_passes_ < 3 * two.n_passes_


def test_threads_and_runners_do_not_change_a_bit(small_chunks, monkeypatch):
    X, y = draw((300, 50), 3)
    X = X.astype(np.float32)

    def elsewhere(shared, jobs):  # as on a cluster: everything is pickled, and the last job ends first
        assert len(jobs) > 2
        done = {
            job.start: pickle.loads(pickle.dumps(job)).run(pickle.loads(pickle.dumps(shared)))
            for job in jobs[::-1]
        }
        for job in jobs:
            yield done[job.start]

    models = [WideLinearSVC(solver="passes").fit(X, y, runner=elsewhere)]
    for n in (1, 2, 5):
        monkeypatch.setattr(row_pass, "usable_processors", lambda n=n: Processors(n, "a test"))
        models.append(WideLinearSVC(solver="passes").fit(X, y))
    for one in models[1:]:
        assert np.array_equal(one.coef_, models[0].coef_)
        assert one.n_passes_ == models[0].n_passes_


@pytest.mark.parametrize("order", "CF")
def test_a_job_takes_only_its_own_rows_to_another_process(small_chunks, order):
    X, y = draw((600, 50), 2)
    sizes = []

    def run(shared, jobs):
        sizes.extend(len(pickle.dumps(job)) for job in jobs)
        assert sum(job.n_images for job in jobs) == 600  # for the progress bar of a cluster
        return run_here(shared, jobs)

    WideLinearSVC(solver="passes", tol=0.5).fit(np.asarray(X, order=order), y, runner=run)
    assert max(sizes) < X.nbytes / 10


def test_the_cut_depends_on_the_matrix_only():
    many = ArrayRows(np.broadcast_to(np.float32(0), (200_000, 1000)))
    assert row_pass.cut(many) == [(0, 2097 * 64), (2097 * 64, 200_000)]
    assert row_pass.cut(ArrayRows(np.zeros((3, 5), np.float32))) == [(0, 3)]


def test_labels_may_be_missing(small_chunks):
    X, y = draw_labels((120, 60), 4, missing=0.2)
    exact, found = MultiLabelSVC(3.0).fit(X, y), MultiLabelSVC(3.0, solver="passes", tol=1e-12).fit(X, y)
    np.testing.assert_allclose(found.coef_, exact.coef_, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.predict(X), exact.predict(X))


def test_a_path_begins_at_the_solution_before(small_chunks):
    X, y = draw((200, 40), 3)
    path = WideLinearSVC(solver="passes", tol=1e-11).fit_path(X, y, [0.5, 0.6])
    alone = WideLinearSVC(0.6, solver="passes", tol=1e-11).fit(X, y)
    np.testing.assert_allclose(path[1].coef_, alone.coef_, rtol=0, atol=1e-4)
    assert path[1].n_passes_ < alone.n_passes_


def test_a_large_offset_leaves_the_certificate_true(small_chunks):
    X, y = draw((200, 40), 2)
    X = (X + 30.0).astype(np.float32)
    exact = WideLinearSVC().fit(X, y)
    found = WideLinearSVC(solver="passes", tol=1e-6).fit(X, y)
    value, least = losses(found, X, y, 1.0), losses(exact, X, y, 1.0)
    assert ((value - least) / value).max() <= found.dual_gap_ + 1e-12 <= 1.1e-6


def test_a_bad_preconditioner_costs_passes_only(small_chunks, monkeypatch):
    X, y = draw((200, 40), 3)
    good = WideLinearSVC(solver="passes").fit(X, y)
    monkeypatch.setattr(
        pass_solver.preconditioner, "apply", lambda basis, values, share, r: r * np.linspace(1, 9, len(r))
    )
    bad = WideLinearSVC(solver="passes").fit(X, y)
    assert bad.dual_gap_ <= 1e-4
    assert bad.n_passes_ > good.n_passes_


def test_the_preconditioner_saves_passes():
    """Few directions are much longer than the others, as in encoded images."""
    rng = np.random.default_rng(0)
    X = (
        rng.normal(size=(2000, 300))
        * np.arange(1, 301) ** -1.0
        @ np.linalg.qr(rng.normal(size=(300, 300)))[0]
    )
    y = (X @ rng.normal(size=300) + 0.5 * rng.normal(size=2000) > 0).astype(int)
    with_it = WideLinearSVC(30.0, solver="passes").fit(X, y).n_passes_
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pass_solver.preconditioner, "rank_for", lambda *_: 0)
        without = WideLinearSVC(30.0, solver="passes").fit(X, y)
    assert without.dual_gap_ <= 1e-4
    assert with_it < 0.7 * without.n_passes_


def test_too_few_steps_warn():
    X, y = draw((300, 60), 2)
    with pytest.warns(ConvergenceWarning, match="max_iter=1"):
        model = WideLinearSVC(100.0, solver="passes", max_iter=1).fit(X, y)
    assert model.dual_gap_ > 1e-4


def test_auto_takes_passes_beyond_a_side_or_the_memory(monkeypatch):
    X, y = draw((300, 60), 2)
    needed = pass_path.memory_of_gram(300, 60)
    assert WideLinearSVC(memory=needed).fit(X, y).n_passes_ == 0
    monkeypatch.setattr(pass_path, "_check_memory", lambda *_: None)  # that of passes is larger here
    assert WideLinearSVC(memory=needed - 1).fit(X, y).n_passes_ > 0
    assert WideLinearSVC(memory=needed - 1).fit(X.tolist(), y).n_passes_ > 0
    monkeypatch.setattr(pass_path, "MOST_SIDE", 60)
    assert WideLinearSVC().fit(X, y).n_passes_ > 0
    assert WideLinearSVC(solver="gram").fit(X, y).n_passes_ == 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"solver": "dual"}, "solver must be one of auto, gram, passes, got 'dual'"),
        ({"tol": 0.0}, "tol must lie in"),
        ({"memory": "two"}, "memory must be a number of bytes"),
        ({"memory": "1 MiB", "solver": "gram"}, "solver='gram' needs .* memory allows 1 MiB: raise memory"),
        ({"memory": 4096}, "the passes need .* 300 rows of 600 features and 1 problems"),
        ({"checkpoint": 3}, "checkpoint must be a path"),
        ({"checkpoint": "s3://bucket/state"}, "is a URL"),
    ],
)
def test_errors_say_what_to_do(params, message):
    X, y = draw((300, 600), 2)
    with pytest.raises(InputError, match=message):
        WideLinearSVC(**params).fit(X, y)


def test_rows_beyond_float32_are_refused():
    X, y = draw((30, 20), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="divide X"):
            WideLinearSVC(1e30, solver="passes").fit((X * 1e37).astype(np.float32), y)


@parametrize_with_checks([WideLinearSVC(solver="passes", tol=1e-18)])
def test_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)
