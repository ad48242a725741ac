"""Arrays on a GPU, of CuPy and of other libraries: in, out, and refused.

`gpu` runs each test on a GPU if there is one, and everywhere on kernels compiled for the host.
"""

import importlib
from contextlib import suppress

import numpy as np
import pytest
from conftest import BACKEND_NAMES, running
from support.batches import batch
from support.on_gpu import placed

import medvlad as mv
from medvlad import InputError
from medvlad.backends import reference
from medvlad.descriptors import gpu_array
from medvlad.descriptors.gpu_array import GpuArray, import_cupy

# They must be imported before CuPy's stand-in is in place, because they would inspect it.
LIBRARIES = ["torch", "jax", "tensorflow"]
for name in LIBRARIES:
    with suppress(ImportError):
        importlib.import_module(name)


@pytest.fixture(params=[name for name in BACKEND_NAMES if name not in ("reference", "native")])
def gpu(request):
    """CuPy, or its stand-in."""
    with running(request.param):
        yield import_cupy()


@pytest.fixture
def three_images(gpu, rng):
    """Host arrays x, offsets and centres, and the descriptors on the GPU."""
    x, offsets, c = batch(rng, [5, 0, 60], 8, 12)
    return x, offsets, c, mv.Descriptors(gpu.asarray(x), offsets)


def test_vlad_encode_returns_an_array_on_the_gpu(gpu, three_images):
    x, offsets, c, d = three_images
    encoded = mv.vlad_encode(d, gpu.asarray(c), power=0.5)
    assert type(encoded) is type(gpu.empty(1, np.float32))
    expected = reference.encode(x, offsets, c, power=0.5)
    np.testing.assert_allclose(gpu.asnumpy(encoded), expected, rtol=0, atol=6e-8)


def test_vlad_encode_fills_outputs_on_the_gpu(gpu, three_images):
    x, offsets, c, d = three_images
    out, counts = gpu.empty((3, 96), np.float32), gpu.empty((3, 8), np.int64)
    assert mv.vlad_encode(d, c, power=0.5, out=out, counts_out=counts) is out
    encoded = mv.vlad_encode(d, gpu.asarray(c), power=0.5)
    np.testing.assert_array_equal(gpu.asnumpy(out), gpu.asnumpy(encoded))
    np.testing.assert_array_equal(gpu.asnumpy(counts), reference.aggregate(x, offsets, c)[1])


def test_assign_labels_an_array_on_the_gpu(gpu, three_images):
    x, _, c, _ = three_images
    labels = mv.assign(gpu.asarray(x), c)
    np.testing.assert_array_equal(gpu.asnumpy(labels), reference.assign(x, c))


def test_descriptors_on_the_gpu_say_what_they_are(three_images):
    assert repr(three_images[3]) == "Descriptors(3 images, 65 descriptors of 12)"


def test_descriptors_on_the_gpu_can_be_sliced_and_taken(three_images):
    x, _, _, d = three_images
    np.testing.assert_array_equal(d[2].to_host(), x[5:])
    np.testing.assert_array_equal(d.take([2, 0]).to_host().values, np.concatenate([x[5:], x[:5]]))


def test_descriptors_on_the_gpu_can_be_joined(gpu, three_images):
    x = three_images[0]
    joined = mv.Descriptors.from_list([gpu.asarray(x[:5]), gpu.asarray(x[5:])])
    np.testing.assert_array_equal(joined.to_host().values, x)


@pytest.mark.filterwarnings("ignore:k-means has not come to rest")
def test_kmeans_starts_from_centres_on_the_gpu(gpu, three_images):
    _, _, c, d = three_images
    started = mv.KMeansCodebook(8, init=gpu.asarray(c), max_iter=3)
    np.testing.assert_array_equal(gpu.asnumpy(started.fit_predict(d)), started.labels_)


def test_feature_maps_are_encoded_without_reshaping(gpu, rng):
    """(B, H, W, D) on the GPU and on the host, and a view that is not contiguous."""
    maps = np.maximum(rng.normal(-0.5, 1, (3, 4, 5, 6)), 0).astype(np.float32)
    c = maps.reshape(-1, 6)[:7].copy()
    expected = reference.encode(maps.reshape(-1, 6), np.arange(4) * 20, c)
    np.testing.assert_allclose(mv.vlad_encode(maps, c), expected, rtol=0, atol=6e-8)
    np.testing.assert_allclose(gpu.asnumpy(mv.vlad_encode(gpu.asarray(maps), c)), expected, rtol=0, atol=6e-8)
    wide = gpu.asarray(np.concatenate([maps, maps], axis=3))
    np.testing.assert_allclose(gpu.asnumpy(mv.vlad_encode(wide[..., :6], c)), expected, rtol=0, atol=6e-8)


def test_estimators_give_the_same_numbers_on_gpu_arrays(gpu, rng):
    x, offsets, _ = batch(rng, [30] * 6, 1, 10)
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


