"""CNNDescriptors with a store: images go through the network once, and damage is repaired."""

import numpy as np
import pytest
from conftest import BATCH_TOLERANCE
from sklearn.base import clone
from support.faults import light_network
from support.store_content import flip, shards

import medvlad as mv
from medvlad import CNNDescriptors, InputError


def same_descriptors(found, expected):
    """Assert that descriptors which other batches may have made are the same up to rounding."""
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    limit = BATCH_TOLERANCE * np.abs(expected.values).max()
    np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=limit)


@pytest.fixture
def pictures(rng):
    return [rng.integers(0, 256, (60 + 9 * i, 80, 3), dtype=np.uint8) for i in range(5)]


@pytest.fixture
def network(tmp_path, monkeypatch):
    light_network(monkeypatch.setattr)
    return CNNDescriptors("vgg16", store=tmp_path / "store")


@pytest.fixture
def no_engine(monkeypatch):
    """From here on, no image may go through the network."""
    monkeypatch.setattr("medvlad.extraction.cnn_descriptors.extract_batches", None)


def test_the_second_time_nothing_is_extracted(network, pictures):
    plain = clone(network).set_params(store=None).transform(pictures)
    for n_extracted in (5, 0):
        found = network.transform(pictures)
        np.testing.assert_array_equal(found.values, plain.values)
        np.testing.assert_array_equal(found.offsets, plain.offsets)
        assert network.n_extracted_ == n_extracted


def test_stored_images_need_no_network(network, pictures, request):
    expected = network.transform(pictures)
    request.getfixturevalue("no_engine")
    shuffled = network.transform([pictures[3], pictures[0], pictures[3]])
    np.testing.assert_array_equal(shuffled[0], expected[3])
    np.testing.assert_array_equal(shuffled[1], expected[0])
    np.testing.assert_array_equal(shuffled[2], expected[3])


def test_extract_counts_new_images(network, pictures):
    assert network.extract(pictures[:2]) == 2
    assert network.extract([*pictures, pictures[0]]) == 3
    assert network.extract(pictures) == 0


def test_extract_needs_a_store(network, pictures):
    with pytest.raises(InputError, match="extract needs a store"):
        network.set_params(store=None).extract(pictures)


def test_a_section_needs_a_store(network):
    with pytest.raises(InputError, match="there is no store: CNNDescriptors"):
        network.set_params(store=None).store_section()


def test_other_settings_are_extracted_anew(network, pictures):
    network.extract(pictures)
    assert clone(network).set_params(resize="nearest").extract(pictures) == 5
    assert clone(network).set_params(batch_size=2, progress=False).extract(pictures) == 0


@pytest.mark.parametrize("mirror", [False, True])
def test_scales_are_joined_from_single_ones(network, pictures, mirror, request):
    network.set_params(mirror=mirror)
    both = clone(network).set_params(scales=(1, 0))
    expected = clone(both).set_params(store=None).transform(pictures)
    network.extract(pictures)
    clone(network).set_params(scales=1).extract(pictures[1:])
    assert both.extract(pictures[:2]) == 1  # scale 1 of the first image is missing
    request.getfixturevalue("no_engine")
    found = both.transform(pictures)
    same_descriptors(found, expected)
    assert both.n_extracted_ == 0


def test_a_damaged_image_is_extracted_again(network, pictures):
    expected = network.transform(pictures)
    (shard,) = network.store_section().path.glob("*.shard")
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    found = clone(network).transform(pictures)
    same_descriptors(found, expected)


def test_a_damaged_shard_is_replaced_by_one_of_the_same_name(network, pictures):
    """A shard of one image gets its old name. The image is read from the new file."""
    expected = network.transform(pictures[:1])
    (shard,) = network.store_section().path.glob("*.shard")
    flip(shard)
    found = clone(network).transform(pictures[:1])
    np.testing.assert_array_equal(found.values, expected.values)
    assert [shard] == list(shard.parent.glob("*.shard"))


