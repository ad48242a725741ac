"""The cuda backend beyond the common suite: kinds of numbers and of arrays, blocks, memory, k-means.

`gpu` runs each test on a GPU where there is one, and everywhere on kernels compiled for the host.
"""

import importlib
import sys
from contextlib import suppress

import numpy as np
import pytest
from conftest import BACKEND_NAMES, TOLERANCE, running

import medvlad as mv
from medvlad import InputError
from medvlad.backends import (
    available_backends,
    cuda,
    cuda_kernels,
    cuda_launches,
    cuda_transfer,
    forget_decisions,
    get_backend,
    reference,
)
from medvlad.backends.candidate_centers import candidate_centers
from medvlad.descriptors import gpu_array
from medvlad.descriptors.gpu_array import GpuArray, import_cupy

# Before CuPy's stand-in is in place, which they would look into.
LIBRARIES = ["torch", "jax", "tensorflow"]
for name in LIBRARIES:
    with suppress(ImportError):
        importlib.import_module(name)

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


def problem(rng, lengths, k, d):
    n = sum(lengths)
    x = np.maximum(rng.normal(-0.5, 1, (n, d)), 0).astype(np.float32)
    c = np.maximum(rng.normal(-0.2, 1, (k, d)), 0).astype(np.float32)
    return x, np.cumsum([0, *lengths], dtype=np.int64), c


