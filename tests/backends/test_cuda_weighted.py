"""Weighted sums of the cuda backend, and the estimators that use them for descriptors on a GPU.

`gpu` runs each test on a GPU if there is one, and everywhere on kernels compiled for the host.
"""

import itertools

import numpy as np
import pytest
from conftest import BACKEND_NAMES, TOLERANCE, running
from support.batches import batch, bits
from support.on_gpu import placed

import medvlad as mv
from medvlad import InputError
from medvlad.backends import cuda, cuda_weighted, reference
from medvlad.backends.normalise import Normalisation
from medvlad.descriptors import gpu_array
from medvlad.descriptors.gpu_array import GpuArray, import_cupy

SUMS = Normalisation(l2_norm=False)
WAYS = [
    Normalisation(power, *modes)
    for power in (1.0, 0.5)
    for modes in itertools.product((False, True), repeat=3)
]
LENGTHS = [40, 0, 9, 200]


@pytest.fixture(params=[name for name in BACKEND_NAMES if name not in ("reference", "native")])
def gpu(request):
    """CuPy, or its stand-in."""
    with running(request.param):
        yield import_cupy()


def members(rng, n, k, r):
    """Return cells, weights and scales (n, r). No row has a cell twice, and some weights are 0."""
    cells = np.ascontiguousarray(np.argsort(rng.random((n, k)), axis=1)[:, :r].astype(np.int32))
    weights = rng.random((n, r)) * (rng.random((n, r)) < 0.8)
    return cells, weights, rng.random((n, r))


@pytest.mark.parametrize("element", gpu_array.ELEMENTS)
@pytest.mark.parametrize(("k", "d", "r"), [(1, 1, 1), (9, 20, 1), (9, 33, 9), (5, 130, 3)])
def test_weighted_kinds_of_numbers_are_encoded_as_by_the_reference(gpu, rng, element, k, d, r):
    """Sums without normalisation, and masses, are equal to the bit. Cells may be on the GPU or the host."""
    x, offsets, c = batch(rng, LENGTHS, k, d)
    on_gpu, x = placed(gpu, x, element)
    cells, weights, scales = members(rng, len(x), k, r)
    given = gpu.asarray(cells), gpu.asarray(weights)
    for how, own_scales in itertools.product(WAYS, (None, scales)):
        masses, expected_masses = np.full((2, len(LENGTHS), k), np.nan)
        expected = reference.encode_weighted(
            x, offsets, c, cells, weights, how, scales=own_scales, masses_out=expected_masses
        )
        found = cuda.encode_weighted(on_gpu, offsets, c, *given, how, scales=own_scales, masses_out=masses)
        assert isinstance(found, gpu.ndarray)
        scale = np.abs(expected).max(initial=1.0)
        atol = scale * TOLERANCE["encode", "float32"]
        np.testing.assert_allclose(gpu.asnumpy(found), expected, rtol=0, atol=atol)
        np.testing.assert_array_equal(masses, expected_masses)
        if how == SUMS:
            np.testing.assert_array_equal(gpu.asnumpy(found), expected)


def test_a_sum_that_is_rounding_only_is_not_scaled_up(gpu, rng):
    """The weighted sum of a cell cancels but for rounding."""
    c = rng.normal(size=(2, 24)).astype(np.float32)
    moves = rng.normal(size=(2, 24)).astype(np.float32) * np.float32(1e-3)
    x = np.concatenate([c + moves, c - moves]).astype(np.float32)
    cells, weights = np.array([[0], [1], [0], [1]], np.int32), np.array([[1.0], [1.0], [1.0], [0.5]])
    how = Normalisation(power=0.5, intra_norm=True)
    found = cuda.encode_weighted(x, np.array([0, 4]), c, cells, weights, how)
    expected = reference.encode_weighted(x, np.array([0, 4]), c, cells, weights, how)
    np.testing.assert_allclose(found, expected, rtol=0, atol=6e-8)
    assert not found[0, :24].any()
    assert found[0, 24:].any()


