"""Stores with known descriptors, what they must hold, and processes that write them."""

import numpy as np

from medvlad.store.store import DescriptorStore

SETTINGS = {"model": "vgg16", "scales": [0]}
OTHER_SETTINGS = SETTINGS | {"layer": "block4_pool"}

#: Program that writes images 0 to N - 1 into a store: STORE N.
WRITER = """
import sys
import numpy as np
from medvlad.store import shard, store
shard.SHARD_IMAGES = 5
section = store.DescriptorStore(sys.argv[1]).section({"model": "vgg16", "scales": [0]})
print("begun", flush=True)
with section.writer() as writer:
    for i in range(int(sys.argv[2])):
        values = np.maximum(np.random.default_rng(i).normal(-1, 1, (49, 64)), 0).astype(np.float32)
        writer.add(f"{i:064x}", values)
"""

#: Program that runs gc on a store: STORE.
COLLECTOR = """
import sys
from medvlad.store import shard, store
shard.SHARD_IMAGES = 5
section = store.DescriptorStore(sys.argv[1]).section({"model": "vgg16", "scales": [0]})
print("begun", flush=True)
section.gc()
"""


def descriptors(i, shape=(49, 64)):
    return np.maximum(np.random.default_rng(i).normal(-1, 1, shape), 0).astype(np.float32)


def key_of(i):
    return f"{i:064x}"


def fill(path, n, settings=SETTINGS, **options):
    """Write images 0 to n - 1; return their section."""
    section = DescriptorStore(path).section(settings)
    with section.writer(**options) as writer:
        for i in range(n):
            writer.add(key_of(i), descriptors(i))
    return section


def shards(section):
    return sorted(section.path.glob("*.shard"))


def flip(file, byte=-3):
    """Change a bit of a file."""
    content = bytearray(file.read_bytes())
    content[byte] ^= 1
    file.write_bytes(content)


def holds_all_of(section, numbers):
    """Assert that a section, opened anew, holds these images and nothing that is damaged."""
    found = DescriptorStore(section.path.parent).section(SETTINGS)
    assert found.verify() == []
    assert set(found) == {key_of(i) for i in numbers}
    for i in numbers:
        np.testing.assert_array_equal(found.get(key_of(i)), descriptors(i))


def copied_into_another_section(path):
    """Copy a shard of four images into the section of two others; return section, shard and copy."""
    home = DescriptorStore(path).section(OTHER_SETTINGS)
    with home.writer() as writer:
        for i in range(10, 14):
            writer.add(key_of(i), descriptors(i))
    (shard,) = shards(home)
    section = fill(path, 2)
    copy = section.path / shard.name
    copy.write_bytes(shard.read_bytes())
    return section, shard, copy
