"""Descriptors as Python objects and in tables: the same as a list of arrays, or an InputError."""

import numpy as np
import pytest

from medvlad import VLAD, InputError, KMeansCodebook, vlad_encode
from medvlad.descriptors.ragged import as_descriptors

ARRAYS = [np.arange(12.0).reshape(4, 3), np.ones((1, 3)), np.arange(6.0).reshape(2, 3)[:, ::-1]]
EQUAL = [a[:1] for a in ARRAYS]


def object_array(arrays):
    array = np.empty(len(arrays), object)
    array[:] = arrays
    return array


def of_rows(array):
    """Return a matrix as an object array of its rows, as tables read from a file hold it."""
    rows = np.empty(len(array), object)
    rows[:] = list(array)
    return rows


def pandas(arrays):
    return pytest.importorskip("pandas").Series(arrays, index=[f"i{n}" for n in range(len(arrays))])


def polars(arrays):
    return pytest.importorskip("polars").Series("x", [a.tolist() for a in arrays])


FORMS = {
    "object array": object_array,
    "object array, one column": lambda arrays: object_array(arrays)[:, None],
    "nested lists": lambda arrays: [a.tolist() for a in arrays],
    "nested tuples": lambda arrays: tuple(tuple(map(tuple, a.tolist())) for a in arrays),
    "lists of rows": lambda arrays: [list(a) for a in arrays],
    "object array of lists": lambda arrays: object_array([a.tolist() for a in arrays]),
    "pandas column": pandas,
    "pandas frame": lambda arrays: pandas(arrays).to_frame(),
    "pandas column of rows": lambda arrays: pandas([of_rows(a) for a in arrays]),
    "pandas column of lists": lambda arrays: pandas([a.tolist() for a in arrays]),
    "polars column": polars,
    "polars frame": lambda arrays: polars(arrays).to_frame(),
}


@pytest.mark.parametrize("arrays", [ARRAYS, EQUAL], ids=["of different lengths", "of one length"])
@pytest.mark.parametrize("form", FORMS)
def test_the_result_is_that_of_a_list_of_arrays(form, arrays):
    given = FORMS[form](arrays)
    expected = VLAD(2, random_state=0).fit(arrays)
    found = VLAD(2, random_state=0).fit(given)
    np.testing.assert_array_equal(found.cluster_centers_, expected.cluster_centers_)
    np.testing.assert_array_equal(found.transform(given), expected.transform(arrays))
    np.testing.assert_array_equal(as_descriptors(given).offsets, np.cumsum([0, *map(len, arrays)]))
    np.testing.assert_array_equal(
        vlad_encode(given, found.cluster_centers_), vlad_encode(arrays, found.cluster_centers_)
    )


def test_an_object_array_of_arrays_of_one_shape_is_read():
    """NumPy makes three axes of it."""
    given = np.array(EQUAL, dtype=object)
    assert given.ndim == 3
    np.testing.assert_array_equal(as_descriptors(given).values, np.concatenate(EQUAL))


@pytest.mark.parametrize(
    "bad",
    [
        object_array([np.ones((2, 3)), None]),
        object_array([np.ones((2, 3)), "text"]),
        object_array([np.ones((2, 3)), np.ones((2, 4))]),
        object_array([np.ones((2, 3)), np.ones(3)]),
        object_array([np.ones((2, 3)), {"a": 1}]),
        [[[1.0, 2.0], [3.0]], [[1.0, 2.0]]],
        [[[1.0, 2.0]], [[1.0, "b"]]],
        [[[1.0, 2.0]], []],
        [np.ones((2, 3)), np.full((2, 3), np.nan)],
    ],
    ids=repr,
)
def test_what_is_not_a_matrix_is_an_input_error(bad):
    with pytest.raises(InputError):
        VLAD(1).fit(bad)


def test_a_matrix_as_lists_is_one_descriptor_an_image():
    assert as_descriptors([[1.0, 2.0], [3.0, 4.0]]).offsets.tolist() == [0, 1, 2]
    assert KMeansCodebook(2).fit([[1.0, 2.0], [3.0, 4.0]]).n_features_in_ == 2
