"""Several layers come from one pass, with the descriptors that each of them has alone."""

import numpy as np
import pytest

from medvlad import CNNDescriptors, InputError
from medvlad.extraction import many_layers
from medvlad.extraction.efficientnet_lite import EfficientNetLite2
from medvlad.extraction.many_layers import extract_layers, last_layers

keras = pytest.importorskip("keras", reason="needs the extra tensorflow")

LAYERS = ["block_1_depthwise_relu", "block_2_add"]


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (60 + 9 * i, 80, 3), dtype=np.uint8) for i in range(3)]


@pytest.fixture
def extractor(small_weights, tmp_path):
    return CNNDescriptors("mobilenetv2", "block_2_add", weights=small_weights, store=tmp_path / "store")


@pytest.mark.parametrize("engine", ["auto", "keras"])
@pytest.mark.parametrize("mirror", [False, True])
def test_each_layer_has_the_descriptors_that_it_has_alone(extractor, pictures, engine, mirror):
    extractor.set_params(engine=engine, mirror=mirror)
    found, report = extract_layers(extractor, pictures, LAYERS)
    assert report.n_extracted == 3
    for one in found:
        alone = CNNDescriptors(
            "mobilenetv2", one.layer, weights=extractor.weights, engine=engine, mirror=mirror
        )
        wanted = alone.transform(pictures)
        assert np.array_equal(one.descriptors.offsets, wanted.offsets)
        np.testing.assert_allclose(one.descriptors.load().values, wanted.values, atol=1e-5)
        assert one.grid == alone.grids_[0]


def test_the_store_is_that_of_the_layer_alone(extractor, pictures):
    extract_layers(extractor, pictures, LAYERS)
    for layer in LAYERS:
        assert extractor.set_params(layer=layer).extract(pictures) == 0
    assert extract_layers(extractor, pictures, LAYERS)[1].n_extracted == 0


def test_the_network_runs_once_for_all_layers(extractor, pictures, monkeypatch):
    extractor.set_params(layer=LAYERS[0]).extract(pictures[:1])  # one layer of one image is there already
    batches = []
    original = many_layers.make_engine

    def counted(*arguments, **settings):
        compute = original(*arguments, **settings)
        return lambda pixels: batches.append(len(pixels)) or compute(pixels)

    monkeypatch.setattr(many_layers, "make_engine", counted)
    extractor.set_params(layer=LAYERS[1])
    found, _ = extract_layers(extractor, pictures, LAYERS)
    assert sum(batches) == 3
    assert all(len(one.descriptors) == 3 for one in found)


def test_unreadable_images_are_skipped_in_every_layer(extractor, pictures, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    extractor.set_params(on_error="skip")
    found, report = extract_layers(extractor, [pictures[0], str(tmp_path / "bad.png")], LAYERS)
    assert [index for index, _ in report.skipped] == [1]
    assert all(len(one.descriptors[1]) == 0 < len(one.descriptors[0]) for one in found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scales": (0, 1)}, "need a store and one scale"),
        ({"store": None}, "need a store and one scale"),
        ({"dtype": "int8"}, "cannot be extracted in int8"),
    ],
)
def test_settings_that_do_not_work_are_refused(extractor, pictures, settings, message):
    with pytest.raises(InputError, match=message):
        extract_layers(extractor.set_params(**settings), pictures, LAYERS)


def test_the_last_layers_of_known_networks():
    lite = EfficientNetLite2()
    assert last_layers(lite, 5) == ["block19", "block20_expand", "block20_depthwise", "block20", "head"]
    vgg = keras.applications.VGG16(weights=None, include_top=False)
    assert last_layers(vgg, 3) == ["block5_conv2", "block5_conv3", "block5_pool"]
    resnet = keras.applications.ResNet50(weights=None, include_top=False)
    assert last_layers(resnet, 3) == ["conv5_block1_out", "conv5_block2_out", "conv5_block3_out"]
    assert len(last_layers(vgg, 99)) == 18  # 13 convolutions and 5 poolings


def test_layers_inside_a_branch_are_no_candidates():
    pixels = keras.Input((32, 32, 3))
    start = keras.layers.Conv2D(4, 1, name="start")(pixels)
    inside = keras.layers.Conv2D(4, 1, name="inside")(start)
    joined = keras.layers.Add(name="sum")([start, inside])
    end = keras.layers.ReLU(name="end")(keras.layers.Conv2D(4, 1, name="last")(joined))
    assert last_layers(keras.Model(pixels, end), 9) == ["start", "sum", "end"]
