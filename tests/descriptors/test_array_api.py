"""Every estimator reads arrays of another library and returns arrays of that library (array-API dispatch)."""

import importlib

import numpy as np
import pytest
from sklearn import clone, config_context
from sklearn.pipeline import make_pipeline

import medvlad as mv


def why_not():
    """Return why scikit-learn cannot dispatch here. Before 1.7 it needs another package."""
    try:
        with config_context(array_api_dispatch=True):
            return ""
    except ImportError as error:
        return str(error)


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "scikit-learn dispatches")

LIBRARIES = {"array_api_strict": "array_api_strict", "torch": "torch", "jax": "jax.numpy"}
ESTIMATORS = {
    "VLAD": mv.VLAD(3, random_state=0),
    "soft": mv.VLAD(3, assignment="soft", local_axes=True, random_state=0),
    "avg": mv.GlobalPool(),
    "gem": mv.GlobalPool("gem"),
    "fisher": mv.FisherVector(2, random_state=0),
    "bow": mv.BagOfWords(3, random_state=0),
    "second-order": mv.SecondOrderPool(),
    "tiles": mv.SpatialTiles(mv.VLAD(2, random_state=0), grids=[(4, 4)]),
    "distances": mv.KMeansCodebook(3, random_state=0),
}


@pytest.fixture(params=LIBRARIES)
def xp(request):
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return importlib.import_module(LIBRARIES[request.param])


@pytest.fixture
def labels():
    return np.arange(12) % 2


@pytest.fixture
def maps(rng, labels):
    maps = rng.random((12, 4, 4, 5), dtype=np.float32)
    maps[labels == 1, ..., 0] += 0.5
    return maps


def assert_same(found, expected, kind):
    assert isinstance(found, kind)
    np.testing.assert_array_equal(np.asarray(found), expected)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_results_are_of_the_library_of_the_input(name, xp, maps):
    estimator, given = ESTIMATORS[name], xp.asarray(maps)
    expected = clone(estimator).fit_transform(maps)
    with config_context(array_api_dispatch=True):
        assert_same(clone(estimator).fit_transform(given), expected, type(given))
        fitted = clone(estimator).fit(maps)
        assert_same(fitted.transform(given), expected, type(given))
        assert_same(fitted.transform(maps), expected, np.ndarray)
        assert_same(fitted.transform(mv.Descriptors.from_array(maps)), expected, np.ndarray)
    assert_same(fitted.transform(given), expected, np.ndarray)


def test_matrices_and_labels_of_a_codebook_keep_their_library(xp, maps):
    matrix = maps[:, 0, 0]
    fitted = mv.KMeansCodebook(2, random_state=0).fit(matrix)
    with config_context(array_api_dispatch=True):
        given = xp.asarray(matrix)
        assert_same(mv.GlobalPool().fit_transform(given), mv.GlobalPool().fit_transform(matrix), type(given))
        assert_same(fitted.predict(given), fitted.predict(matrix), type(given))


def test_results_lie_on_the_device_of_the_input(maps):
    xp = pytest.importorskip("array_api_strict", reason="array_api_strict is not installed")
    with config_context(array_api_dispatch=True):
        given = xp.asarray(maps, device=xp.Device("device1"))
        found = mv.GlobalPool().fit_transform(given)
        centers = xp.asarray(maps[0, 0, :2], device=given.device)
        vlad = mv.VLAD(2, centers=centers).fit(maps)
        codebook = mv.KMeansCodebook(2, init=centers)
        assert codebook.fit_predict(given).device == given.device
        (_, vectors), *_ = vlad.transform_blocks(given)
    np.testing.assert_array_equal(vectors, mv.vlad_encode(maps, maps[0, 0, :2]))
    assert found.device == given.device
    expected = mv.GlobalPool().fit_transform(maps)
    np.testing.assert_array_equal(np.asarray(xp.asarray(found, device=xp.Device("CPU_DEVICE"))), expected)
    with pytest.raises(mv.InputError, match=r"descriptors cannot be read as a NumPy array \(.*device1"):
        mv.GlobalPool().fit(given)


def test_functions_read_arrays_of_another_device(maps):
    xp = pytest.importorskip("array_api_strict", reason="array_api_strict is not installed")
    expected = mv.vlad_encode(maps, maps[0, 0, :2])
    with config_context(array_api_dispatch=True):
        given = xp.asarray(maps, device=xp.Device("device1"))
        centers = given[0, 0, :2, :]
        np.testing.assert_array_equal(mv.vlad_encode(given, centers), expected)
        rows = xp.reshape(given, (-1, 5))
        np.testing.assert_array_equal(
            mv.assign(rows, centers), mv.assign(maps.reshape(-1, 5), maps[0, 0, :2])
        )


class Unknown:
    """An array of a library that scikit-learn does not dispatch to, such as TensorFlow."""

    def __init__(self, x):
        self._x, self.shape, self.ndim, self.dtype = x, x.shape, x.ndim, x.dtype

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self._x, dtype)

    def __dlpack__(self, **_):
        raise AssertionError("read by __array__")

    def __dlpack_device__(self):
        return (1, 0)

    def __len__(self):
        return len(self._x)


def test_arrays_of_unknown_libraries_give_numpy_arrays(maps):
    vlad = mv.VLAD(2, centers=Unknown(maps[0, 0, :2]))
    with config_context(array_api_dispatch=True):
        found = vlad.fit_transform(Unknown(maps))
    assert_same(found, mv.vlad_encode(maps, maps[0, 0, :2]), np.ndarray)


def test_a_pipeline_keeps_the_library_of_its_input(xp, maps, labels):
    pipeline = make_pipeline(mv.VLAD(3, random_state=0), mv.WideLinearSVC())
    expected = clone(pipeline).fit(maps, labels)
    with config_context(array_api_dispatch=True):
        given = xp.asarray(maps)
        svm = pipeline.fit(given, xp.asarray(labels))
        decision = svm.decision_function(given)
        assert isinstance(decision, type(given))
        # JAX uses float32 unless it is configured.
        np.testing.assert_allclose(np.asarray(decision), expected.decision_function(maps), rtol=1e-6)
        assert_same(svm.predict(given), expected.predict(maps), type(given))
        names = svm.fit(given, labels.astype(str)).predict(given)  # only NumPy has text
    assert_same(names, expected.predict(maps).astype(str), np.ndarray)
