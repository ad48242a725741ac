"""A damaged image is never used in silence, and a store never takes it for a sound one."""

import logging
import shutil

import numpy as np
import pytest
from support.jpegs import jpeg, picture, surely_damaged
from support.tiny_networks import install

from medvlad import CNNDescriptors, InputError
from medvlad.extraction.damaged_images import damaged_key
from medvlad.extraction.store_check import recompute
from medvlad.images.hashed_file import image_key
from medvlad.store.store import DescriptorStore

pytest.importorskip("medvlad.images._jpeg", reason="the package was not built")
pytest.importorskip("keras", reason="Keras is not installed")


@pytest.fixture
def images(tmp_path, rng):
    """Three images; the second is damaged."""
    files = [tmp_path / f"{i}.jpg" for i in range(3)]
    for file in files:
        file.write_bytes(jpeg(picture(rng)))
    files[1].write_bytes(surely_damaged(picture(rng), rng))
    return files


@pytest.fixture
def network(tmp_path, monkeypatch):
    weights = tmp_path / "tiny.weights.h5"
    layer = install("VGG16", monkeypatch.setattr, weights)

    def make(**options):
        return CNNDescriptors("vgg16", layer, weights=weights, n_threads=2, **options)

    return make


@pytest.mark.parametrize("with_store", [False, True], ids=["memory", "store"])
def test_a_damaged_image_is_used_listed_and_counted_in_a_warning(
    tmp_path, network, images, caplog, with_store
):
    features = network(store=tmp_path / "store" if with_store else None)
    descriptors = features.transform(images)
    assert min(map(len, descriptors)) > 0
    ((index, reason),) = features.damaged_
    assert index == 1
    assert str(images[1]) in reason
    warned = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert warned == [
        "1 of 3 images have damaged JPEG data and were used all the same: look at them, or leave them out "
        "with on_damage='skip'"
    ]


@pytest.mark.parametrize("with_store", [False, True], ids=["memory", "store"])
def test_a_damaged_image_is_skipped_if_asked_to(tmp_path, network, images, with_store):
    features = network(store=tmp_path / "store" if with_store else None, on_damage="skip")
    descriptors = features.transform(images)
    assert [len(one) > 0 for one in descriptors] == [True, False, True]
    assert [index for index, _ in features.skipped_] == [1]
    assert features.damaged_ == []


@pytest.mark.parametrize("with_store", [False, True], ids=["memory", "store"])
def test_a_damaged_image_stops_the_run_if_asked_to(tmp_path, network, images, with_store):
    """Whatever is to happen to unreadable images."""
    features = network(store=tmp_path / "store" if with_store else None, on_damage="raise", on_error="skip")
    with pytest.raises(InputError, match=r"1\.jpg' has damaged JPEG data"):
        features.transform(images)


def test_a_store_holds_a_damaged_image_under_a_marked_key_only(tmp_path, network, images):
    features = network(store=tmp_path / "store")
    features.extract(images)
    section = features.store_section()
    keys = [image_key(image) for image in images]
    assert [key in section for key in keys] == [True, False, True]
    assert damaged_key(keys[1]) in section


def test_the_next_run_knows_the_damage_without_the_network(tmp_path, network, images):
    network(store=tmp_path / "store").extract(images)
    features = network(store=tmp_path / "store")
    first = features.transform(images)
    assert features.n_extracted_ == 0
    ((index, reason),) = features.damaged_
    assert (index, "found by an earlier run" in reason, str(images[1]) in reason) == (1, True, True)
    np.testing.assert_array_equal(first.values, network().transform(images).values)


@pytest.mark.parametrize("on_damage", ["raise", "skip"])
def test_the_next_run_may_decide_otherwise(tmp_path, network, images, on_damage):
    network(store=tmp_path / "store").extract(images)
    features = network(store=tmp_path / "store", on_damage=on_damage)
    if on_damage == "raise":
        with pytest.raises(InputError, match="has damaged JPEG data"):
            features.extract(images)
    else:
        features.extract(images)
        assert [index for index, _ in features.skipped_] == [1]


def test_copies_of_a_damaged_image_are_extracted_once_and_all_listed(tmp_path, network, images):
    copy = tmp_path / "copy.jpg"
    shutil.copy(images[1], copy)
    features = network(store=tmp_path / "store", output="store")
    stored = features.transform([*images, copy])
    assert features.n_extracted_ == 3
    assert [index for index, _ in features.damaged_] == [1, 3]
    np.testing.assert_array_equal(stored[1], stored[3])


def test_scales_of_a_damaged_image_are_not_joined_as_if_it_were_sound(tmp_path, network, images):
    for scale in (0, 1):
        network(store=tmp_path / "store", scales=scale).extract(images)
    features = network(store=tmp_path / "store", scales=(0, 1))
    features.extract(images)
    assert [index for index, _ in features.damaged_] == [1]
    assert image_key(images[1]) not in features.store_section()


def test_a_store_that_took_a_damaged_image_for_a_sound_one_is_found_out(tmp_path, network, images):
    """Stores of versions that did not look for damage are of this kind."""
    features = network(store=tmp_path / "store")
    section = features.store_section()
    n, width = section.shape
    with section.writer() as writer:
        writer.add(image_key(images[1]), np.ones((n, width), np.float32))
    (section,) = DescriptorStore(tmp_path / "store").sections()
    _, differences = recompute(section, [images[1]], 1, weights=features.weights)
    assert len(differences) == 1
    assert "as those of a sound image" in differences[0]


# ------------------------------------------------------ colour profiles, decoding and the store's key


@pytest.mark.parametrize("setting", [{"colour_profile": "srgb"}, {"decode": "fast"}], ids=str)
def test_the_key_of_a_section_holds_a_setting_only_if_it_is_on(tmp_path, network, setting):
    """So stores that were made before there was such a setting are found again."""
    off = network(store=tmp_path / "store").store_section()
    on = network(store=tmp_path / "store", **setting).store_section()
    assert not setting.keys() & off.settings.keys()
    assert on.settings == off.settings | setting
    assert on.path != off.path


def test_scales_are_joined_to_what_they_are_together(tmp_path, network, rng):
    path = tmp_path / "large.jpg"
    path.write_bytes(jpeg(picture(rng, 900, 904)))
    fast = {"decode": "fast", "store": tmp_path / "store"}
    alone = [network(scales=scale, **fast).transform([path])[0] for scale in (0, 1)]
    joined = network(scales=(0, 1), **fast)
    np.testing.assert_array_equal(joined.transform([path])[0], np.concatenate(alone))
    assert joined.n_extracted_ == 0
    together = network(scales=(0, 1), decode="fast").transform([path])[0]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-4, atol=1e-4)
    full = network().transform([path])[0]
    assert np.abs(alone[0] - full).max() > 1e-3 * np.abs(full).max(), "the file was not reduced"


def test_a_store_of_fast_decoding_is_checked_with_fast_decoding(tmp_path, network, rng):
    path = tmp_path / "large.jpg"
    path.write_bytes(jpeg(picture(rng, 900, 904)))
    features = network(store=tmp_path / "store", decode="fast")
    features.extract([path])
    (section,) = DescriptorStore(tmp_path / "store").sections()
    assert recompute(section, [path], 1, weights=features.weights) == (1, [])
