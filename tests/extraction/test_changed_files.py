"""Files that change between hashing and decoding: descriptors get the key of the content that was decoded."""

import numpy as np
import pytest
from PIL import Image
from support.faults import light_network
from support.store_content import flip, shards

import medvlad.extraction.batches
import medvlad.images.hashed_file
import medvlad.images.read
from medvlad import CNNDescriptors, InputError
from medvlad.images.hashed_file import image_key
from medvlad.images.read import load_image, read_image
from medvlad.store.store import DescriptorStore


def write_png(path, rng):
    Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return path


def write_deep_png(path, rng):
    imagecodecs = pytest.importorskip("imagecodecs", reason="needs the extra medical")
    path.write_bytes(imagecodecs.png_encode(rng.integers(0, 65536, (40, 50, 3), dtype=np.uint16)))
    return path


def write_pages(path, rng):
    pages = [Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return path.with_name(f"{path.name}#1")


def write_deep_pages(path, rng):
    tifffile = pytest.importorskip("tifffile", reason="needs the extra medical")
    pages = rng.integers(0, 65536, (3, 40, 50, 3), dtype=np.uint16)
    tifffile.imwrite(path, pages, photometric="rgb")
    return path.with_name(f"{path.name}#1")


def write_dicom(path, rng):
    from support.medical_files import write_dicom

    return write_dicom(path, rng.integers(0, 4096, (40, 50), dtype=np.uint16))


def write_frames(path, rng):
    from support.medical_files import write_dicom

    write_dicom(path, rng.integers(0, 4096, (3, 40, 50), dtype=np.uint16), frames=3)
    return path.with_name(f"{path.name}#1")


def write_nifti(path, rng):
    nibabel = pytest.importorskip("nibabel", reason="needs the extra medical")
    volume = nibabel.Nifti1Image(rng.integers(0, 1000, (40, 50, 3)).astype(np.int16), np.eye(4))
    nibabel.save(volume, path)
    return path.with_name(f"{path.name}#1")


KINDS = {
    "a.png": write_png,
    "deep.png": write_deep_png,
    "pages.tif": write_pages,
    "deep.tif": write_deep_pages,
    "a.dcm": write_dicom,
    "frames.dcm": write_frames,
    "a.nii": write_nifti,
    "a.nii.gz": write_nifti,
}

of_each_kind = pytest.mark.parametrize("name", KINDS)
of_each_size = pytest.mark.parametrize("size", ["small", "large"])


@pytest.fixture
def limit(request, monkeypatch, size):
    """Let files be read into memory, or be too large for that."""
    if size == "large":
        monkeypatch.setattr(medvlad.images.hashed_file, "_IN_MEMORY", 0)


@pytest.fixture
def network(tmp_path, monkeypatch):
    light_network(monkeypatch.setattr)
    return CNNDescriptors("vgg16", "block5_pool", store=tmp_path / "store", n_threads=2)


def before_loading(monkeypatch, change):
    """Call `change` once, after the keys are known and before an image is opened."""
    load_squares, changes = medvlad.extraction.batches.load_squares, [change]

    def changed(*arguments, **options):
        if changes:
            changes.pop()()
        return load_squares(*arguments, **options)

    monkeypatch.setattr(medvlad.extraction.batches, "load_squares", changed)


def alone(path):
    return CNNDescriptors("vgg16", "block5_pool").transform([path])[0]


@of_each_kind
@of_each_size
def test_a_file_that_is_replaced_before_it_is_decoded_gets_its_new_key(
    tmp_path, network, monkeypatch, rng, name, size, limit
):
    image = KINDS[name](tmp_path / name, rng)
    old_key = image_key(image)
    before_loading(monkeypatch, lambda: KINDS[name](tmp_path / name, rng))
    found = network.transform([image])
    new_key = image_key(image)
    assert new_key != old_key
    (section,) = DescriptorStore(tmp_path / "store").sections()
    assert set(section) == {new_key}
    expected = alone(image)
    np.testing.assert_array_equal(section.get(new_key), expected)
    np.testing.assert_array_equal(found[0], expected)
    assert network.extract([image]) == 0


def test_copies_of_a_file_that_is_replaced_keep_their_own_descriptors(tmp_path, network, monkeypatch, rng):
    """All had the same key. Then each has the key of its own content."""
    first, second, third = (tmp_path / f"{i}.png" for i in range(3))
    write_png(first, rng)
    for copy in (second, third):
        copy.write_bytes(first.read_bytes())
    before_loading(monkeypatch, lambda: write_png(first, rng))
    found = network.set_params(output="store").transform([first, second, third])
    for i, path in enumerate((first, second, third)):
        np.testing.assert_array_equal(found[i], alone(path))
    assert network.n_extracted_ == 2
    (section,) = DescriptorStore(tmp_path / "store").sections()
    assert set(section) == {image_key(first), image_key(second)}


def test_a_file_that_is_no_image_any_more_is_skipped(tmp_path, network, monkeypatch, rng):
    image = write_png(tmp_path / "a.png", rng)
    before_loading(monkeypatch, lambda: image.write_bytes(b"no image"))
    assert len(network.set_params(on_error="skip").transform([image])[0]) == 0
    assert [i for i, _ in network.skipped_] == [0]
    (section,) = DescriptorStore(tmp_path / "store").sections()
    assert len(section) == 0


def test_pixels_that_change_get_the_key_of_what_was_decoded(tmp_path, network, monkeypatch, rng):
    pixels = [rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)]

    def change():
        pixels[0][...] = 7

    before_loading(monkeypatch, change)
    network.extract(pixels)
    (section,) = DescriptorStore(tmp_path / "store").sections()
    assert set(section) == {image_key(pixels[0])}
    np.testing.assert_array_equal(section.get(image_key(pixels[0])), alone(pixels[0]))