def test_runs_of_images_and_repeats_change_no_bit(gpu, rng, monkeypatch):
    x, offsets, c = batch(rng, [3, 70, 0, 5, 33], 7, 40)
    cells, weights, scales = members(rng, len(x), 7, 3)
    arguments = (x, offsets, c, cells, weights, WAYS[-1])
    whole = cuda.encode_weighted(*arguments, scales=scales)
    np.testing.assert_array_equal(bits(cuda.encode_weighted(*arguments, scales=scales)), bits(whole))
    monkeypatch.setattr(cuda_weighted, "_MOST_IMAGES", 2)
    np.testing.assert_array_equal(bits(cuda.encode_weighted(*arguments, scales=scales)), bits(whole))


def test_images_that_do_not_fit_are_halved(cuda_on_host, rng, monkeypatch):
    x, offsets, c = batch(rng, [4] * 16, 5, 16)
    cells, weights, _ = members(rng, len(x), 5, 2)
    expected = reference.encode_weighted(x, offsets, c, cells, weights, WAYS[-1])
    monkeypatch.setattr(cuda_on_host.Memory, "limit", 16 * 5 * 16 * 4)  # half of the sums in float64
    found = cuda.encode_weighted(x, offsets, c, cells, weights, WAYS[-1])
    np.testing.assert_allclose(found, expected, rtol=0, atol=6e-8)
    on_gpu, out = GpuArray(cuda_on_host.asarray(x)), cuda_on_host.empty((16, 80), np.float32)
    monkeypatch.setattr(cuda_weighted, "output", lambda cupy, shape: out)
    monkeypatch.setattr(cuda_on_host.Memory, "limit", 80 * 8 - 1)
    with pytest.raises(InputError, match=r"image 0 does not fit|memory is not enough"):
        cuda.encode_weighted(on_gpu, offsets, c, cells, weights, WAYS[-1])


@pytest.mark.parametrize("element", gpu_array.ELEMENTS)
@pytest.mark.parametrize(("n", "k", "d"), [(1, 1, 1), (40, 33, 17), (65, 5, 130)])
def test_distances_to_all_centres_are_those_of_the_reference(gpu, rng, element, n, k, d):
    x, _, c = batch(rng, [n], k, d)
    on_gpu, x = placed(gpu, x, element)
    exact = ((x[:, None].astype(np.float64) - c.astype(np.float64)) ** 2).sum(axis=2)
    found = cuda.center_distances(on_gpu, c)
    assert isinstance(found, gpu.ndarray)
    np.testing.assert_allclose(gpu.asnumpy(found), exact, rtol=1e-13)
    np.testing.assert_allclose(reference.center_distances(x, c), exact, rtol=1e-9, atol=1e-9)


def test_distances_of_several_labels_agree_to_the_bit(gpu, rng):
    x, _, c = batch(rng, [70], 6, 21)
    cells, _, _ = members(rng, 70, 6, 4)
    expected = reference.squared_distances(x, c, cells)
    np.testing.assert_array_equal(cuda.squared_distances(x, c, cells), expected)
    found = cuda.squared_distances(GpuArray(gpu.asarray(x)), c, gpu.asarray(cells))
    np.testing.assert_array_equal(gpu.asnumpy(found), expected)


@pytest.fixture
def no_copies(monkeypatch):
    """Let `to_host` copy less than a third of the descriptors."""
    to_host = GpuArray.to_host

    def checked(self):
        assert len(self) < sum(LENGTHS) // 3, "descriptors are copied to the host"
        return to_host(self)

    return lambda: monkeypatch.setattr(GpuArray, "to_host", checked)


SETTINGS = [
    {"assignment": "soft"},
    {"assignment": "soft", "n_nearest": 2, "residual_norm": True, "intra_norm": True},
    {"mass_norm": True, "power": 0.5, "intra_norm": True},
    {"residual_norm": True, "l2_norm": False},
    {"mass_norm": True, "local_axes": True, "intra_norm": True},
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: ",".join(s))
def test_vlad_of_descriptors_on_the_gpu_is_that_of_the_host(gpu, rng, settings, weighted, no_copies):
    x, offsets, _ = batch(rng, LENGTHS, 1, 10)
    weights = rng.integers(0, 3, len(x)).astype(np.float64) if weighted else None
    on_host = mv.Descriptors(x, offsets, weights)
    on_gpu = mv.Descriptors(gpu.asarray(x), offsets, weights)
    vlad = mv.VLAD(4, random_state=0, **settings).fit(on_host)
    same = mv.VLAD(4, random_state=0, **settings).fit(on_gpu)
    np.testing.assert_array_equal(same.cluster_centers_, vlad.cluster_centers_)
    no_copies()
    expected = vlad.transform(on_host)
    found = vlad.transform(on_gpu)
    assert isinstance(found, gpu.ndarray)
    atol = 1e-6 * np.abs(expected).max(initial=1.0)
    np.testing.assert_allclose(gpu.asnumpy(found), expected, rtol=0, atol=atol)
    moved = [mv.VLAD(**vlad.get_params()).fit(on_host).adapt(d).residual_centers_ for d in (on_gpu, on_host)]
    np.testing.assert_allclose(*moved, rtol=1e-5, atol=1e-6)