def test_a_store_that_damages_everything_is_an_error(network, pictures, monkeypatch):
    network.transform(pictures)
    monkeypatch.setattr("medvlad.store.store.Section.get", lambda *_: None)
    with pytest.raises(InputError, match="check its disk"):
        network.transform(pictures)


@pytest.fixture
def unreadable(tmp_path):
    """Two files with the same content, which is no image."""
    files = [tmp_path / "bad.png", tmp_path / "copy.png"]
    for file in files:
        file.write_bytes(b"no image")
    return files


def test_skipped_images_have_no_descriptors(network, pictures, unreadable, tmp_path):
    network.set_params(on_error="skip")
    images = [pictures[0], unreadable[0], tmp_path / "none.png", unreadable[1], pictures[1]]
    found = network.transform(images)
    assert np.diff(found.offsets).tolist() == [49, 0, 0, 0, 49]
    assert [i for i, _ in network.skipped_] == [1, 2, 3]


def test_an_image_that_does_not_exist_is_an_error(network, pictures, unreadable, tmp_path):
    with pytest.raises(InputError, match=r"none\.png"):
        network.transform([pictures[0], unreadable[0], tmp_path / "none.png", unreadable[1]])


def test_a_store_does_not_go_with_output_on_the_gpu(network, pictures):
    with pytest.raises(InputError, match="a store is not on the GPU"):
        network.set_params(output="gpu").transform(pictures)


@pytest.fixture
def stored(network, pictures, unreadable):
    """Images, one of which is skipped, their descriptors, and an estimator that leaves them in the store."""
    images = [pictures[3], unreadable[0], pictures[0], pictures[3]]
    expected = network.set_params(on_error="skip").transform(images)
    return images, expected, clone(network).set_params(output="store")


def test_descriptors_left_in_the_store_are_the_same(stored):
    images, expected, features = stored
    found = features.transform(images)
    assert isinstance(found, mv.StoredDescriptors)
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    np.testing.assert_array_equal(found.load().values, expected.values)


def test_damage_is_repaired_before_descriptors_are_left_in_the_store(stored):
    images, expected, features = stored
    (shard,) = shards(features.store_section())
    flip(shard)
    same_descriptors(features.transform(images).load(), expected)
    assert [i for i, _ in features.skipped_] == [1]


def test_extract_repairs_damage_of_the_wanted_images(stored):
    images, _, features = stored
    (shard,) = shards(features.store_section())
    flip(shard)
    assert features.extract(images[3:]) == 0
    assert features.extract(images[2:3]) == 1
    assert features.store_section().verify() != []  # gc removes the damaged shard


def test_no_image_can_be_left_in_the_store(stored):
    _, _, features = stored
    assert len(features.transform([])) == 0


def test_output_in_the_store_needs_a_store(stored):
    images, _, features = stored
    with pytest.raises(InputError, match="output='store' needs a store"):
        features.set_params(store=None).transform(images)


def test_no_images_are_accepted(network):
    assert len(network.transform([])) == 0
    assert isinstance(network.transform([]), mv.Descriptors)


def test_threads_hash_images_in_their_order(network, rng, tmp_path):
    """More images than a thread hashes at a time, with copies and files that cannot be read."""
    pictures = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(90)]
    pictures[80] = pictures[3]
    missing = [0, 41, 88]
    for i in missing:
        pictures[i] = tmp_path / f"{i}.png"
    features = clone(network).set_params(on_error="skip", n_threads=3, output="store")
    stored = features.transform(pictures)
    assert [index for index, _ in features.skipped_] == missing
    assert [len(one) == 0 for one in stored] == [i in missing for i in range(90)]
    assert features.n_extracted_ == 86
    np.testing.assert_array_equal(stored[80], stored[3])
    with pytest.raises(InputError, match=r"41\.png"):
        clone(network).set_params(n_threads=3).transform(pictures[1:])
