"""A GPU that runs out of memory. Only CuPy's stand-in can be told how much memory it has."""

import numpy as np
import pytest
from support.batches import batch

from medvlad import InputError
from medvlad.backends import cuda, cuda_transfer, reference
from medvlad.descriptors.gpu_array import GpuArray


def test_blocks_of_host_images_that_do_not_fit_are_halved(cuda_on_host, rng, monkeypatch):
    x, offsets, c = batch(rng, [10] * 32, 4, 16)
    monkeypatch.setattr(cuda_on_host.Memory, "limit", 5000)  # 7 images of 640 bytes
    expected = reference.encode(x, offsets, c)
    np.testing.assert_allclose(cuda.encode(x, offsets, c), expected, rtol=0, atol=6e-8)
    labels = np.empty(len(x), np.int32)
    cuda.encode(x, offsets, c, labels_out=labels)
    np.testing.assert_array_equal(labels, reference.assign(x, c))


def test_blocks_of_images_on_the_gpu_that_do_not_fit_are_halved(cuda_on_host, rng, monkeypatch):
    x, offsets, c = batch(rng, [60] * 16, 40, 16)
    on_gpu, out = GpuArray(cuda_on_host.asarray(x)), cuda_on_host.empty((16, 640), np.float32)
    monkeypatch.setattr(cuda_on_host.Memory, "limit", 4200)
    encoded = cuda.encode(on_gpu, offsets, c, out=out)
    np.testing.assert_allclose(
        cuda_on_host.asnumpy(encoded), reference.encode(x, offsets, c), rtol=0, atol=6e-8
    )


@pytest.fixture
def small_and_large(rng):
    """An image of 3 descriptors and one of 400, and centres."""
    return batch(rng, [3, 400], 4, 16)


def test_a_single_image_that_does_not_fit_is_named(cuda_on_host, small_and_large, monkeypatch):
    monkeypatch.setattr(cuda_on_host.Memory, "limit", 9000)
    with pytest.raises(InputError, match="image 1 does not fit into the GPU's memory"):
        cuda.encode(*small_and_large)


def test_descriptors_for_kmeans_that_do_not_fit_are_named(cuda_on_host, small_and_large, monkeypatch):
    monkeypatch.setattr(cuda_on_host.Memory, "limit", 9000)
    with pytest.raises(InputError, match="403 descriptors of 16 numbers do not fit"):
        cuda.place(small_and_large[0])


def test_centres_that_do_not_fit_are_named(cuda_on_host, small_and_large, monkeypatch):
    monkeypatch.setattr(cuda_on_host.Memory, "limit", 1000)
    with pytest.raises(InputError, match="4 centres of 16 numbers do not fit"):
        cuda.encode(*small_and_large)


def test_blocks_of_host_rows_to_label_are_halved(cuda_on_host, rng, monkeypatch):
    x, _, c = batch(rng, [900], 4, 16)
    monkeypatch.setattr(cuda_transfer, "_STEP_ROWS", 100)
    monkeypatch.setattr(cuda_on_host.Memory, "limit", 20_000)
    np.testing.assert_array_equal(cuda.assign(x, c), reference.assign(x, c))
    monkeypatch.setattr(cuda_on_host.Memory, "limit", 5000)
    with pytest.raises(InputError, match="block 0, of 100 descriptors, does not fit"):
        cuda.assign(x, c)


def test_kmeans_that_does_not_fit_is_an_input_error(cuda_on_host, rng, monkeypatch):
    x, _, c = batch(rng, [900], 4, 16)
    on_gpu = cuda.place(x)
    monkeypatch.setattr(cuda_on_host.Memory, "limit", 5000)
    with pytest.raises(InputError, match="the GPU's memory is not enough"):
        cuda.squared_distances(on_gpu, c, np.zeros(900, np.int32))


def test_an_output_that_does_not_fit_is_named(cuda_on_host, rng, monkeypatch):
    x, offsets, c = batch(rng, [1] * 100, 40, 16)
    on_gpu = GpuArray(cuda_on_host.asarray(x))
    monkeypatch.setattr(cuda_on_host.Memory, "limit", 100_000)
    with pytest.raises(InputError, match="100 encoded images of 640 numbers do not fit"):
        cuda.encode(on_gpu, offsets, c)
