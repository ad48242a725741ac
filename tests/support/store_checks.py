"""What must hold for a store and for images in object storage of any kind."""

import threading

import numpy as np
from PIL import Image
from support.store_content import SETTINGS, descriptors, fill, key_of

from medvlad import load_image_folder
from medvlad._util.object_path import location
from medvlad.images import load_image
from medvlad.images.hashed_file import image_key
from medvlad.store.shard import write_shard
from medvlad.store.store import DescriptorStore


def opened(url):
    return DescriptorStore(url).section(SETTINGS)


def holds(section, n):
    for i in range(n):
        np.testing.assert_array_equal(section.get(key_of(i)), descriptors(i))


def check_life_of_a_store(url):
    """Write three times, read, verify and tidy."""
    for n in (2, 4, 6):
        fill(url, n)
    section = opened(url)
    assert len(section._folder.shards()) == 3
    assert section.verify() == []
    section.gc()
    assert len(section._folder.shards()) == 1
    holds(opened(url), 6)
    assert [one.settings for one in DescriptorStore(url).sections()] == [SETTINGS]


def check_two_writers(url):
    """Two writers of the same images make one shard."""
    together = threading.Barrier(2)

    def write():
        section = opened(url)
        section.prepare()
        together.wait()
        write_shard(section.path, {key_of(i): descriptors(i) for i in range(5)})

    writers = [threading.Thread(target=write) for _ in range(2)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    section = opened(url)
    assert len(section._folder.shards()) == 1
    holds(section, 5)


def check_images(url, folder, rng):
    """A prefix is read like a folder with the same images."""
    for name in ("a", "b"):
        for i in range(2):
            file = folder / "images" / name / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(file)
            location(f"{url}/images/{name}/{i}.png", "an image").write_bytes(file.read_bytes())
    local, remote = load_image_folder(folder / "images"), load_image_folder(f"{url}/images")
    assert [str(path) for path in remote.paths] == [
        f"{url}/{path.relative_to(folder).as_posix()}" for path in local.paths
    ]
    assert remote.labels.tolist() == local.labels.tolist()
    for one, other in zip(local.paths, remote.paths, strict=True):
        assert image_key(one) == image_key(other)
        np.testing.assert_array_equal(load_image(one), load_image(other))
