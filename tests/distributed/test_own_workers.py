"""Worker processes of this machine give the numbers of one process, even if one of them is killed."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sklearn.base import clone
from support.dask_runs import N_IMAGES, check_descriptors, check_store, network, write_pictures

from medvlad import VLAD, CNNDescriptors
from medvlad.distributed import encode_distributed, extract_distributed

pytest.importorskip("keras", reason="needs the extra tensorflow")
distributed = pytest.importorskip("distributed", reason="needs the extra distributed")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def features(small_weights, tmp_path):
    return network(small_weights, tmp_path / "store")


@pytest.fixture(scope="module")
def alone(small_weights, pictures):
    """Return the pictures' descriptors, extracted by this process."""
    return network(small_weights).transform(pictures)


def kill_a_worker(store, n_shards):
    """Wait until the store has `n_shards`, then kill one of the workers that this process has started."""
    while len(list(store.rglob("*.shard"))) < n_shards:
        time.sleep(0.01)
    (cluster,) = (c for c in distributed.LocalCluster._instances if c.status == distributed.Status.running)
    pid = next(iter(cluster.workers.values())).pid
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.mark.slow
def test_killing_an_own_worker_loses_nothing(features, pictures, alone, monkeypatch):
    """Without a scheduler two processes of this machine work. One is killed."""
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_a_worker, Path(features.store), 1)
        assert extract_distributed(features, pictures, n_workers=2, chunk=4) == N_IMAGES
        assert killed.result()
    check_store(features, N_IMAGES)
    check_descriptors(features, pictures, alone, monkeypatch)


@pytest.mark.slow
@pytest.mark.data
def test_killing_a_worker_on_real_images_loses_nothing(data_dir, vgg16_weights, tmp_path, monkeypatch):
    """Every fifth image of hyperkvasir_dev through VGG16, by one process, and by two of which one dies."""
    paths = sorted((data_dir / "hyperkvasir_dev").rglob("*.jpg"))[::5]
    assert len(paths) > 100
    local = CNNDescriptors("vgg16", weights=vgg16_weights, store=tmp_path / "local")
    expected = local.transform(paths)
    features = clone(local).set_params(store=tmp_path / "store")
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_a_worker, tmp_path / "store", 5)
        assert extract_distributed(features, paths, n_workers=2) == len(local.store_section())
        assert killed.result()
    check_store(features, len(local.store_section()))
    check_descriptors(features, paths, expected, monkeypatch)
    encoder = VLAD(16, random_state=0).fit(expected)
    encoded = encode_distributed(encoder, features, paths, n_workers=2)
    assert encoded.tobytes() == encoder.transform(expected).tobytes()
