"""Workers read images and write shards by URL, so neither travels through the scheduler."""

import logging
import uuid

import pytest
from support.dask_runs import network, write_pictures

from medvlad._util.object_path import location
from medvlad.store.store import DescriptorStore

distributed = pytest.importorskip("distributed", reason="needs the extra distributed")
pytest.importorskip("keras", reason="needs the extra tensorflow")

from medvlad.distributed import extract_distributed  # noqa: E402


def test_extraction_by_url_gives_the_shards_of_one_process(small_weights, tmp_path):
    url = f"memory://{uuid.uuid4().hex}"  # the workers are threads of this process
    pictures = write_pictures(tmp_path)[:6]
    images = [location(f"{url}/{file.name}", "an image") for file in pictures]
    for image, file in zip(images, pictures, strict=True):
        image.write_bytes(file.read_bytes())
    alone = network(small_weights, f"{url}/alone")
    alone.extract(images)
    features = network(small_weights, f"{url}/store")
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
        memory_limit=0,
    ) as cluster:
        assert extract_distributed(features, images, scheduler=cluster.scheduler_address) == 6
    (section,) = DescriptorStore(f"{url}/store").sections()
    (expected,) = DescriptorStore(f"{url}/alone").sections()
    assert sorted(section) == sorted(expected)
    for key in expected:
        assert section.get(key).tobytes() == expected.get(key).tobytes()
    assert not [one.name for one in section.path.children() if one.name.endswith(".part")]