@pytest.mark.parametrize("element", gpu_array.ELEMENTS)
def test_numbers_that_are_not_finite_are_refused(gpu, rng, element):
    x, offsets, c = batch(rng, [4, 3], 3, 5)
    for bad, word in ((np.nan, "NaN"), (np.inf, "inf")):
        x[5, 2] = bad
        on_gpu, _ = placed(gpu, x, element)
        with pytest.raises(InputError, match=f"hold {word} at image 1, row 1"):
            mv.vlad_encode(mv.Descriptors(on_gpu, offsets), c)
        with pytest.raises(InputError, match=f"hold {word} at row 5"):
            mv.assign(on_gpu, c)
        with pytest.raises(InputError, match=f"hold {word} at image 1, row 1"):
            mv.VLAD(2).fit(mv.Descriptors(on_gpu, offsets))


@pytest.fixture
def two_images(gpu, rng):
    """Host descriptors, offsets and centres, and the descriptors on the GPU."""
    x, offsets, c = batch(rng, [4, 3], 3, 5)
    return x, offsets, c, mv.Descriptors(gpu.asarray(x), offsets)


@pytest.mark.parametrize(
    ("backend", "message"),
    [("native", "descriptors are on a GPU and backend='native' is not"), ("fast", "must be one of auto")],
)
def test_a_backend_that_is_not_on_the_gpu_is_refused(two_images, backend, message):
    _, _, c, d = two_images
    with pytest.raises(InputError, match=message):
        mv.vlad_encode(d, c, backend=backend)


def test_outputs_must_be_cupy_arrays_of_the_right_shape(gpu, two_images):
    _, _, c, d = two_images
    with pytest.raises(InputError, match="out must be on the GPU"):
        mv.vlad_encode(d, c, out=np.empty((2, 15), np.float32))
    with pytest.raises(InputError, match=r"out must be a C-contiguous array of float32 \(2, 15\)"):
        mv.vlad_encode(d, c, out=gpu.empty((2, 16), np.float32))
    with pytest.raises(InputError, match="got a GpuArray"):
        mv.vlad_encode(d, c, out=GpuArray(gpu.empty((2, 15), np.float32)))


def test_an_output_that_overlaps_an_input_is_refused(gpu, two_images):
    _, offsets, c, _ = two_images
    buffer = gpu.zeros((100, 5), np.float32)
    inside = mv.Descriptors(buffer[:7], offsets)
    with pytest.raises(InputError, match="out overlaps an input"):
        mv.vlad_encode(inside, c, out=buffer[1:7].reshape(2, 15))


def test_outputs_that_overlap_each_other_are_refused(gpu, two_images):
    _, _, c, d = two_images
    both = gpu.zeros(12, np.int64)
    with pytest.raises(InputError, match="counts_out overlaps an input or another output"):
        mv.vlad_encode(d, c, labels_out=both.view(np.int32)[:7], counts_out=both[:6].reshape(2, 3))


def test_complex_numbers_are_refused(gpu, two_images):
    with pytest.raises(InputError, match="real numbers, got dtype complex64"):
        mv.assign(gpu.zeros((2, 5), np.complex64), two_images[2])


def test_descriptors_without_features_are_refused(gpu, two_images):
    with pytest.raises(InputError, match="n_features >= 1"):
        mv.assign(gpu.zeros((2, 0), np.float32), two_images[2])


def test_images_on_the_gpu_and_on_the_host_cannot_be_mixed(gpu, two_images):
    x = two_images[0]
    with pytest.raises(InputError, match="all be on the GPU"):
        mv.Descriptors.from_list([gpu.asarray(x), x])


def test_vectors_too_large_for_float32_are_refused(gpu):
    big = mv.Descriptors(gpu.asarray(np.full((40, 2), 3e38, np.float32)), np.array([0, 40]))
    with pytest.raises(InputError, match="too large for float32"):
        mv.vlad_encode(big, np.zeros((1, 2), np.float32), l2_norm=False)


@pytest.mark.parametrize("dtype", [np.float64, np.int16, np.uint8])
def test_other_real_numbers_become_float32(gpu, rng, dtype):
    x = rng.integers(0, 5, (20, 6)).astype(dtype)
    c = x[:3].astype(np.float32)
    labels = gpu.asnumpy(mv.assign(gpu.asarray(x), c))
    np.testing.assert_array_equal(labels, reference.assign(x.astype(np.float32), c))


def make(library, x, element):
    """Return an array of `library`, on its GPU if it has one."""
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
    """Arrays of other libraries arrive and return by DLPack. On the host, CPU arrays stand in for them."""

    def test_the_result_has_the_library_of_the_input(self, gpu, rng, library, element, monkeypatch):
        x, offsets, c = batch(rng, [5, 30], 4, 8)
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

    def test_the_input_is_not_copied(self, gpu, rng, library, element, monkeypatch):
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