def as_bfloat16(x):
    """Bits of the bfloat16 below each number, and that number."""
    bits = (x.view(np.uint32) >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


def placed(cupy, x, element):
    """`x` on the GPU as numbers of that kind, and the same numbers as float32 on the host."""
    if element == "float16":
        half = x.astype(np.float16)
        return GpuArray(cupy.asarray(half), element), half.astype(np.float32)
    if element == "bfloat16":
        bits, same = as_bfloat16(x)
        return GpuArray(cupy.asarray(bits), element), same
    return GpuArray(cupy.asarray(x)), x


@pytest.fixture(params=["images", "cells"])
def way(request, monkeypatch):
    """A block an image, or a warp a cell, however many images and multiprocessors there are."""
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
def test_kinds_of_numbers(gpu, method, way, rng, element, k, d):
    """Everything that a network produces, both ways of multiplying: labels exact."""
    x, offsets, c = problem(rng, [0, 70, 1, 66], k, d)
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
def test_both_ways_of_encoding(gpu, rng, images, d, monkeypatch):
    """A large image beside small ones; rows wider than a slice; the same bits whichever way."""
    monkeypatch.setattr(cuda_launches, "_LARGE_IMAGE", 40)
    x, offsets, c = problem(rng, [3, 50, 0, 7, 1, 90, 2, 5, 45][:images], 5, d)
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
    x, offsets, c = problem(rng, [300, 2, 40], 6, 70)
    residuals, _ = cuda.aggregate(x, offsets, c)
    expected, _ = get_backend("native").aggregate(x, offsets, c, n_threads=1)
    np.testing.assert_array_equal(residuals.view(np.int32), expected.view(np.int32))


def test_the_bound_holds(gpu, method, rng):
    """What the first pass decides is right, the true winner is always a candidate, and few rows are open."""
    x, _, c = problem(rng, [500], 64, 200)
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
def test_extreme_magnitudes(gpu, method, rng, scale):
    x, _, c = problem(rng, [90], 9, 17)
    x, c = (x * scale).astype(np.float32), (c * scale).astype(np.float32)
    np.testing.assert_array_equal(cuda.assign(x, c, method=method), reference.assign(x, c))


def test_denormals_count(gpu, method):
    """CuPy compiles with denormals taken for zeros; what decides and what is written does not."""
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
    x, offsets, c = problem(rng, [49] * 6, 20, 64)
    once = cuda.encode(x, offsets, c, power=0.5)
    np.testing.assert_array_equal(once, cuda.encode(x, offsets, c, power=0.5))


@pytest.mark.parametrize("block", [1, 3000, 10**9])
def test_host_arrays_go_in_blocks(gpu, way, rng, block, monkeypatch):
    """However the batch is cut, vectors, labels and counts are the same."""
    monkeypatch.setattr(cuda_transfer, "_BLOCK_BYTES", block)
    x, offsets, c = problem(rng, [5, 0, 60, 3, 3, 20], 8, 12)
    labels, counts = np.empty(len(x), np.int32), np.empty((6, 8), np.int64)
    out = np.empty((6, 96), np.float32)
    result = cuda.encode(x, offsets, c, out=out, labels_out=labels, counts_out=counts)
    assert result is out
    np.testing.assert_allclose(out, reference.encode(x, offsets, c), rtol=0, atol=6e-8)
    np.testing.assert_array_equal(labels, reference.assign(x, c))
    np.testing.assert_array_equal(counts, reference.aggregate(x, offsets, c)[1])
    np.testing.assert_array_equal(cuda.assign(x, c), labels)


def test_public_functions_take_and_return_gpu_arrays(gpu, rng):
    x, offsets, c = problem(rng, [5, 0, 60], 8, 12)
    d = mv.Descriptors(gpu.asarray(x), offsets)
    assert repr(d) == "Descriptors(3 images, 65 descriptors of 12)"
    encoded = mv.vlad_encode(d, gpu.asarray(c), power=0.5)
    assert type(encoded) is type(gpu.empty(1, np.float32))
    expected = reference.encode(x, offsets, c, power=0.5)
    np.testing.assert_allclose(gpu.asnumpy(encoded), expected, rtol=0, atol=6e-8)
    labels = mv.assign(gpu.asarray(x), c)
    np.testing.assert_array_equal(gpu.asnumpy(labels), reference.assign(x, c))
    out, counts = gpu.empty((3, 96), np.float32), gpu.empty((3, 8), np.int64)
    assert mv.vlad_encode(d, c, power=0.5, out=out, counts_out=counts) is out
    np.testing.assert_array_equal(gpu.asnumpy(out), gpu.asnumpy(encoded))
    np.testing.assert_array_equal(gpu.asnumpy(counts), reference.aggregate(x, offsets, c)[1])
    np.testing.assert_array_equal(d[2].to_host(), x[5:])
    np.testing.assert_array_equal(d.take([2, 0]).to_host().values, np.concatenate([x[5:], x[:5]]))
    started = mv.KMeansCodebook(8, init=gpu.asarray(c), max_iter=3)
    np.testing.assert_array_equal(gpu.asnumpy(started.fit_predict(d)), started.labels_)
    joined = mv.Descriptors.from_list([gpu.asarray(x[:5]), gpu.asarray(x[5:])])
    np.testing.assert_array_equal(joined.to_host().values, x)


def test_feature_maps_go_in_as_they_are(gpu, rng):
    """(B, H, W, D), on the GPU and on the host, and a view whose rows do not follow each other."""
    maps = np.maximum(rng.normal(-0.5, 1, (3, 4, 5, 6)), 0).astype(np.float32)
    c = maps.reshape(-1, 6)[:7].copy()
    expected = reference.encode(maps.reshape(-1, 6), np.arange(4) * 20, c)
    np.testing.assert_allclose(mv.vlad_encode(maps, c), expected, rtol=0, atol=6e-8)
    np.testing.assert_allclose(gpu.asnumpy(mv.vlad_encode(gpu.asarray(maps), c)), expected, rtol=0, atol=6e-8)
    wide = gpu.asarray(np.concatenate([maps, maps], axis=3))
    np.testing.assert_allclose(gpu.asnumpy(mv.vlad_encode(wide[..., :6], c)), expected, rtol=0, atol=6e-8)


def test_estimators_on_gpu_arrays(gpu, rng):
    x, offsets, _ = problem(rng, [30] * 6, 1, 10)
    on_gpu, on_host = mv.Descriptors(gpu.asarray(x), offsets), mv.Descriptors(x, offsets)
    a = mv.VLAD(4, random_state=0).fit(on_gpu)
    b = mv.VLAD(4, random_state=0).fit(on_host)
    assert type(a.cluster_centers_) is np.ndarray
    np.testing.assert_array_equal(a.cluster_centers_, b.cluster_centers_)
    np.testing.assert_array_equal(a.codebook_.labels_, b.codebook_.labels_)
    assert a.codebook_.inertia_ == b.codebook_.inertia_
    np.testing.assert_allclose(gpu.asnumpy(a.transform(on_gpu)), b.transform(on_host), rtol=0, atol=6e-8)
    labels = a.codebook_.predict(on_gpu)
    np.testing.assert_array_equal(gpu.asnumpy(labels), b.codebook_.predict(on_host))
    np.testing.assert_allclose(a.codebook_.transform(on_gpu), b.codebook_.transform(on_host))
    pooled = mv.GlobalPool().fit(on_gpu).transform(on_gpu)
    np.testing.assert_array_equal(gpu.asnumpy(pooled), mv.GlobalPool().fit_transform(on_host))
    a.partial_fit(on_gpu)
    b.partial_fit(on_host)
    np.testing.assert_array_equal(a.cluster_centers_, b.cluster_centers_)


def test_kmeans_is_that_of_the_cpu(gpu, rng):
    """Seeding on a part of the rows, empty clusters: the codebook is the CPU's to the bit."""
    x = np.repeat(rng.normal(size=(9, 5)).astype(np.float32), 300, axis=0)
    x[::300] += rng.normal(scale=0.1, size=(9, 5)).astype(np.float32)
    books = [
        mv.KMeansCodebook(8, random_state=3, backend=name, max_iter=20).fit(x) for name in ("cuda", "auto")
    ]
    np.testing.assert_array_equal(books[0].cluster_centers_, books[1].cluster_centers_)
    assert books[0].inertia_ == books[1].inertia_


def test_distances_agree_to_the_bit(gpu, rng):
    x, _, c = problem(rng, [2100], 6, 21)
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


@pytest.mark.parametrize("element", gpu_array.ELEMENTS)
def test_numbers_that_are_not_finite_are_refused(gpu, rng, element):
    x, offsets, c = problem(rng, [4, 3], 3, 5)
    for bad, word in ((np.nan, "NaN"), (np.inf, "inf")):
        x[5, 2] = bad
        on_gpu, _ = placed(gpu, x, element)
        with pytest.raises(InputError, match=f"hold {word} at image 1, row 1"):
            mv.vlad_encode(mv.Descriptors(on_gpu, offsets), c)
        with pytest.raises(InputError, match=f"hold {word} at row 5"):
            mv.assign(on_gpu, c)
        with pytest.raises(InputError, match=f"hold {word} at image 1, row 1"):
            mv.VLAD(2).fit(mv.Descriptors(on_gpu, offsets))


def test_mistakes_have_one_sentence(gpu, rng):
    x, offsets, c = problem(rng, [4, 3], 3, 5)
    d = mv.Descriptors(gpu.asarray(x), offsets)
    with pytest.raises(InputError, match="descriptors are on a GPU and backend='native' is not"):
        mv.vlad_encode(d, c, backend="native")
    with pytest.raises(InputError, match="must be one of auto"):
        mv.vlad_encode(d, c, backend="fast")
    with pytest.raises(InputError, match="out must be on the GPU"):
        mv.vlad_encode(d, c, out=np.empty((2, 15), np.float32))
    with pytest.raises(InputError, match=r"out must be a C-contiguous array of float32 \(2, 15\)"):
        mv.vlad_encode(d, c, out=gpu.empty((2, 16), np.float32))
    buffer = gpu.zeros((100, 5), np.float32)
    inside = mv.Descriptors(buffer[:7], offsets)
    with pytest.raises(InputError, match="out overlaps an input"):
        mv.vlad_encode(inside, c, out=buffer[1:7].reshape(2, 15))
    both = gpu.zeros(12, np.int64)
    with pytest.raises(InputError, match="counts_out overlaps an input or another output"):
        mv.vlad_encode(d, c, labels_out=both.view(np.int32)[:7], counts_out=both[:6].reshape(2, 3))
    with pytest.raises(InputError, match="got a GpuArray"):
        mv.vlad_encode(d, c, out=GpuArray(gpu.empty((2, 15), np.float32)))
    with pytest.raises(InputError, match="real numbers, got dtype complex64"):
        mv.assign(gpu.zeros((2, 5), np.complex64), c)
    with pytest.raises(InputError, match="n_features >= 1"):
        mv.assign(gpu.zeros((2, 0), np.float32), c)
    with pytest.raises(InputError, match="all be on the GPU"):
        mv.Descriptors.from_list([gpu.asarray(x), x])
    big = mv.Descriptors(gpu.asarray(np.full((40, 2), 3e38, np.float32)), np.array([0, 40]))
    with pytest.raises(InputError, match="too large for float32"):
        mv.vlad_encode(big, np.zeros((1, 2), np.float32), l2_norm=False)


@pytest.mark.parametrize("dtype", [np.float64, np.int16, np.uint8])
def test_other_real_numbers_become_float32(gpu, rng, dtype):
    x = rng.integers(0, 5, (20, 6)).astype(dtype)
    c = x[:3].astype(np.float32)
    labels = gpu.asnumpy(mv.assign(gpu.asarray(x), c))
    np.testing.assert_array_equal(labels, reference.assign(x.astype(np.float32), c))


class TestMemory:
    """A GPU that runs out of memory; only the stand-in's can be told how much it has."""

    def test_blocks_are_halved(self, cuda_on_host, rng, monkeypatch):
        x, offsets, c = problem(rng, [10] * 32, 4, 16)
        monkeypatch.setattr(cuda_on_host.Memory, "limit", 5000)  # 7 images of 640 bytes
        expected = reference.encode(x, offsets, c)
        np.testing.assert_allclose(cuda.encode(x, offsets, c), expected, rtol=0, atol=6e-8)
        labels = np.empty(len(x), np.int32)
        cuda.encode(x, offsets, c, labels_out=labels)
        np.testing.assert_array_equal(labels, reference.assign(x, c))

    def test_resident_blocks_are_halved(self, cuda_on_host, rng, monkeypatch):
        x, offsets, c = problem(rng, [60] * 16, 40, 16)
        on_gpu, out = GpuArray(cuda_on_host.asarray(x)), cuda_on_host.empty((16, 640), np.float32)
        monkeypatch.setattr(cuda_on_host.Memory, "limit", 4200)
        encoded = cuda.encode(on_gpu, offsets, c, out=out)
        np.testing.assert_allclose(
            cuda_on_host.asnumpy(encoded), reference.encode(x, offsets, c), rtol=0, atol=6e-8
        )

    def test_nothing_left_to_halve(self, cuda_on_host, rng, monkeypatch):
        x, offsets, c = problem(rng, [3, 400], 4, 16)
        monkeypatch.setattr(cuda_on_host.Memory, "limit", 9000)
        with pytest.raises(InputError, match="image 1 does not fit into the GPU's memory"):
            cuda.encode(x, offsets, c)
        with pytest.raises(InputError, match="403 descriptors of 16 numbers do not fit"):
            cuda.place(x)
        monkeypatch.setattr(cuda_on_host.Memory, "limit", 1000)
        with pytest.raises(InputError, match="4 centres of 16 numbers do not fit"):
            cuda.encode(x, offsets, c)

    def test_labels_of_the_host_are_halved(self, cuda_on_host, rng, monkeypatch):
        x, _, c = problem(rng, [900], 4, 16)
        monkeypatch.setattr(cuda_transfer, "_STEP_ROWS", 100)
        monkeypatch.setattr(cuda_on_host.Memory, "limit", 20_000)
        np.testing.assert_array_equal(cuda.assign(x, c), reference.assign(x, c))
        monkeypatch.setattr(cuda_on_host.Memory, "limit", 5000)
        with pytest.raises(InputError, match="block 0, of 100 descriptors, does not fit"):
            cuda.assign(x, c)

    def test_k_means_that_does_not_fit(self, cuda_on_host, rng, monkeypatch):
        x, _, c = problem(rng, [900], 4, 16)
        on_gpu = cuda.place(x)
        monkeypatch.setattr(cuda_on_host.Memory, "limit", 5000)
        with pytest.raises(InputError, match="the GPU's memory is not enough"):
            cuda.squared_distances(on_gpu, c, np.zeros(900, np.int32))

    def test_an_output_that_does_not_fit(self, cuda_on_host, rng, monkeypatch):
        x, offsets, c = problem(rng, [1] * 100, 40, 16)
        on_gpu = GpuArray(cuda_on_host.asarray(x))
        monkeypatch.setattr(cuda_on_host.Memory, "limit", 100_000)
        with pytest.raises(InputError, match="100 encoded images of 640 numbers do not fit"):
            cuda.encode(on_gpu, offsets, c)


def make(library, x, element):
    """An array of that library, on its GPU if it has one."""
    if library == "torch":
        torch = pytest.importorskip("torch")
        dtype = getattr(torch, element)
        return torch.from_numpy(x).to(dtype).to("cuda" if torch.cuda.is_available() else "cpu")
    if library == "jax":
        return pytest.importorskip("jax.numpy").asarray(x).astype(element)
    return pytest.importorskip("tensorflow").cast(x, element)


@pytest.mark.parametrize("element", gpu_array.ELEMENTS)
@pytest.mark.parametrize("library", LIBRARIES)
class TestLibraries:
    """Arrays of other libraries come by DLPack and go back; on the host their CPU arrays stand in."""

    def test_in_and_out(self, gpu, rng, library, element, monkeypatch):
        x, offsets, c = problem(rng, [5, 30], 4, 8)
        given = make(library, x, element)
        if not gpu_array.on_gpu(given):
            if hasattr(gpu, "COMPILER"):
                monkeypatch.setattr(gpu_array, "_CUDA_DEVICES", (1, 2))
                monkeypatch.setattr(gpu.Array, "device_type", 1)
                monkeypatch.setattr(gpu_array, "_foreign_stream", lambda *_: gpu.cuda.Stream())
                monkeypatch.setattr(gpu_array, "_torch_stream", lambda device: 0)
            else:
                pytest.skip(f"{library} sees no GPU")
        same = placed(gpu, x, element)[1] if element != "bfloat16" else None
        if same is None:
            same = np.asarray(GpuArray.read(given, "x").to_host())
        encoded = mv.vlad_encode(mv.Descriptors(given, offsets), c)
        assert type(encoded).__module__.partition(".")[0] in (library, library + "lib")
        on_host = encoded.cpu().numpy() if library == "torch" else np.asarray(encoded)
        np.testing.assert_allclose(on_host, reference.encode(same, offsets, c), rtol=0, atol=6e-8)

    def test_no_copy(self, gpu, rng, library, element, monkeypatch):
        if not hasattr(gpu, "COMPILER") or library == "tensorflow":
            pytest.skip("addresses can be compared for torch and jax on the host alone")
        if (library, element) == ("jax", "bfloat16"):
            pytest.skip("jax makes a new array of a bitcast")
        monkeypatch.setattr(gpu_array, "_CUDA_DEVICES", (1, 2))
        monkeypatch.setattr(gpu_array, "_foreign_stream", lambda *_: gpu.cuda.Stream())
        monkeypatch.setattr(gpu_array, "_torch_stream", lambda device: 0)
        given = make(library, rng.normal(size=(6, 8)).astype(np.float32), element)
        pointer = given.data_ptr() if library == "torch" else given.unsafe_buffer_pointer()
        assert GpuArray.read(given, "x").values.ctypes.data == pointer


def test_without_a_gpu(monkeypatch):
    """What this machine says, whatever it has: one line, and no traceback."""
    state = available_backends()["cuda"]
    assert "\n" not in state
    if not state.startswith("ok"):
        with pytest.raises(InputError, match="backend 'cuda' cannot run here"):
            get_backend("cuda")


def test_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    forget_decisions()
    assert "pip install 'medvlad[cuda12]' or 'medvlad[cuda13]'" in available_backends()["cuda"]
    with pytest.raises(InputError, match="cannot run here: the cuda backend needs the Python module 'cupy'"):
        mv.assign(np.ones((2, 2)), np.ones((1, 2)), backend="cuda")


def test_candidate_centers_are_within_their_bounds(rng):
    c = rng.normal(3, 1, (70, 45)).astype(np.float32)
    for tensor_cores in (False, True):
        made = candidate_centers(c, tensor_cores=tensor_cores)
        assert made.rounded.shape == (128, 48)
        assert np.isinf(made.half[70:]).all()
        assert np.linalg.norm(made.rounded, axis=1).max() <= made.max_center
        assert np.abs(made.half[:70]).max() <= made.max_half
        bits = made.rounded.view(np.uint32)
        assert ((bits & 0x1FFF) == 0).all() == tensor_cores
        # Up to the mean, which they share, b_k and c_k differ by no more than the bound says.
        shift = (c.astype(np.float64) - made.rounded[:70, :45]).mean(axis=0)
        off = np.linalg.norm(c - made.rounded[:70, :45] - shift, axis=1).max()
        assert off <= 2 * made.max_center_error + 1e-6


def test_kernels_are_in_the_package():
    folder = importlib.resources.files("medvlad.backends") / "kernels"
    assert {f.name for f in folder.iterdir()} >= {"assign.cu", "instructions.cuh"}
