"""Search of similar cases: one image, or a batch, among encoded training images.

A search reads every vector once, so its time is bounded by the memory: 4 n D bytes for each call. The widths
are those of average pooling (512) and of a VLAD of 16 cells (8192).
"""

from __future__ import annotations

import numpy as np
import pytest

from medvlad.decisions.similar import SimilarCases

TOP = 5


def searched(vectors, query):
    """Search in float64, by differences."""
    squared = np.empty(len(vectors))
    for start in range(0, len(vectors), 4096):
        difference = vectors[start : start + 4096].astype(np.float64) - query
        squared[start : start + 4096] = np.einsum("nd,nd->n", difference, difference)
    return np.lexsort((np.arange(len(vectors)), squared))[:TOP]


@pytest.mark.parametrize("n_queries", [1, 32])
@pytest.mark.parametrize(("n", "width"), [(100_000, 512), (10_000, 8192)])
def test_similar(benchmark, n, width, n_queries):
    rng = np.random.default_rng(0)
    vectors = np.maximum(rng.standard_normal((n, width), np.float32), 0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[:n_queries] + 0.01 * rng.standard_normal((n_queries, width), np.float32)
    cases = SimilarCases().fit(vectors, range(n), ["a"] * n)
    _, indices = benchmark.pedantic(cases.kneighbors, (queries, TOP), rounds=10, warmup_rounds=1)
    np.testing.assert_array_equal(indices[0], searched(vectors, queries[0]))
    benchmark.group = f"{n_queries} images among {n} vectors of {width}"
    benchmark.extra_info.update(kind="similar", n=n, width=width, n_queries=n_queries)
