"""k-means++ leaves out exact products that cannot matter. No distance and no seed may change a bit by it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.levels import skip_unless_here

from medvlad.backends import get_backend, reference
from medvlad.encoders.kmeans_steps import seed_centers

native = pytest.importorskip("medvlad.backends.native", reason="native was not built")

N_THREADS = 3


@pytest.fixture(params=native.LEVELS, scope="class")
def level(request):
    """Set one level by the environment, once for a class of tests, because hypothesis repeats each test."""
    skip_unless_here(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDVLAD_SIMD", request.param)
        yield request.param


def steps_agree(x, candidates_of_steps, rows=None):
    """Take the steps with the native backend and with the reference. Return native's state."""
    own, expected = native.seeding(x, rows, n_threads=N_THREADS), reference.seeding(x, rows)
    for candidates in candidates_of_steps:
        distances, potentials = own.distances(candidates)
        right_distances, right_potentials = expected.distances(candidates)
        np.testing.assert_array_equal(distances.view(np.int64), right_distances.view(np.int64))
        np.testing.assert_array_equal(potentials.view(np.int64), right_potentials.view(np.int64))
        assert own.add_best(candidates) == expected.add_best(candidates)
        np.testing.assert_array_equal(own.closest.view(np.int64), expected.closest.view(np.int64))
    return own


@st.composite
def hostile_rows(draw):
    """Return rows with duplicates, ties and zeros, on any scale, and the random numbers of the steps."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d = draw(st.sampled_from([1, 2, 33, 128, 129, 300])), draw(st.sampled_from([1, 31, 32, 33, 64, 100]))
    kind = draw(st.sampled_from(["normal", "integers", "far", "sparse", "scales", "zeros", "equal"]))
    x = rng.normal(size=(n, d))
    if kind == "integers":
        x = rng.integers(-1, 2, (n, d)).astype(float)
    elif kind == "far":
        x += 1000
    elif kind == "sparse":
        x[rng.random((n, d)) < 0.8] = 0
    elif kind == "scales":
        x *= 10.0 ** rng.integers(-30, 10, (n, 1))
    elif kind == "zeros":
        x[: n // 2 + 1] = 0
    elif kind == "equal":
        x[:] = x[0] + 1e-7 * (rng.random((n, d)) < 0.01)
    x[rng.integers(0, n, n // 3)] = x[rng.integers(0, n)]
    scale = draw(st.sampled_from([1.0, 1.0, 1e-44, 1e-38, 1e-20, 1e18, 1e27]))
    return (x * scale).astype(np.float32), rng


class TestEveryBitIsThatOfTheReference:
    @settings(deadline=None, max_examples=60)
    @given(hostile_rows())
    def test_on_hostile_rows(self, level, problem):
        x, rng = problem
        steps = [rng.integers(0, len(x), size) for size in (1, 16, 5, 24, 16, 1, 16, 8)]
        steps_agree(x, steps)

    def test_among_some_of_the_rows(self, level):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(5000, 65)).astype(np.float32)
        rows = np.sort(rng.choice(5000, 2100, replace=False))
        steps_agree(x, [rng.integers(0, 2100, size) for size in (1, *[16] * 12)], rows)

    def test_few_products_are_exact_after_some_steps(self, level):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(4000, 64)).astype(np.float32)
        own = steps_agree(x, [rng.integers(0, 4000, size) for size in (1, *[16] * 30)])
        assert 0 < own.n_exact < 0.2 * 16 * 4000

    def test_seeds_of_weighted_rows(self, level):
        rng = np.random.default_rng(0)
        x, weights = rng.normal(size=(3000, 40)).astype(np.float32), rng.random(3000)
        seeds = [
            seed_centers(x, 9, np.random.RandomState(0), get_backend(name), N_THREADS, weights)
            for name in ("native", "reference")
        ]
        np.testing.assert_array_equal(*seeds)


def test_wrong_rows_and_candidates_are_refused():
    x = np.zeros((4, 40), np.float32)
    for rows in ([0, 4], [-1]):
        with pytest.raises(ValueError, match="rows must be in"):
            native.seeding(x, np.array(rows, np.int64))
    own = native.seeding(x, np.array([3, 1], np.int64))
    for candidates in ([2], [-1]):
        with pytest.raises(ValueError, match="candidates must be in"):
            own.add_best(np.array(candidates, np.int64))


def test_the_host_backend_keeps_its_rows_alive():
    """The state refers to the rows, which nobody else may hold."""
    state = get_backend("native").seeding(np.ones((300, 64), np.float32), np.arange(0, 300, 3), n_threads=1)
    assert state.add_best(np.array([0, 5])) == 0
    np.testing.assert_array_equal(state.closest, np.zeros(100))
