"""Extreme numbers and arrays are computed correctly: huge, tiny, equal, empty, beyond 2^31, in any layout."""

import re
import tracemalloc
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import medvlad as mv
from medvlad import Descriptors, InputError

ENCODERS = {
    "vlad": mv.VLAD(4, random_state=0),
    "power, intra": mv.VLAD(4, power=0.5, intra_norm=True, random_state=0),
    "soft": mv.VLAD(4, assignment="soft", mass_norm=True, random_state=0),
    "top 2, residual": mv.VLAD(4, assignment="soft", n_nearest=2, residual_norm=True, random_state=0),
    "local axes": mv.VLAD(4, local_axes=True, power=0.5, random_state=0),
    "avg": mv.GlobalPool(),
    "max": mv.GlobalPool("max"),
    "gem": mv.GlobalPool("gem"),
    "words": mv.BagOfWords(4, random_state=0),
    "fisher": mv.FisherVector(2, random_state=0),
    "second-order": mv.SecondOrderPool(),
    "second-order, log": mv.SecondOrderPool("log"),
    "tiles": mv.SpatialTiles(mv.VLAD(2, random_state=0), grids=[(4, 3)]),
}
#: Errors that are allowed if numbers leave float32 or no parameter can be fitted.
REFUSED = r"rescale them|too large for float32|have no Gaussians|so alpha cannot be learnt|beyond float64"


@pytest.fixture(params=ENCODERS)
def encoder(request):
    return ENCODERS[request.param]


def finite_units(vectors):
    """Return whether every vector is finite and has length 1 or 0."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return np.isfinite(vectors).all() and bool((np.isclose(norms, 1, atol=1e-5) | (norms == 0)).all())


def vectors_or_refusal(encoder, x):
    """Return the vectors that `encoder` computes of `x`, or its error message."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            return encoder.fit(x).transform(x)
        except InputError as refused:
            return str(refused)


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-30, 1e-12, 1e12, 1e30, 1e37])
def test_inputs_of_any_scale_give_unit_vectors_or_an_error(encoder, rng, scale):
    """The result is never a silent NaN."""
    found = vectors_or_refusal(encoder, (rng.normal(size=(12, 12, 5)) * scale).astype(np.float32))
    if isinstance(found, str):
        assert re.search(REFUSED, found)
        assert not 1e-20 < scale < 1e20
    else:
        assert finite_units(found)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-40])
def test_constant_images_give_equal_vectors_or_an_error(encoder, value):
    found = vectors_or_refusal(encoder, np.full((6, 12, 5), value, np.float32))
    if isinstance(found, str):
        assert re.search(REFUSED, found)
    else:
        assert finite_units(found)
        assert (found == found[0]).all()


def test_duplicate_centres_leave_the_higher_cells_empty(backend):
    """The lowest index wins a tie, so the other cells are zeros."""
    x = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    centers = np.repeat(x[:2], 3, axis=0)
    labels = mv.assign(x, centers, backend=backend)
    assert set(labels.tolist()) <= {0, 3}
    images = Descriptors(x, [0, 12])
    vectors = mv.vlad_encode(images, centers, backend=backend, l2_norm=False).reshape(6, 3)
    assert not vectors[[1, 2, 4, 5]].any()
    with pytest.warns(ConvergenceWarning, match="clusters are empty"):
        vlad = mv.VLAD(6, backend=backend, random_state=0).fit(images)
    assert finite_units(vlad.transform(images))


@pytest.mark.parametrize("shape", [(3, 4, 1), (3, 0, 4), (1, 1, 1), (2, 1, 2048)])
def test_the_smallest_shapes_are_encoded(backend, shape, rng):
    x = rng.integers(-9, 9, shape).astype(np.float32)
    centers = rng.integers(-9, 9, (2, shape[2])).astype(np.float32)
    found = mv.vlad_encode(x, centers, backend=backend)
    np.testing.assert_allclose(found, mv.vlad_encode(x, centers, backend="reference"), atol=1e-7)
    assert mv.assign(x.reshape(-1, shape[2]), centers, backend=backend).shape == (shape[0] * shape[1],)


@pytest.mark.parametrize("n_images", [0, 3])
def test_images_without_descriptors_give_zeros(encoder, n_images, rng):
    fitted = encoder.fit(rng.random((9, 12, 5), dtype=np.float32))
    nothing = Descriptors(np.empty((0, 5), np.float32), np.zeros(n_images + 1, np.int64))
    vectors = fitted.transform(nothing)
    assert vectors.shape == (n_images, len(fitted.get_feature_names_out()))
    assert not vectors.any()