def after_hashing(monkeypatch, change):
    """Call `change` between the hashing of an open file and its decoding."""
    decode = medvlad.images.read._from_open_file

    def changed(*arguments):
        change()
        return decode(*arguments)

    monkeypatch.setattr(medvlad.images.read, "_from_open_file", changed)


@of_each_kind
@of_each_size
def test_a_file_that_is_replaced_after_it_is_hashed_is_decoded_as_it_was(
    tmp_path, monkeypatch, rng, name, size, limit
):
    """The file that was opened is decoded, not the file that has its name now."""
    image = KINDS[name](tmp_path / name, rng)
    key, pixels = image_key(image), load_image(image)
    KINDS[name](tmp_path / f"other-{name}", rng)
    with monkeypatch.context() as patch:
        after_hashing(patch, lambda: (tmp_path / f"other-{name}").replace(tmp_path / name))
        found = read_image(image, hashed=True)
    assert found.key == key
    np.testing.assert_array_equal(found.pixels, pixels)
    assert image_key(image) != key


@of_each_kind
@of_each_size
def test_a_file_that_is_written_to_after_it_is_hashed_gives_no_wrong_pixels(
    tmp_path, monkeypatch, rng, name, size, limit
):
    """A small file is decoded from its copy in memory. A large one is refused."""
    image = KINDS[name](tmp_path / name, rng)
    key, pixels = image_key(image), load_image(image)
    KINDS[name](tmp_path / f"other-{name}", rng)
    content = (tmp_path / f"other-{name}").read_bytes()
    after_hashing(monkeypatch, lambda: (tmp_path / name).write_bytes(content))
    if size == "large":
        with pytest.raises(InputError, match=f"{name}.* has changed while it was read"):
            read_image(image, hashed=True)
    else:
        found = read_image(image, hashed=True)
        assert found.key == key
        np.testing.assert_array_equal(found.pixels, pixels)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", ["large"])
def test_a_large_file_that_is_cut_after_it_is_hashed_has_changed_and_is_not_damaged(
    tmp_path, monkeypatch, rng, name, size, limit
):
    """A decoder that fails on the new bytes must not hide that they are new."""
    image = KINDS[name](tmp_path / name, rng)
    content = (tmp_path / name).read_bytes()
    after_hashing(monkeypatch, lambda: (tmp_path / name).write_bytes(content[: len(content) // 2]))
    with pytest.raises(InputError, match=f"{name}.* has changed while it was read"):
        read_image(image, hashed=True)


def test_a_damaged_entry_under_the_new_key_is_replaced(tmp_path, network, monkeypatch, rng):
    """The new content is in the store already, and damaged there."""
    image, other = write_png(tmp_path / "a.png", rng), write_png(tmp_path / "other.png", rng)
    network.extract([other])
    (shard,) = shards(network.store_section())
    flip(shard)
    before_loading(monkeypatch, lambda: image.write_bytes(other.read_bytes()))
    found = network.set_params(output="store").transform([image])
    np.testing.assert_array_equal(found[0], alone(image))
