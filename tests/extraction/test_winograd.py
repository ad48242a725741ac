"""Convolutions by Winograd's method agree with float64, on every instruction set of this machine.

Tolerance: the transforms B^T, G and A^T make numbers larger before they cancel, which adds to the rounding of
products and sums. The largest error is 2e-6 of the largest number on random layers, and 2.4e-6 with VGG16's
weights and real images. Eight times as much is allowed.
"""

from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest
from conftest import REQUIRED
from support.convnets import chain, convolution, pictures

from medvlad._util.validate import InputError
from medvlad.extraction.engines.winograd import ConvNet, Convolution, Pooling, layers_of

native = pytest.importorskip("medvlad.backends.native", reason="native was not built")

#: Largest error of a few random layers, relative to the largest number.
TOLERANCE = 2e-5
#: Largest promised error of VGG16 with its real weights, relative to the largest number.
PROMISED = 1e-4

SIDES = [(2, 2), (4, 4), (5, 7), (19, 3), (8, 9), (17, 18)]


@pytest.fixture(params=native.LEVELS)
def level(request, monkeypatch):
    """Each instruction set in turn."""
    if request.param not in native.available_levels():
        if request.param in importlib.import_module("medvlad.backends._native_portable").supported_levels():
            message = f"level {request.param} can run here and was not built"
            pytest.fail(message) if "native" in REQUIRED else pytest.skip(message)
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setenv("MEDVLAD_SIMD", request.param)
    return request.param


def expected(layers, images):
    """Compute the network in float64, by its definition."""
    x = images.astype(np.float64)
    for layer in layers:
        _, h, w, _ = x.shape
        if isinstance(layer, Pooling):
            x = x[:, : h // 2 * 2, : w // 2 * 2]
            x = np.maximum(
                np.maximum(x[:, ::2, ::2], x[:, 1::2, ::2]), np.maximum(x[:, ::2, 1::2], x[:, 1::2, 1::2])
            )
            continue
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        kernel = layer.kernel.astype(np.float64)
        x = layer.bias + sum(
            padded[:, i : i + h, j : j + w] @ kernel[i, j] for i, j in itertools.product(range(3), repeat=2)
        )
        if layer.relu:
            x = np.maximum(x, 0)
    return x


def check(layers, images, n_threads=2, tolerance=TOLERANCE):
    got = ConvNet(layers).run(images, n_threads=n_threads)
    exact = expected(layers, images)
    assert got.shape == exact.shape
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, exact, rtol=0, atol=tolerance * np.abs(exact).max(initial=0))
    return got


@pytest.mark.parametrize("n_out", [1, 5, 64, 70])
@pytest.mark.parametrize("n_in", [1, 3, 5, 17, 64, 70])
def test_one_convolution_agrees_with_float64(level, rng, n_in, n_out):
    layers = chain(rng, n_in, n_out)
    for h, w in SIDES:
        check(layers, pictures(rng, 2, h, w, n_in))


@pytest.mark.parametrize(
    "widths", [(3, 16, 0), (3, 0, 7, 33, 0), (20, 24, 0, 40, 0), (5, 3, 0, 0, 4), (300, 65, 0)]
)
def test_poolings_agree_with_float64(level, rng, widths):
    layers = chain(rng, *widths)
    for h, w in [(4, 4), (5, 7), (19, 6), (13, 18)]:
        check(layers, pictures(rng, 3, h, w, widths[0]))


def test_every_size_agrees_with_float64(rng):
    layers = chain(rng, 16, 16)
    for h, w in itertools.product(range(1, 20), repeat=2):
        check(layers, pictures(rng, 1, h, w, 16))


def test_without_relu_numbers_may_be_negative(level, rng):
    layers = [convolution(rng, 3, 20, relu=False), convolution(rng, 20, 20, relu=False), Pooling()]
    assert check(layers, pictures(rng, 2, 9, 9, 3)).min() < 0


def test_no_images_give_no_maps(level, rng):
    assert ConvNet(chain(rng, 3, 17, 0)).run(pictures(rng, 0, 8, 6, 3)).shape == (0, 4, 3, 17)


def test_threads_and_batches_change_no_bit(level, rng):
    # Few channels are computed in another way than many: csrc/core/convnet.hpp.
    for widths, side in [((3, 64, 64, 0, 128), 37), ((64, 300, 320, 0, 256), 13), ((512, 512), 40)]:
        layers = chain(rng, *widths)
        net = ConvNet(layers)
        images = pictures(rng, 3, side, side + 2, widths[0])
        whole = net.run(images, n_threads=1)
        for n_threads in (2, 3, 4, 5):
            assert net.run(images, n_threads=n_threads).tobytes() == whole.tobytes()
        for i in range(3):
            assert net.run(images[i : i + 1], n_threads=2).tobytes() == whole[i : i + 1].tobytes()
        backwards = np.ascontiguousarray(images[::-1])
        assert net.run(backwards, n_threads=2)[::-1].tobytes() == whole.tobytes()