def test_weighted_kmeans_on_the_gpu_is_that_of_the_cpu_to_the_bit(gpu, rng, no_copies):
    x, _, _ = batch(rng, LENGTHS, 1, 9)
    weights = rng.random(len(x)) * (rng.random(len(x)) < 0.9)
    on_host = mv.KMeansCodebook(4, random_state=3).fit(x, sample_weight=weights)
    no_copies()
    on_gpu = mv.KMeansCodebook(4, random_state=3).fit(gpu.asarray(x), sample_weight=weights)
    np.testing.assert_array_equal(on_gpu.cluster_centers_, on_host.cluster_centers_)
    np.testing.assert_array_equal(on_gpu.labels_, on_host.labels_)
    assert on_gpu.inertia_ == on_host.inertia_
    assert on_gpu.score(gpu.asarray(x), sample_weight=weights) == on_host.score(x, sample_weight=weights)
    few = mv.KMeansCodebook(4, random_state=3, max_samples=50, backend="cuda").fit(x, sample_weight=weights)
    same = mv.KMeansCodebook(4, random_state=3, max_samples=50).fit(gpu.asarray(x), sample_weight=weights)
    np.testing.assert_array_equal(few.cluster_centers_, same.cluster_centers_)


def test_weighted_kmeans_chooses_seeds_from_a_part_of_the_rows(gpu, rng):
    x = rng.normal(size=(600, 3)).astype(np.float32)
    weights = rng.random(600)
    books = [
        mv.KMeansCodebook(2, random_state=1, max_iter=3, tol=1e9).fit(data, sample_weight=weights)
        for data in (x, gpu.asarray(x))
    ]
    np.testing.assert_array_equal(books[0].cluster_centers_, books[1].cluster_centers_)


def test_masked_descriptors_are_dropped_where_they_are(gpu, rng):
    x, offsets, _ = batch(rng, [5, 8], 1, 4)
    weights = np.ones(13)
    weights[[0, 7]] = 0
    left = mv.Descriptors(gpu.asarray(x), offsets, weights).counted()
    assert isinstance(left.values, GpuArray)
    assert left.offsets.tolist() == [0, 4, 11]
    np.testing.assert_array_equal(left.to_host().values, x[weights > 0])


def test_weighted_descriptors_that_are_not_finite_are_refused(gpu, rng):
    x, offsets, _ = batch(rng, [4, 3], 1, 5)
    vlad = mv.VLAD(2, mass_norm=True, random_state=0).fit(mv.Descriptors(x, offsets))
    x[5, 2] = np.nan
    with pytest.raises(InputError, match="hold NaN at image 1, row 1"):
        vlad.transform(mv.Descriptors(gpu.asarray(x), offsets))
    with pytest.raises(InputError, match="hold NaN at image 5, row 0"):
        mv.KMeansCodebook(2).fit(gpu.asarray(x), sample_weight=np.ones(7))


def test_weighted_sums_too_large_for_float32_are_refused(gpu):
    big = mv.Descriptors(gpu.asarray(np.full((40, 2), 3e38, np.float32)), np.array([0, 40]), np.full(40, 2.0))
    vlad = mv.VLAD(1, centers=np.zeros((1, 2)), l2_norm=False).fit(big)
    with pytest.raises(InputError, match="too large for float32"):
        vlad.transform(big)


def test_a_backend_that_is_not_on_the_gpu_is_refused(gpu, rng):
    x, offsets, _ = batch(rng, [4, 3], 1, 5)
    vlad = mv.VLAD(2, mass_norm=True, backend="native", random_state=0).fit(mv.Descriptors(x, offsets))
    with pytest.raises(InputError, match="descriptors are on a GPU and backend='native' is not"):
        vlad.transform(mv.Descriptors(gpu.asarray(x), offsets))
