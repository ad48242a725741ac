"""Some images of a store are extracted again: wrong numbers are found, right ones are not reported."""

import numpy as np
import pytest
from sklearn.base import clone
from support.faults import light_network, write_images

from medvlad import CNNDescriptors, InputError
from medvlad.datasets.folders import list_images
from medvlad.extraction.store_check import TOLERANCE, recompute, recompute_store
from medvlad.images.hashed_file import image_key
from medvlad.store.store import DescriptorStore


@pytest.fixture(autouse=True)
def light(monkeypatch):
    light_network(monkeypatch.setattr)


@pytest.fixture
def images(tmp_path):
    write_images(tmp_path / "images")
    return list_images(tmp_path / "images")


@pytest.fixture
def network(tmp_path):
    return CNNDescriptors("vgg16", "block5_pool", store=tmp_path / "store", scales=(1, 0), mirror=True)


def spoilt(network, images, wrong, factor):
    """Return a section in which all numbers of the images `wrong` are multiplied by `factor`."""
    values = clone(network).set_params(store=None).transform(images)
    section = network.build().store_section()
    with section.writer() as writer:
        for i, image in enumerate(images):
            writer.add(image_key(image), values[i] * np.float32(factor if i in wrong else 1))
    return section


def test_right_numbers_are_not_reported(network, images):
    network.extract(images)
    assert recompute(network.store_section(), images, 100) == (12, [])
    assert recompute(network.store_section(), images, 5) == (5, [])


@pytest.mark.parametrize("factor", [1 + 3e-3, 1 - 3e-3, 0, -1])
def test_wrong_numbers_are_found(network, images, factor):
    section = spoilt(network, images, {3, 7}, factor)
    assert section.verify() == []
    n_compared, found = recompute(section, images, 12)
    assert n_compared == 12
    assert [sentence.split(": ")[0] for sentence in found] == [images[3], images[7]]


def test_rounding_is_no_difference(network, images):
    section = spoilt(network, images, {3}, 1 + TOLERANCE["float32"] / 2)
    assert recompute(section, images, 12) == (12, [])


def test_less_exact_arithmetic_may_differ_more(network, images):
    network.set_params(dtype="bfloat16")
    assert recompute(spoilt(network, images, {3}, 1.03), images, 12) == (12, [])
    (other,) = recompute(spoilt(network.set_params(resize="nearest"), images, {3}, 1.1), images, 12)[1]
    assert images[3] in other


def test_images_that_the_section_lacks_are_left_out(network, images):
    section = spoilt(network, images[:4], {1}, 2)
    n_compared, found = recompute(section, images, 4)
    assert n_compared == 4
    assert len(found) == 1
    assert recompute(section, images[4:], 4) == (0, [])


def test_other_weights_are_an_error(network, images, monkeypatch):
    network.extract(images)
    section = network.store_section()
    light_network(monkeypatch.setattr, fingerprint="1" * 64)
    with pytest.raises(InputError, match="made with other weights than 'imagenet'"):
        recompute(section, images, 2)


def test_every_section_of_a_store_is_checked(network, images, tmp_path):
    """A section that CNNDescriptors did not make is named, and the others are checked."""
    spoilt(network, images, {0}, 2)
    with DescriptorStore(tmp_path / "store").section({"of": "others"}).writer() as writer:
        writer.add(image_key(images[0]), np.ones((2, 2), np.float32))
    n_compared, different, not_checked = recompute_store(tmp_path / "store", images, 3)
    assert (n_compared, len(different)) == (3, 1)
    assert ["no setting 'model'" in sentence for sentence in not_checked] == [True]
    with pytest.raises(InputError, match="none of these images"):
        recompute_store(tmp_path / "store", [], 3)


@pytest.mark.parametrize(("factor", "expected"), [(1, 0), (2, 2)])
def test_the_command_reports_what_it_finds(network, images, tmp_path, run, factor, expected):
    spoilt(network, images, {5}, factor)
    status, printed, told = run(
        *("store", "verify", tmp_path / "store", "--recompute", 12),
        *("--images", tmp_path / "images" / "dark", "--images", images[6]),
    )
    assert status == expected
    assert f"7 images recomputed, {expected // 2} of them differ" in printed
    assert (images[5] in told) == (expected == 2)


@pytest.mark.parametrize("options", [("--recompute", 3), ("--images", "x")])
def test_the_command_needs_both_options(network, images, tmp_path, run, options):
    network.extract(images[:1])
    status, _, told = run("store", "verify", tmp_path / "store", *options)
    assert status != 0
    assert "add --images" in told