def test_fused_levels_agree_to_the_bit(rng, monkeypatch):
    levels = [name for name in native.available_levels() if name != "portable"]
    if len(levels) < 2:
        pytest.skip("needs two levels with fused multiply-add")
    layers, images = chain(rng, 3, 40, 64, 0, 320, 300), pictures(rng, 2, 15, 18, 3)
    results = set()
    for name in levels:
        monkeypatch.setenv("MEDVLAD_SIMD", name)
        results.add(ConvNet(layers).run(images, n_threads=2).tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_stay_so(level, rng, value):
    layers = chain(rng, 3, 16, 16, 0, 32, 0, 0)
    net = ConvNet(layers)
    for y, x in [(0, 0), (7, 8), (15, 15)]:
        images = pictures(rng, 2, 16, 16, 3)
        images[1, y, x, 2] = value
        got = net.run(images, n_threads=2)
        assert np.isfinite(got[0]).all()
        assert not np.isfinite(got[1]).all()


def test_a_nan_at_any_place_passes_a_pooling(level, rng):
    for widths in [(16, 16, 0), (16, 16, 0, 0), (3, 16, 0)]:
        net = ConvNet(chain(rng, *widths))
        for y, x in itertools.product(range(8), repeat=2):
            images = pictures(rng, 1, 8, 8, widths[0])
            images[0, y, x] = np.nan
            step = 2 ** widths.count(0)
            got = net.run(images)[0, y // step, x // step]
            assert np.isnan(got).all()


def test_weights_are_copied(rng):
    layer = convolution(rng, 3, 4)
    net, images = ConvNet([layer]), pictures(rng, 1, 6, 6, 3)
    before = net.run(images)
    layer.kernel[...] = 0
    assert net.run(images).tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("kernel", "bias", "message"),
    [
        ((3, 3, 4), (4,), r"layer 0: kernel must be \(3, 3, C, D\), got \(3, 3, 4\)"),
        ((5, 5, 3, 4), (4,), r"layer 0: kernel must be \(3, 3, C, D\)"),
        ((3, 3, 3, 0), (0,), r"layer 0: kernel must be \(3, 3, C, D\)"),
        ((3, 3, 3, 4), (3,), r"layer 0: bias must be \(4,\), got \(3,\)"),
    ],
)
def test_arrays_of_a_wrong_shape_are_refused(kernel, bias, message):
    with pytest.raises(InputError, match=message):
        ConvNet([Convolution(np.zeros(kernel, np.float32), np.zeros(bias, np.float32))])


def test_layers_that_do_not_follow_on_each_other_are_refused(rng):
    with pytest.raises(InputError, match="layer 2 takes 5 channels, and the layer before it returns 4"):
        ConvNet([convolution(rng, 3, 4), Pooling(), convolution(rng, 5, 4)])


def test_layers_without_a_convolution_are_refused():
    with pytest.raises(InputError, match="no convolution: a network needs at least one"):
        ConvNet([Pooling()])


def test_weights_of_another_dtype_are_refused():
    doubles = Convolution(np.zeros((3, 3, 1, 1)), np.zeros(1))
    with pytest.raises(InputError, match="layer 0: kernel and bias must be float32, got float64"):
        ConvNet([doubles])


@pytest.fixture
def small_net(rng):
    """A network with two poolings, and an image for it."""
    return ConvNet(chain(rng, 3, 4, 0, 0)), pictures(rng, 1, 8, 8, 3)


def test_images_of_a_wrong_kind_are_refused(small_net):
    net, good = small_net
    for bad in (good[0], good.astype(np.float64), good[:, ::2], good[..., :2].copy(), good.tolist()):
        with pytest.raises(InputError, match="images must be a C-contiguous float32 array"):
            net.run(bad)


def test_images_that_are_too_small_are_refused(small_net, rng):
    net, _ = small_net
    with pytest.raises(InputError, match="at least 4 x 4 pixels for 2 poolings, got 8 x 3"):
        net.run(pictures(rng, 1, 8, 3, 3))


def test_a_wrong_number_of_threads_is_refused(small_net):
    net, good = small_net
    for n_threads in (0, -1, 1.5):
        with pytest.raises(InputError, match="n_threads"):
            net.run(good, n_threads=n_threads)


def test_too_little_memory_is_an_error():
    layers = [Convolution(np.zeros((3, 3, 1, 1 << 19), np.float32), np.zeros(1 << 19, np.float32))]
    net = ConvNet(layers)
    image = np.broadcast_to(np.float32(0), (1, 1 << 10, 1 << 13, 1)).copy()
    with pytest.raises(MemoryError):  # 16 TiB
        net.run(image)


@pytest.mark.data
@pytest.mark.slow
def test_vgg16_with_its_own_weights_agrees_with_float64(data_dir, vgg16_weights, record_property):
    """The error on real images stays below the promise, and is recorded."""
    keras = pytest.importorskip("keras", reason="needs the extra tensorflow")
    from medvlad.images.read import load_image
    from medvlad.images.resize import resize_square

    network = keras.applications.VGG16(weights=None, include_top=False)
    network.load_weights(vgg16_weights)
    paths = [
        next(
            p for p in sorted((data_dir / folder).rglob("*")) if p.suffix.lower() in (".jpg", ".jpeg", ".png")
        )
        for folder in ("chest_xray_224", "rooms_dev")
    ]
    pixels = np.stack([resize_square(load_image(path), 224) for path in paths]).astype(np.float32)
    images = np.ascontiguousarray(keras.applications.vgg16.preprocess_input(pixels))
    layers = layers_of(network)
    got = ConvNet(layers).run(images)
    for i in range(len(images)):
        exact = expected(layers, images[i : i + 1])
        error = np.abs(got[i : i + 1] - exact).max() / exact.max()
        record_property(f"relative error of {paths[i].name}", float(error))  # xdist sends no NumPy
        assert error <= PROMISED
