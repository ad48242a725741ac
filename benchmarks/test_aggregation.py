"""assign, encode and k-means: native against the reference and against fast NumPy, results asserted."""

from __future__ import annotations

import numpy as np
import numpy_fast
import pytest

from medvlad import KMeansCodebook
from medvlad._validate import check_n_threads
from medvlad.backends import native, reference

N_THREADS = check_n_threads(None)
CASES = [(49, 64), (49, 256), (289, 64), (289, 256), (729, 64), (729, 256)]
OPTIONS = {"power": 1.0, "intra_norm": False, "l2_norm": True}

ASSIGN = {
    "native": lambda x, c: native.assign(x, c, n_threads=N_THREADS),
    "reference": reference.assign,
    "numpy_fast": numpy_fast.assign,
}
ENCODE = {
    "native": lambda x, o, c: native.encode(x, o, c, n_threads=N_THREADS, **OPTIONS),
    "reference": lambda x, o, c: reference.encode(x, o, c, **OPTIONS),
    "numpy_fast": numpy_fast.encode,
}


def run(benchmark, group, implementation, function, arguments, n_images, flop):
    """Time `function` and say what it did."""
    benchmark.group = group
    benchmark.extra_info.update(implementation=implementation, images=n_images, flop=flop, threads=N_THREADS)
    rounds = 1 if implementation == "reference" else 7
    return benchmark.pedantic(function, arguments, rounds=rounds, warmup_rounds=int(rounds > 1))


@pytest.mark.parametrize("implementation", ASSIGN)
@pytest.mark.parametrize(("n", "k"), CASES)
def test_assign(benchmark, problem, n, k, implementation):
    x, offsets, centers = problem(n, k)
    labels = run(
        benchmark,
        f"assign, {n} descriptors an image, K = {k}",
        implementation,
        ASSIGN[implementation],
        (x, centers),
        len(offsets) - 1,
        2 * x.size * k,
    )
    differing = (labels != reference.assign(x, centers)).sum()
    assert differing <= (len(x) // 1000 if implementation == "numpy_fast" else 0)


@pytest.mark.parametrize("implementation", ENCODE)
@pytest.mark.parametrize(("n", "k"), CASES)
def test_encode(benchmark, problem, n, k, implementation):
    x, offsets, centers = problem(n, k)
    encoded = run(
        benchmark,
        f"encode, {n} descriptors an image, K = {k}",
        implementation,
        ENCODE[implementation],
        (x, offsets, centers),
        len(offsets) - 1,
        2 * x.size * k,
    )
    some = slice(0, 8)
    expected = reference.encode(x[: offsets[8]], offsets[:9], centers, **OPTIONS)
    np.testing.assert_allclose(encoded[some], expected, atol=2e-6)


@pytest.mark.parametrize("implementation", ["native", "reference"])
@pytest.mark.parametrize("k", [64, 256])
def test_kmeans(benchmark, problem, k, implementation):
    """Seeding and five Lloyd steps; the flop counted are those of the five assignments."""
    x, offsets, _ = problem(49, k)

    def fit():
        return KMeansCodebook(k, max_iter=5, tol=0.0, backend=implementation, random_state=0).fit(x)

    fitted = run(benchmark, f"k-means, K = {k}", implementation, fit, (), len(offsets) - 1, 10 * x.size * k)
    other = KMeansCodebook(k, max_iter=5, tol=0.0, backend="native", random_state=0).fit(x)
    np.testing.assert_array_equal(fitted.labels_, other.labels_)
    np.testing.assert_allclose(fitted.cluster_centers_, other.cluster_centers_, atol=1e-6)
