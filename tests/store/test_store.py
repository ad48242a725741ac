"""Descriptors that are written to a store come out of it unchanged, by key and by settings."""

import numpy as np
import pytest
from support.store_content import SETTINGS, descriptors, fill, key_of

from medvlad import CNNDescriptors, InputError
from medvlad.images.hashed_file import image_key
from medvlad.store.store import DescriptorStore


def test_descriptors_come_out_as_they_went_in(tmp_path, monkeypatch):
    monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 7)
    fill(tmp_path / "store", 20)
    section = DescriptorStore(tmp_path / "store").section(SETTINGS)
    assert len(section) == 20
    assert set(section) == {key_of(i) for i in range(20)}
    assert len(list(section.path.glob("*.shard"))) == 3
    for i in range(20):
        np.testing.assert_array_equal(section.get(key_of(i)), descriptors(i))
    assert section.get(key_of(20)) is None
    assert section.verify() == []


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (3, 7), (49, 512)])
def test_every_bit_of_a_number_is_kept(tmp_path, shape):
    """The sign of zero and denormal numbers included."""
    values = np.resize(np.array([0, -0.0, 1e-45, -3e38, 1, 0, 0], np.float32), shape)
    section = DescriptorStore(tmp_path / "s").section({})
    with section.writer() as writer:
        writer.add("a", values)
        writer.add("b", np.ones((2, 2), np.float32))
    found = DescriptorStore(tmp_path / "s").section({}).get("a")
    np.testing.assert_array_equal(found.view(np.int32), values.view(np.int32))


@pytest.mark.parametrize("where", [[0], [1], [2], [0, 1, 2]])
def test_images_of_zeros_come_out_as_they_went_in(tmp_path, where):
    values = {str(i): np.full((2, 3), i not in where, np.float32) for i in range(3)}
    values["none"] = np.zeros((0, 3), np.float32)
    section = DescriptorStore(tmp_path / "s").section({})
    with section.writer() as writer:
        for key, array in values.items():
            writer.add(key, array)
    assert section.verify() == []
    for key, array in values.items():
        np.testing.assert_array_equal(section.get(key), array, strict=True)


def test_half_precision_takes_about_half_the_space(tmp_path):
    whole, half = fill(tmp_path / "a", 30), fill(tmp_path / "b", 30, dtype="float16")
    assert half.n_bytes() < 0.65 * whole.n_bytes()


def test_half_precision_is_read_as_float32(tmp_path):
    half = fill(tmp_path / "b", 4, dtype="float16")
    np.testing.assert_array_equal(half.get(key_of(3)), descriptors(3).astype(np.float16))
    assert half.get(key_of(3)).dtype == np.float32


def test_another_precision_is_refused(tmp_path):
    with pytest.raises(InputError, match="dtype must be one of float32, float16"):
        fill(tmp_path / "c", 1, dtype="int8")


def test_zeros_take_little_space(tmp_path):
    """16 % of the numbers are not zero, as in real descriptors: less than a quarter of the dense size."""
    section = fill(tmp_path / "store", 40)
    assert section.n_bytes() < 0.25 * 40 * descriptors(0).nbytes


@pytest.mark.data
def test_real_descriptors_take_less_than_a_quarter(tmp_path, data_dir, vgg16_weights):
    pytest.importorskip("keras", reason="needs the extra tensorflow")
    images = sorted((data_dir / "rooms_dev").rglob("*.jp*g"))[:6]
    network = CNNDescriptors("vgg16", weights=vgg16_weights, store=tmp_path / "store")
    values = network.transform(images).values
    (section,) = DescriptorStore(tmp_path / "store").sections()
    assert section.n_bytes() < 0.25 * values.nbytes


def test_a_section_does_not_show_the_images_of_other_settings(tmp_path):
    fill(tmp_path / "store", 3)
    other = DescriptorStore(tmp_path / "store").section(SETTINGS | {"scales": [1]})
    assert len(other) == 0
    assert [s.settings for s in DescriptorStore(tmp_path / "store").sections()] == [SETTINGS]


def test_a_key_depends_on_the_content_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"same")
    (tmp_path / "b").write_bytes(b"same")
    assert image_key(tmp_path / "a") == image_key(str(tmp_path / "b"))


def test_a_key_depends_on_pixels_shape_and_dtype():
    pixels = np.zeros((4, 6, 3), np.uint8)
    assert image_key(pixels) == image_key(pixels.copy(order="F"))
    assert len({image_key(pixels), image_key(pixels.reshape(6, 4, 3)), image_key(pixels.astype(int))}) == 3


def test_a_file_that_does_not_exist_has_no_key(tmp_path):
    with pytest.raises(InputError, match="c cannot be read: No such file"):
        image_key(tmp_path / "c")


def test_numbers_beyond_the_precision_are_refused(tmp_path):
    with (
        DescriptorStore(tmp_path / "s").section({}).writer("float16") as writer,
        pytest.raises(InputError, match="image a as float16 hold inf at row 1"),
    ):
        writer.add("a", np.array([[1], [1e5]], np.float32))
    assert not list((tmp_path / "s").glob("*/*.shard"))


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file is not a folder"):
        DescriptorStore(tmp_path / "file")


def test_a_folder_of_something_else_is_no_store(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a folder of something else"):
        DescriptorStore(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"version": 9}', "store of another version"), ("no", "is this a descriptor store")],
)
def test_a_store_of_another_format_is_refused(tmp_path, content, message):
    (tmp_path / "format.json").write_text(content)
    with pytest.raises(InputError, match=message):
        DescriptorStore(tmp_path)


def test_a_store_that_another_process_is_making_is_accepted(tmp_path):
    """Its marker may not be there yet."""
    (tmp_path / "0123.part").touch()
    assert DescriptorStore(tmp_path).sections() == []
    fill(tmp_path, 2)
    assert len(DescriptorStore(tmp_path).section(SETTINGS)) == 2


@pytest.fixture
def section(tmp_path):
    return DescriptorStore(tmp_path / "store").section(SETTINGS)


def test_a_slow_run_writes_a_shard_after_a_minute(section, monkeypatch):
    """A kill then loses a minute at most, although a shard has room for more images."""
    clock = [0.0]
    monkeypatch.setattr("medvlad.store.writer.time.monotonic", lambda: clock[0])
    with section.writer() as writer:
        n_shards = []
        for i in range(7):
            clock[0] += 25
            writer.add(key_of(i), descriptors(i))
            n_shards.append(len(list(section.path.glob("*.shard"))))
    assert n_shards == [0, 0, 1, 1, 1, 2, 2]


def test_the_time_between_two_shards_is_a_parameter(section):
    with section.writer(seconds=0) as writer:
        for i in range(3):
            writer.add(key_of(i), descriptors(i))
            assert len(list(section.path.glob("*.shard"))) == i + 1
