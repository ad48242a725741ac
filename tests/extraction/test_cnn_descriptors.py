"""CNNDescriptors gives the descriptors of the network used by hand, for any list of images."""

import numpy as np
import pytest
from conftest import BATCH_TOLERANCE
from PIL import Image
from sklearn.base import clone

from medvlad import CNNDescriptors, InputError
from medvlad.images.read import load_image
from medvlad.images.resize import resize_square

keras = pytest.importorskip("keras", reason="needs the extra tensorflow")


@pytest.fixture(scope="module")
def vgg19_weights(tmp_path_factory):
    """Seeded VGG19 convolutions; real ones are not needed to test the path."""
    keras.utils.set_random_seed(1)
    path = tmp_path_factory.mktemp("vgg19") / "vgg19.weights.h5"
    keras.applications.VGG19(weights=None, include_top=False).save_weights(path)
    return path


@pytest.fixture(scope="module")
def vgg19(vgg19_weights):
    return CNNDescriptors(weights=vgg19_weights)


@pytest.fixture
def small(tiny_weights):
    """A cheap network: 49 descriptors of 32 numbers at scale 0."""
    return CNNDescriptors("MobileNetV2", "out_relu", weights=tiny_weights)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (60 + 9 * i, 80, 3), dtype=np.uint8) for i in range(5)]


def by_hand(weights, pictures, scale):
    """VGG19's block5_pool (B, h * w, 512), from Keras alone."""
    network = keras.applications.VGG19(weights=None, include_top=False)
    network.load_weights(weights)
    side = 224 + 320 * scale
    batch = np.stack(
        [np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.BILINEAR)) for p in pictures]
    )
    maps = network(keras.applications.vgg19.preprocess_input(batch.astype("float32")))
    return keras.ops.convert_to_numpy(maps).reshape(len(pictures), -1, 512)


def test_defaults_are_the_network_of_the_paper(vgg19):
    assert (vgg19.model, vgg19.build().network_.layer, vgg19.scales) == ("vgg19", "block5_pool", (0,))


def test_descriptors_are_those_of_the_network_by_hand(vgg19, vgg19_weights, pictures):
    got = vgg19.transform(pictures[:2])
    assert got.offsets.tolist() == [0, 49, 98]
    assert got.n_features == 512
    expected = by_hand(vgg19_weights, pictures[:2], 0)
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(got.values.reshape(2, 49, 512), expected, rtol=0, atol=BATCH_TOLERANCE * scale)


@pytest.mark.slow
def test_scales_come_in_the_given_order(vgg19_weights, pictures):
    got = CNNDescriptors(weights=vgg19_weights, scales=(1, 0)).transform(pictures[:2])
    assert got.offsets.tolist() == [0, 289 + 49, 2 * (289 + 49)]
    for i in range(2):
        for part, scale in ((got[i][:289], 1), (got[i][289:], 0)):
            expected = by_hand(vgg19_weights, pictures[i : i + 1], scale)[0]
            np.testing.assert_allclose(part, expected, atol=BATCH_TOLERANCE * np.abs(expected).max())


def test_mirror_adds_the_descriptors_of_the_mirror_image(vgg19_weights, pictures, tmp_path):
    """At each scale an image's own descriptors come first. The store has a section of its own for them."""
    plain = CNNDescriptors(weights=vgg19_weights, store=tmp_path)
    both = CNNDescriptors(weights=vgg19_weights, store=tmp_path, mirror=True)
    square = [resize_square(load_image(picture), 224) for picture in pictures[:2]]
    got, own = both.transform(square), plain.transform(square)
    mirrored = plain.transform([np.ascontiguousarray(picture[:, ::-1]) for picture in square])
    assert got.offsets.tolist() == [0, 98, 196]
    assert (both.grids_, both.mirrored_) == (((7, 7), (7, 7)), (False, True))
    assert (plain.grids_, plain.mirrored_) == (((7, 7),), (False,))
    for i in range(2):
        np.testing.assert_allclose(got[i][:49], own[i], atol=BATCH_TOLERANCE * own[i].max())
        np.testing.assert_allclose(got[i][49:], mirrored[i], atol=BATCH_TOLERANCE * own[i].max())
        assert np.abs(got[i][:49] - got[i][49:]).max() > 0.01 * own[i].max()


@pytest.mark.slow
def test_the_largest_scale_of_the_paper_works(vgg19_weights, pictures):
    transformer = CNNDescriptors(weights=vgg19_weights, scales=2)
    assert transformer.transform(pictures[:1]).offsets.tolist() == [0, 27 * 27]
    assert transformer.input_sides_ == (864,)


