"""Pictures, and checks of what a run on a cluster leaves in the store, for tests/distributed."""

import numpy as np
from conftest import BATCH_TOLERANCE
from PIL import Image
from sklearn.base import clone

from medvlad import CNNDescriptors
from medvlad.store.shard import Shard
from medvlad.store.store import DescriptorStore

N_IMAGES = 20


def write_pictures(folder):
    """Write N_IMAGES different image files. Return their paths."""
    rng = np.random.default_rng(8)
    paths = [folder / f"{i:02}.png" for i in range(N_IMAGES)]
    for i, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (50 + i, 60, 3), dtype=np.uint8)).save(path)
    return paths


def network(weights, store=None):
    """Return a small network, with a store if a folder is given."""
    return CNNDescriptors("MobileNetV2", "out_relu", weights=weights, store=store)


def check_store(features, n_images):
    """Check that `n_images` are in the store, each once and undamaged, and no temporary file is left."""
    (section,) = DescriptorStore(features.store).sections()
    keys = [key for file in section.path.glob("*.shard") for key in Shard(file).keys]
    assert len(keys) == len(set(keys)) == n_images
    assert section.verify() == []
    assert list(section.path.glob("*.part")) == []
    section.gc()
    assert len(section) == n_images


def check_descriptors(features, paths, expected, monkeypatch, *, one_alone=False):
    """Check that the store holds `expected`, bit for bit, and that nothing is extracted now.

    `one_alone`: one image was in a batch of its own, so Keras may have rounded it differently.
    """
    found = clone(features)
    found.fit()
    monkeypatch.setattr("medvlad.extraction.cnn_descriptors.make_engine", None)
    got = found.transform(paths)
    np.testing.assert_array_equal(got.offsets, expected.offsets)
    if one_alone:
        limit = BATCH_TOLERANCE * np.abs(expected.values).max()
        np.testing.assert_allclose(got.values, expected.values, rtol=0, atol=limit)
    else:
        assert got.values.tobytes() == expected.values.tobytes()
