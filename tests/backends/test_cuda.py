"""Numbers of the cuda backend beyond the common suite: dtypes, both sequences of kernels, blocks, k-means.

`gpu` runs each test on a GPU if there is one, and everywhere on kernels compiled for the host.
"""

import importlib

import numpy as np
import pytest
from conftest import BACKEND_NAMES, TOLERANCE, running
from support.batches import batch
from support.on_gpu import placed

import medvlad as mv
from medvlad.backends import (
    available_backends,
    cuda,
    cuda_kernels,
    cuda_launches,
    cuda_transfer,
    get_backend,
    reference,
)
from medvlad.descriptors import gpu_array
from medvlad.descriptors.gpu_array import GpuArray, import_cupy

METHODS = ["tensor_cores", "float32_units"]


@pytest.fixture(params=[name for name in BACKEND_NAMES if name not in ("reference", "native")])
def gpu(request):
    """CuPy, or its stand-in."""
    with running(request.param):
        yield import_cupy()


@pytest.fixture(params=METHODS)
def method(gpu, request):
    has_tensor_cores = cuda_kernels.capability(gpu.cuda.Device())[0] >= 8
    if not hasattr(gpu, "COMPILER") and has_tensor_cores != (request.param == "tensor_cores"):
        pytest.skip("a GPU has kernels for one of the two")
    return request.param


@pytest.fixture(params=["images", "cells"])
def way(request, monkeypatch):
    """One block per image, or one warp per cell, whatever the number of images and multiprocessors."""
    monkeypatch.setattr(cuda_launches, "_IMAGES_A_MULTIPROCESSOR", 0 if request.param == "images" else 10**6)
    launched, launch = set(), cuda_launches.launch

    def spy(name, *arguments):
        launched.add(name)
        launch(name, *arguments)

    monkeypatch.setattr(cuda_launches, "launch", spy)
    yield request.param
    assert request.param in launched


@pytest.mark.parametrize("element", gpu_array.ELEMENTS)
@pytest.mark.parametrize(("k", "d"), [(1, 1), (7, 20), (64, 33), (65, 100), (130, 36)])
def test_all_kinds_of_numbers_are_encoded_as_by_the_reference(gpu, method, way, rng, element, k, d):
    """All dtypes that networks produce, and both ways of multiplying. Labels are exact."""
    x, offsets, c = batch(rng, [0, 70, 1, 66], k, d)
    on_gpu, x = placed(gpu, x, element)
    np.testing.assert_array_equal(gpu.asnumpy(cuda.assign(on_gpu, c, method=method)), reference.assign(x, c))
    residuals, counts = cuda.aggregate(on_gpu, offsets, c, method=method)
    expected, expected_counts = reference.aggregate(x, offsets, c)
    np.testing.assert_array_equal(counts, expected_counts)
    np.testing.assert_allclose(
        residuals, expected, rtol=0, atol=1e-4 * TOLERANCE["residuals", "float32"] ** 0.5
    )
    for options in ({}, {"power": 0.5, "intra_norm": True}, {"l2_norm": False, "power": 0.3}):
        encoded = gpu.asnumpy(cuda.encode(on_gpu, offsets, c, method=method, **options))
        wanted = reference.encode(x, offsets, c, **options)
        scale = np.abs(wanted).max(initial=1.0)
        np.testing.assert_allclose(encoded, wanted, rtol=0, atol=scale * TOLERANCE["encode", "float32"])


@pytest.mark.parametrize("images", [1, 3, 9])
@pytest.mark.parametrize("d", [130, 600])
def test_both_ways_of_encoding_give_the_same_bits(gpu, rng, images, d, monkeypatch):
    """A large image is beside small ones, and rows are wider than a slice."""
    monkeypatch.setattr(cuda_launches, "_LARGE_IMAGE", 40)
    x, offsets, c = batch(rng, [3, 50, 0, 7, 1, 90, 2, 5, 45][:images], 5, d)
    for power, intra in ((1.0, False), (0.5, True)):
        wanted = reference.encode(x, offsets, c, power=power, intra_norm=intra)
        found = []
        for images_a_multiprocessor in (0, 10**6):
            monkeypatch.setattr(cuda_launches, "_IMAGES_A_MULTIPROCESSOR", images_a_multiprocessor)
            found.append(cuda.encode(x, offsets, c, power=power, intra_norm=intra))
        np.testing.assert_allclose(found[0], wanted, rtol=0, atol=TOLERANCE["encode", "float32"])
        np.testing.assert_array_equal(found[0].view(np.int32), found[1].view(np.int32))


def test_residuals_are_those_of_the_cpu_to_the_bit(gpu, rng):
    if not available_backends()["native"].startswith("ok"):
        pytest.skip("native was not built")
    x, offsets, c = batch(rng, [300, 2, 40], 6, 70)
    residuals, _ = cuda.aggregate(x, offsets, c)
    expected, _ = get_backend("native").aggregate(x, offsets, c, n_threads=1)
    np.testing.assert_array_equal(residuals.view(np.int32), expected.view(np.int32))


