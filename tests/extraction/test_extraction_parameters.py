"""Parameters of CNNDescriptors: wrong ones are refused, changed ones build the network again."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone

from medvlad import CNNDescriptors, InputError

keras = pytest.importorskip("keras", reason="needs the extra tensorflow")

from support import tiny_networks  # noqa: E402


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A tiny network in the place of MobileNetV2."""
    weights = tmp_path / "tiny.weights.h5"
    layer = tiny_networks.install("MobileNetV2", monkeypatch.setattr, weights)
    return CNNDescriptors("MobileNetV2", layer, weights=weights)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (60 + 9 * i, 80, 3), dtype=np.uint8) for i in range(5)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "vgg18"}, "Keras has no network 'vgg18': did you mean vgg1"),
        ({"model": "xyzzy"}, "use one of .*vgg19"),
        ({"model": 7}, "model must be a name of keras.applications, .*, got 7"),
        ({"layer": "block5_pool"}, "MobileNetV2 has no layer 'block5_pool': "),
        ({"layer": "out_rely"}, "did you mean 'out_relu'"),
        ({"scales": ()}, "scales must be one or more different integers"),
        ({"scales": (0, 0)}, "scales must be one or more different integers"),
        ({"scales": (-1,)}, "got -1"),
        ({"scales": (0.5,)}, r"got 0\.5"),
        ({"scales": 0.5}, r"got 0\.5"),
        ({"scales": None}, "got None"),
        ({"weights": None}, "weights must be 'imagenet', 'bundled' or a file .*, got None"),
        ({"layer": 7}, "layer must be the name of a layer, got 7"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"resize": "magic"}, "resize must be one of nearest, .*got 'magic'"),
        ({"on_error": "ignore"}, "on_error must be one of raise, skip, got 'ignore'"),
    ],
)
def test_a_wrong_parameter_is_refused_in_one_sentence(small, change, message):
    with pytest.raises(InputError, match=message) as error:
        small.set_params(**change).fit()
    assert "\n" not in str(error.value)


def test_a_layer_behind_fully_connected_ones_takes_one_side_only(monkeypatch):
    keras.utils.set_random_seed(0)
    monkeypatch.setattr(
        "medvlad.extraction.networks.keras_network.fill_network", lambda network, *a, include_top: network
    )
    top = CNNDescriptors("MobileNetV2", "predictions", scales=(1,))
    with pytest.raises(InputError, match="takes 224 x 224 pixels only") as error:
        top.fit()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "images",
    ["picture.png", b"x", None, 3, {"a": 1}, {"a"}, iter(()), np.zeros((30, 40, 3), np.uint8), np.zeros(())],
)
def test_one_image_is_not_a_list(small, images):
    """A single (H, W, 3) array could be taken for H grey images of W x 3 pixels."""
    with pytest.raises(InputError, match="put it into a list") as error:
        small.transform(images)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("progress", "shown"), [(None, False), (False, False), (True, True)])
def test_a_progress_bar_goes_to_standard_error_if_asked_for(small, pictures, capsys, progress, shown):
    """None: no bar, because this is no terminal."""
    small.set_params(progress=progress).transform(pictures[:1])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("descriptors" in captured.err) == shown


def test_a_pickled_estimator_gives_the_same_descriptors_without_its_network(small, pictures):
    expected = small.transform(pictures[:1]).values
    dump = pickle.dumps(small)
    assert len(dump) < 10_000
    np.testing.assert_array_equal(pickle.loads(dump).transform(pictures[:1]).values, expected)


def test_a_clone_has_no_network(small):
    assert small.build().network_ is not None
    assert not hasattr(clone(small), "network_")


def test_the_same_parameters_do_not_build_the_network_again(small):
    network = small.build().network_
    assert small.set_params(scales=(0, 1), batch_size=3, n_threads=1).build().network_ is network


def test_changed_parameters_build_the_network_again(small, vgg16_file, pictures):
    first = small.fit().weights_fingerprint_
    small.set_params(model="vgg16", layer="block1_pool", weights=vgg16_file)
    assert small.transform(pictures[:1]).n_features == 64
    assert small.weights_fingerprint_ != first


def test_the_engine_is_made_once(small, pictures, monkeypatch):
    small.transform(pictures[:1])
    monkeypatch.setattr("medvlad.extraction.cnn_descriptors.make_engine", None)
    small.set_params(scales=(0,), batch_size=1).transform(pictures[:2])
