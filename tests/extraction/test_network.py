"""FrozenNetwork: what a network that is cut at a layer says about itself."""

from types import SimpleNamespace

import pytest

from medvlad.extraction.networks import FrozenNetwork, build_network, network_key
from medvlad.extraction.scales import check_sides, input_side
from medvlad.extraction.weights import fingerprint


def network(output_shape, input_side=None, strides=32):
    """Return a network whose feature maps are smaller than its input by `strides`."""
    width = output_shape[-1]
    maps = len(output_shape) == 4
    model = SimpleNamespace(
        output_shape=output_shape,
        input_shape=(None, input_side, input_side, 3),
        compute_output_shape=lambda s: (
            (s[0], s[1] // strides, s[2] // strides, width) if maps else (s[0], width)
        ),
    )
    return FrozenNetwork("vgg16", "block5_pool", "imagenet", model, lambda pixels: pixels, "0" * 64)


def test_the_side_of_the_input_grows_by_320_pixels_a_scale():
    assert [input_side(s) for s in (0, 1, 2)] == [224, 544, 864]


def test_a_feature_map_gives_a_grid_of_descriptors():
    maps = network((None, None, None, 512))
    assert maps.n_features == 512
    assert [maps.grid(input_side(scale)) for scale in (0, 1, 2)] == [(7, 7), (17, 17), (27, 27)]


def test_a_vector_gives_one_descriptor():
    vector = network((None, 4096), input_side=224)
    assert vector.n_features == 4096
    assert vector.grid(224) == (1, 1)


def test_only_a_network_with_a_fixed_input_has_an_only_side():
    assert network((None, 4096), input_side=224).only_side == 224
    assert network((None, None, None, 512)).only_side is None


def test_the_key_of_a_network_changes_with_each_parameter(tmp_path):
    first = network_key("vgg16", "block5_pool", "imagenet")
    assert first == network_key("vgg16", "block5_pool", "imagenet")
    others = [
        network_key("vgg19", "block5_pool", "imagenet"),
        network_key("vgg16", "block4_pool", "imagenet"),
        network_key("vgg16", None, "imagenet"),
        network_key("vgg16", "block5_pool", "bundled"),
        network_key("timm:vgg16", "block5_pool", "imagenet"),
        network_key("timm:vgg16", "block5_pool", "imagenet", preprocess="raw"),
        network_key("timm:vgg16", "block5_pool", "imagenet", prefix_tokens=1),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_other_sides_than_the_only_one_are_refused():
    vector = network((None, 4096), input_side=224)
    check_sides(vector, (224,))
    with pytest.raises(ValueError, match=r"takes 224 x 224 pixels only, got 224, 544: use scales=\(0,\)"):
        check_sides(vector, (224, 544))


def test_a_network_does_not_change():
    with pytest.raises(AttributeError):
        network((None, 4096)).layer = "fc1"


def test_a_built_network_has_its_source_and_its_weights(monkeypatch, tmp_path):
    pytest.importorskip("keras", reason="needs the extra tensorflow")
    from support import tiny_networks

    weights = tmp_path / "tiny.weights.h5"
    layer = tiny_networks.install("VGG16", monkeypatch.setattr, weights)
    built = build_network("vgg16", layer, weights)
    assert (built.model, built.layer, built.source) == ("vgg16", layer, str(weights))
    assert built.fingerprint == fingerprint(built.cut)
    assert built.grid(224) == (56, 56)
    assert not built.cut.trainable
