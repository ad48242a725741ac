"""Similar cases: the nearest training images are those of a search in float64, in the same order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medvlad import InputError
from medvlad.decisions import similar as module
from medvlad.decisions.similar import SimilarCases


def cases_of(vectors, **more):
    names = [f"{i}.png" for i in range(len(vectors))]
    return SimilarCases().fit(vectors, names, ["ab"[i % 2] for i in range(len(vectors))], **more)


def searched(vectors, query, top):
    """Distances and indices by differences in float64; of equal distances the lowest index first."""
    difference = vectors.astype(np.float64) - query.astype(np.float64)
    squared = np.einsum("nd,nd->n", difference, difference)
    order = np.lexsort((np.arange(len(vectors)), squared))[:top]
    return np.sqrt(squared[order]), order


@pytest.mark.parametrize(("n", "width"), [(1, 1), (7, 33), (500, 512), (40, 4097)])
def test_the_nearest_images_are_those_of_float64(rng, n, width):
    vectors = rng.normal(size=(n, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = (vectors[:: max(1, n // 3)] + 0.1 * rng.normal(size=width)).astype(np.float32)
    distances, indices = cases_of(vectors).kneighbors(queries, 5)
    for i, query in enumerate(queries):
        expected = searched(vectors, query, 5)
        np.testing.assert_array_equal(indices[i], expected[1])
        np.testing.assert_array_equal(distances[i], expected[0])


def test_images_that_float32_cannot_tell_apart_are_in_the_order_of_float64(rng):
    """The norms are large and the differences are in the last bits, so a float32 search is wrong."""
    base = rng.normal(size=512).astype(np.float32) * 1000
    vectors = np.repeat(base[None], 50, axis=0)
    vectors[np.arange(50), np.arange(50)] += np.linspace(0.5, 0.001, 50, dtype=np.float32)
    query = base.copy()
    _, indices = cases_of(vectors).kneighbors(query[None], 10)
    np.testing.assert_array_equal(indices[0], searched(vectors, query, 10)[1])
    in_float32 = np.argsort((vectors**2).sum(axis=1) - 2 * vectors @ query, kind="stable")[:10]
    assert in_float32.tolist() != indices[0].tolist()


@given(
    arrays(np.float32, (9, 4), elements=st.integers(-3, 3).map(float)),
    arrays(np.float32, (3, 4), elements=st.integers(-3, 3).map(float)),
    st.integers(1, 12),
)
def test_equal_distances_are_in_the_order_of_training(vectors, queries, top):
    distances, indices = cases_of(vectors).kneighbors(queries, top)
    assert distances.shape == indices.shape == (3, min(top, 9))
    for i, query in enumerate(queries):
        expected = searched(vectors, query, top)
        np.testing.assert_array_equal(indices[i], expected[1])
        np.testing.assert_array_equal(distances[i], expected[0])


def test_blocks_change_nothing(rng, monkeypatch):
    vectors = rng.normal(size=(60, 16)).astype(np.float32)
    queries = rng.normal(size=(7, 16)).astype(np.float32)
    whole = cases_of(vectors).kneighbors(queries, 4)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 700)
    cut = cases_of(vectors).kneighbors(queries, 4)
    np.testing.assert_array_equal(whole[1], cut[1])
    np.testing.assert_array_equal(whole[0], cut[0])


def test_an_image_is_nearest_to_itself(rng):
    vectors = rng.normal(size=(20, 8)).astype(np.float32)
    distances, indices = cases_of(vectors).kneighbors(vectors, 1)
    assert indices[:, 0].tolist() == list(range(20))
    assert not distances.any()


def test_cells_with_the_largest_inner_products_are_named():
    vectors = np.array([[1, 0, 0, 2, 0, 0, 3, 0]], np.float32)  # four cells of width 2
    query = np.array([[2, 5, 0, 3, 7, 7, -1, 0]], np.float32)
    cases = cases_of(vectors, patients=["p1"])
    (found,) = cases.similar(query, 1, n_cells=4)
    assert found[0]["cells"] == [{"cell": 1, "product": 6.0}, {"cell": 0, "product": 2.0}]
    assert (found[0]["image"], found[0]["label"], found[0]["patient"]) == ("0.png", "a", "p1")
    assert "cells" not in cases.similar(query, 1)[0][0]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [(np.zeros((0, 3)), "without zeros"), (np.zeros(3), "without zeros"), ([[1, np.nan]], "not finite")],
)
def test_wrong_training_vectors_are_refused(vectors, message):
    with pytest.raises(InputError, match=message):
        cases_of(np.asarray(vectors))


def test_names_of_another_number_are_refused():
    with pytest.raises(InputError, match="names must have one entry for each of 2 vectors, got 1"):
        SimilarCases().fit(np.zeros((2, 3)), ["a"], ["x", "y"])


@pytest.mark.parametrize(
    ("vectors", "top", "message"),
    [
        (np.zeros((1, 4)), 1, r"must have shape \(m, 3\), got \(1, 4\)"),
        (np.zeros((1, 3)), 0, "top must be an integer of at least 1"),
        (np.full((1, 3), np.inf), 1, "not finite"),
    ],
)
def test_wrong_queries_are_refused(vectors, top, message):
    with pytest.raises(InputError, match=message):
        cases_of(np.ones((2, 3))).kneighbors(vectors, top)
