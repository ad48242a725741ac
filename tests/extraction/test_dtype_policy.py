"""Keras' global dtype policy and floatx change no descriptor, and are restored."""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
from sklearn.base import clone

from medvlad import CNNDescriptors, InputError

keras = pytest.importorskip("keras", reason="needs the extra tensorflow")

from support import tiny_networks  # noqa: E402

#: Engine of networks other than VGG.
MOBILENET = "openvino" if find_spec("openvino") else "keras"


def globals_of_keras():
    return keras.config.dtype_policy().name, keras.config.floatx()


@pytest.fixture(
    params=["policy float16", "policy mixed_bfloat16", "policy float64", "floatx float16", "floatx float64"]
)
def other_globals(request):
    """Set Keras' globals as another program of the process may have set them; return them."""
    which, dtype = request.param.split()
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    if which == "floatx":
        keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    yield globals_of_keras()
    keras.config.set_dtype_policy(policy)
    keras.config.set_floatx(floatx)


@pytest.fixture(scope="module", params=list(tiny_networks.TINY))
def with_default_globals(request, tmp_path_factory):
    """Return a network, an image, and what the network makes of it while Keras has its default globals."""
    folder = tmp_path_factory.mktemp("float32")
    image = np.random.default_rng(5).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        path = folder / "seeded.weights.h5"
        layer = tiny_networks.install(request.param, patch.setattr, path)
        network = CNNDescriptors(request.param, layer, weights=path, store=folder / "store")
        yield network, image, made_by(clone(network), image)


def made_by(network, image):
    """Return the section's settings, the engine, and the bits of the descriptors."""
    section = network.store_section()
    values = network.set_params(store=None).transform([image]).values
    return section.settings, network.engine_, values.tobytes()


def test_the_networks_of_these_tests_run_in_different_engines(with_default_globals):
    network, _, (_, engine, _) = with_default_globals
    assert engine == {"VGG16": "native", "MobileNetV2": MOBILENET}[network.model]


def test_other_globals_of_keras_change_nothing(with_default_globals, other_globals):
    network, image, expected = with_default_globals
    assert made_by(clone(network), image) == expected
    assert globals_of_keras() == other_globals


def test_other_globals_of_keras_change_nothing_in_threads(with_default_globals, other_globals):
    """A policy belongs to a thread, floatx to the process."""
    network, image, expected = with_default_globals
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(made_by, clone(network), image) for _ in range(4)]
        assert [one.result() == expected for one in running] == [True] * 4
    assert globals_of_keras() == other_globals


def test_globals_that_change_after_the_network_is_built_change_nothing(with_default_globals):
    network, image, (_, _, expected) = with_default_globals
    built = clone(network).set_params(store=None).build()
    policy = keras.config.dtype_policy()
    keras.config.set_floatx("float16")
    keras.config.set_dtype_policy("float16")
    try:
        assert built.transform([image]).values.tobytes() == expected
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy(policy)


def test_globals_are_restored_after_an_error():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with pytest.raises(InputError, match="no layer 'nothing'"):
            CNNDescriptors("MobileNetV2", "nothing").build()
        assert keras.config.dtype_policy().name == "mixed_float16"
    finally:
        keras.config.set_dtype_policy(policy)


@pytest.mark.parametrize("nested", [False, True])
def test_a_network_of_other_arithmetic_is_refused(monkeypatch, nested):
    """Somebody may have put such a network in the place of a Keras application."""
    real = keras.applications.MobileNetV2

    def half(*arguments, **options):
        pixels = keras.Input((None, None, 3))
        inner = keras.Sequential([keras.layers.Conv2D(4, 3, dtype="mixed_float16", name="odd")])
        maps = inner(pixels) if nested else inner.layers[0](pixels)
        return keras.Model(pixels, keras.layers.Activation("relu", name="out_relu", dtype="float32")(maps))

    half.__name__, half.__module__ = real.__name__, real.__module__
    monkeypatch.setattr(keras.applications, "MobileNetV2", half)
    monkeypatch.setattr(
        "medvlad.extraction.networks.keras_network.fill_network", lambda network, *_, **__: network
    )
    with pytest.raises(InputError, match=r"layer 'odd' of MobileNetV2 computes in float16"):
        CNNDescriptors("MobileNetV2", "out_relu").build()