def test_the_first_pass_always_keeps_the_winner(gpu, method, rng):
    """Decided rows are right, the true winner is always a candidate, and few rows are undecided."""
    x, _, c = batch(rng, [500], 64, 200)
    x *= np.exp(rng.normal(size=(500, 1))).astype(np.float32)
    centers = cuda_launches.upload(c, method)
    labels, flag = gpu.empty(500, np.int32), gpu.zeros(1, np.int32)
    kept = []
    launch = cuda_launches.launch

    def only_the_first_pass(name, *arguments):
        if name == "assign":
            launch(name, *arguments)
            kept.append(gpu.asnumpy(arguments[3][-2])[:, 0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_launches, "launch", only_the_first_pass)
        cuda_launches.label(GpuArray(gpu.asarray(x)), centers, labels, flag)
    first = gpu.asnumpy(labels)
    exact = reference.assign(x, c)
    decided = first >= 0
    np.testing.assert_array_equal(first[decided], exact[decided])
    assert decided.mean() > 0.8
    # The true winner is always among the candidates.
    bits = kept[0] >> exact.astype(np.uint64) & np.uint64(1)
    assert bits.all()
    assert int(flag[0]) == 0


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e15, 1e19, 1e30])
def test_labels_are_exact_at_extreme_magnitudes(gpu, method, rng, scale):
    x, _, c = batch(rng, [90], 9, 17)
    x, c = (x * scale).astype(np.float32), (c * scale).astype(np.float32)
    np.testing.assert_array_equal(cuda.assign(x, c, method=method), reference.assign(x, c))


def test_denormals_are_not_taken_for_zeros(gpu, method):
    """CuPy compiles with denormals as zeros. The exact decision and the output must not do so."""
    x, c = np.array([[1, 1e-39]], np.float32), np.array([[1, 3e-39], [1, 1e-39]], np.float32)
    assert cuda.assign(x, c, method=method).tolist() == [1]
    x, origin, offsets = np.full((3, 4), 1e-39, np.float32), np.zeros((1, 4), np.float32), np.array([0, 3])
    expected = reference.encode(x, offsets, origin, power=0.1)
    np.testing.assert_allclose(cuda.encode(x, offsets, origin, power=0.1), expected, rtol=1e-6)
    assert expected.min() > 0.4
    residuals, _ = cuda.aggregate(x, offsets, origin)
    np.testing.assert_array_equal(residuals, reference.aggregate(x, offsets, origin)[0])
    assert residuals.min() > 0


def test_runs_repeat_to_the_bit(gpu, way, rng):
    x, offsets, c = batch(rng, [49] * 6, 20, 64)
    once = cuda.encode(x, offsets, c, power=0.5)
    np.testing.assert_array_equal(once, cuda.encode(x, offsets, c, power=0.5))


@pytest.mark.parametrize("block", [1, 3000, 10**9])
def test_blocks_of_host_arrays_change_no_result(gpu, way, rng, block, monkeypatch):
    """Vectors, labels and counts do not depend on how the batch is cut."""
    monkeypatch.setattr(cuda_transfer, "_BLOCK_BYTES", block)
    x, offsets, c = batch(rng, [5, 0, 60, 3, 3, 20], 8, 12)
    labels, counts = np.empty(len(x), np.int32), np.empty((6, 8), np.int64)
    out = np.empty((6, 96), np.float32)
    result = cuda.encode(x, offsets, c, out=out, labels_out=labels, counts_out=counts)
    assert result is out
    np.testing.assert_allclose(out, reference.encode(x, offsets, c), rtol=0, atol=6e-8)
    np.testing.assert_array_equal(labels, reference.assign(x, c))
    np.testing.assert_array_equal(counts, reference.aggregate(x, offsets, c)[1])
    np.testing.assert_array_equal(cuda.assign(x, c), labels)


def test_kmeans_is_that_of_the_cpu_to_the_bit(gpu, rng):
    """Seeds come from a part of the rows, and there are empty clusters."""
    x = np.repeat(rng.normal(size=(9, 5)).astype(np.float32), 300, axis=0)
    x[::300] += rng.normal(scale=0.1, size=(9, 5)).astype(np.float32)
    books = [
        mv.KMeansCodebook(8, random_state=3, backend=name, max_iter=20).fit(x) for name in ("cuda", "auto")
    ]
    np.testing.assert_array_equal(books[0].cluster_centers_, books[1].cluster_centers_)
    assert books[0].inertia_ == books[1].inertia_


def test_distances_agree_to_the_bit(gpu, rng):
    x, _, c = batch(rng, [2100], 6, 21)
    labels = reference.assign(x, c)
    np.testing.assert_array_equal(
        cuda.squared_distances(x, c, labels), reference.squared_distances(x, c, labels)
    )
    norms = reference.squared_distances(x, np.zeros((1, 21), np.float32), np.zeros(2100, np.int32))
    candidates, closest = np.array([0, 5, 5, 2099, 7, 8, 9, 10, 11]), np.full(2100, 30.0)
    for own, expected in zip(
        cuda.candidate_distances(x, norms, candidates, closest),
        reference.candidate_distances(x, norms, candidates, closest),
        strict=True,
    ):
        np.testing.assert_array_equal(own, expected)


def test_kernels_are_in_the_package():
    folder = importlib.resources.files("medvlad.backends") / "kernels"
    assert {f.name for f in folder.iterdir()} >= {"assign.cu", "instructions.cuh"}