@pytest.mark.parametrize(
    "batch_size", [3, pytest.param(1, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)
def test_the_batch_size_changes_nothing(small, pictures, batch_size):
    whole = small.transform(pictures)
    cut = clone(small).set_params(batch_size=batch_size).transform(pictures)
    np.testing.assert_array_equal(cut.offsets, whole.offsets)
    np.testing.assert_allclose(cut.values, whole.values, atol=BATCH_TOLERANCE * np.abs(whole.values).max())


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_paths_give_the_descriptors_of_their_pixels(small, pictures, tmp_path, kind):
    paths = [tmp_path / f"{i}.png" for i in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    found = small.transform([kind(path) for path in paths])
    np.testing.assert_array_equal(found.values, small.transform(pictures).values)


def test_one_array_gives_the_descriptors_of_its_images(small, pictures):
    array = np.stack([resize_square(load_image(p), 100) for p in pictures])
    np.testing.assert_array_equal(small.transform(array).values, small.transform(list(array)).values)


def test_images_are_not_changed(vgg19, pictures):
    before = pictures[0].copy()
    vgg19.transform(pictures[:1])
    np.testing.assert_array_equal(pictures[0], before)


def test_the_resize_filter_is_a_parameter_that_matters(small, pictures):
    other = clone(small).set_params(resize="nearest").transform(pictures[:1])
    assert (other.values != small.transform(pictures[:1]).values).any()


def test_no_images_give_no_descriptors(small):
    got = small.transform([])
    assert len(got) == 0
    assert got.n_features == 32


@pytest.fixture
def with_unreadable(pictures, tmp_path):
    """Two good images, and two that cannot be read."""
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    return [pictures[0], bad, pictures[1], tmp_path / "gone.png"]


def test_an_unreadable_image_is_named(small, with_unreadable):
    with pytest.raises(InputError, match=r"bad\.png"):
        small.transform(with_unreadable)


def test_skipped_images_have_no_descriptors(small, with_unreadable):
    got = small.set_params(on_error="skip").transform(with_unreadable)
    assert np.diff(got.offsets).tolist() == [49, 0, 49, 0]
    alone = clone(small).transform(with_unreadable[2:3])[0]  # in another batch
    np.testing.assert_allclose(got[2], alone, rtol=0, atol=BATCH_TOLERANCE * np.abs(alone).max())


def test_skipped_images_are_listed(small, with_unreadable):
    small.set_params(on_error="skip").transform(with_unreadable)
    assert [i for i, _ in small.skipped_] == [1, 3]
    assert "bad.png" in small.skipped_[0][1]


def test_all_images_may_be_skipped(small, with_unreadable):
    assert len(small.set_params(on_error="skip").transform(with_unreadable[1:2])) == 1


def test_an_array_that_is_no_image_is_named(small, pictures):
    with pytest.raises(InputError, match=r"image 1: .*float64"):
        small.transform([pictures[0], np.zeros((5, 5))])


def test_images_are_taken_by_position_not_by_label(small, pictures):
    """A shuffled column of a data frame is such a list: its [0] is the row with the label 0."""

    class Column:
        def __len__(self):
            return 2

        def __iter__(self):
            return iter(pictures[:2])

        def __getitem__(self, label):
            return pictures[1 - label]

    np.testing.assert_array_equal(small.transform(Column()).values, small.transform(pictures[:2]).values)


def test_numbers_that_are_not_finite_are_refused(small, pictures, monkeypatch):
    monkeypatch.setattr(
        "medvlad.extraction.cnn_descriptors.make_engine",
        lambda *_, **__: lambda x: np.full((len(x), 7, 7, 32), np.nan),
    )
    with pytest.raises(InputError, match="not finite for image 0"):
        small.transform(pictures)


@pytest.mark.slow
def test_a_fully_connected_layer_gives_one_descriptor(tmp_path, pictures):
    keras.utils.set_random_seed(0)
    path = tmp_path / "top.weights.h5"
    network = keras.applications.MobileNet(weights=None)
    network.save_weights(path)
    top = CNNDescriptors("mobilenet", "predictions", weights=path)
    got = top.transform(pictures[:2])
    assert got.offsets.tolist() == [0, 1, 2]
    assert got.n_features == 1000
    np.testing.assert_allclose(got.values.sum(axis=1), 1, rtol=1e-5)


@pytest.fixture(scope="module")
def vgg16_with_top(tmp_path_factory):
    """Half a gigabyte of weights."""
    keras.utils.set_random_seed(0)
    network = keras.applications.VGG16(weights=None)
    path = tmp_path_factory.mktemp("top") / "top.weights.h5"
    network.save_weights(path)
    yield network, path
    path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["fc1", "fc2"])
def test_fc1_and_fc2_of_vgg16_are_those_by_hand(vgg16_with_top, pictures, layer):
    network, path = vgg16_with_top
    got = CNNDescriptors("vgg16", layer, weights=path).transform(pictures[:1])
    assert got.values.shape == (1, 4096)
    cut = keras.Model(network.input, network.get_layer(layer).output)
    pixels = resize_square(pictures[0], 224)[None].astype("float32")
    expected = keras.ops.convert_to_numpy(cut(keras.applications.vgg16.preprocess_input(pixels)))
    np.testing.assert_allclose(got.values, expected, atol=BATCH_TOLERANCE * np.abs(expected).max())


@pytest.mark.slow
def test_a_layer_of_resnet50_gives_a_grid(tmp_path, pictures):
    keras.utils.set_random_seed(0)
    keras.applications.ResNet50(weights=None, include_top=False).save_weights(tmp_path / "r.weights.h5")
    got = CNNDescriptors("resnet50", "conv3_block4_out", weights=tmp_path / "r.weights.h5").transform(
        pictures[:1]
    )
    assert got.values.shape == (28 * 28, 512)


@pytest.mark.data
def test_real_descriptors_are_sparse(data_dir, vgg16_weights):
    """Rooms through VGG16: no number is negative, and about a tenth are not zero."""
    paths = sorted((data_dir / "rooms_dev" / "train" / "kitchen").glob("*"))[:4]
    got = CNNDescriptors("vgg16", weights=vgg16_weights).transform(paths)
    assert got.values.min() == 0
    assert 0.05 < (got.values > 0).mean() < 0.2