def layouts(x, folder):
    """Yield the same numbers (B, n, D) in other memory layouts."""
    yield "Fortran order", np.asfortranarray(x)
    yield "negative strides", np.ascontiguousarray(x[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    yield "every other", np.repeat(x, 2, axis=1)[:, ::2]
    yield "transposed", np.ascontiguousarray(x.transpose(2, 0, 1)).transpose(1, 2, 0)
    yield "swapped bytes", x.astype(x.dtype.newbyteorder())
    shifted = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    shifted[...] = x
    yield "not aligned", shifted
    locked = x.copy()
    locked.flags.writeable = False
    yield "read-only", locked
    np.save(folder / "x.npy", x)
    yield "memory map", np.load(folder / "x.npy", mmap_mode="r")


def test_the_memory_layout_changes_no_result(encoder, rng, tmp_path):
    x = rng.integers(-9, 9, (10, 12, 5)).astype(np.float32)
    fitted = encoder.fit(x)
    expected = fitted.transform(x)
    for name, same in layouts(x, tmp_path):
        before = same.copy()
        np.testing.assert_array_equal(fitted.transform(same), expected, err_msg=name)
        np.testing.assert_array_equal(same, before, err_msg=name)


@pytest.mark.parametrize("dtype", ["float64", "float16", "longdouble", "int8", "uint16", "int64", "bool"])
def test_every_real_dtype_is_encoded(backend, rng, dtype):
    x = rng.integers(0, 2, (6, 12, 5)).astype(dtype)
    centers = rng.integers(0, 2, (3, 5)).astype(dtype)
    expected = mv.vlad_encode(x.astype(np.float32), centers.astype(np.float32), backend=backend)
    np.testing.assert_array_equal(mv.vlad_encode(x, centers, backend=backend), expected)


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[s]", "U3", "object", "V4"])
def test_other_dtypes_are_refused_by_name(dtype):
    with pytest.raises(
        InputError, match=r"descriptors must hold real numbers, got dtype .*: convert to float32"
    ):
        mv.assign(np.zeros((3, 2), dtype), np.zeros((1, 2)))


@pytest.mark.parametrize("name", ["Fortran", "float64"])
def test_large_arrays_are_converted_block_by_block(rng, name):
    """Encoding does not copy a large array of another dtype or layout as a whole."""
    x = np.zeros((450, 500, 40), np.float64)  # 72 MB
    x[:, ::7] = rng.integers(0, 5, (450, 72, 40))
    given = x if name == "float64" else np.asfortranarray(x.astype(np.float32))
    vlad = mv.VLAD(3, random_state=0).fit(x[:9])
    expected = vlad.transform(x.astype(np.float32))
    tracemalloc.start()
    found = vlad.transform(given)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, expected)
    assert peak < 16 << 20  # a float32 copy takes 36 MB
    x[390, 3, 1] = np.nan
    with pytest.raises(InputError, match="descriptors hold NaN at image 390, row 3"):
        vlad.transform(x)


@pytest.mark.parametrize("beyond", [2**31, pytest.param(2**32, marks=pytest.mark.slow)])
def test_descriptors_beyond_32_bit_indices_are_read(beyond):
    """Only a few rows are not zero, so a 32-bit index would read zeros.

    Memory pages that were never written take no memory.
    """
    width = 512
    n = beyond // width + 1000
    x = np.zeros((n, width), np.float32)
    marked = np.array([5, n - 900, n - 3])
    x[marked] = 1 + np.arange(3)[:, None]
    centers = np.stack([np.zeros(width), np.full(width, 2.0)]).astype(np.float32)
    labels = mv.assign(x, centers)
    expected = np.zeros(n, np.int32)
    expected[marked[1:]] = 1
    np.testing.assert_array_equal(labels, expected)
    images = Descriptors(x, [0, 10, n - 1000, n])
    vectors = mv.vlad_encode(images, centers, l2_norm=False).reshape(3, 2, width)
    assert (vectors[0, 0] == 1).all()
    assert not vectors[1].any()
    assert (vectors[2, 1] == 1).all()  # 2 - 2 and 3 - 2


def test_vectors_beyond_32_bit_indices_are_written():
    """Most images have no descriptors, so most pages are never written and take no memory."""
    n_clusters, width = 2048, 2048
    n_images = 2**31 // (n_clusters * width) + 8
    x = np.ones((4, width), np.float32)
    offsets = np.zeros(n_images + 1, np.int64)
    offsets[1:] = 1
    offsets[-2:] = 3, 4
    centers = np.zeros((n_clusters, width), np.float32)
    centers[1:] = -1
    vectors = mv.vlad_encode(Descriptors(x, offsets), centers, l2_norm=False)
    assert vectors.shape == (n_images, n_clusters * width)
    assert vectors.size > 2**31
    np.testing.assert_array_equal(vectors[[0, -2, -1], :width], np.repeat([[1], [2], [1]], width, axis=1))
    assert not vectors[1, :width].any()


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e15])
def test_the_svm_solution_scales_with_its_input(rng, scale):
    """The classes are separable, so every row is classified correctly at every scale."""
    x = rng.normal(size=(20, 50))
    labels = np.arange(20) % 2
    x[:, 0] = np.where(labels == 1, 4, -4)
    svm = mv.WideLinearSVC(C=1.0 / scale**2, fit_intercept=False).fit(x * scale, labels)
    expected = mv.WideLinearSVC(C=1.0, fit_intercept=False).fit(x, labels)
    np.testing.assert_allclose(svm.coef_ * scale, expected.coef_, rtol=1e-9, atol=1e-12)
    assert (svm.predict(x * scale) == labels).all()
