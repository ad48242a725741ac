"""The client of a cluster learns which images are damaged, and decides what happens to them."""

import numpy as np
import pytest
from support.dask_runs import network
from support.jpegs import jpeg, picture, surely_damaged

from medvlad import InputError
from medvlad.distributed import extract_distributed
from medvlad.extraction.damaged_images import damaged_key
from medvlad.images.hashed_file import image_key

pytest.importorskip("medvlad.images._jpeg", reason="the package was not built")
pytest.importorskip("keras", reason="needs the extra tensorflow")
distributed = pytest.importorskip("distributed", reason="needs the extra distributed")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Four images; the second is damaged, and the last is its copy."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(9)
    files = [folder / f"{i}.jpg" for i in range(4)]
    for file in files:
        file.write_bytes(jpeg(picture(rng)))
    files[1].write_bytes(surely_damaged(picture(rng), rng))
    files[3].write_bytes(files[1].read_bytes())
    return files


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.slow
def test_damaged_images_are_used_and_listed_or_skipped_or_stop_the_run(
    tmp_path, small_weights, images, client
):
    features = network(small_weights, tmp_path / "store").set_params(on_error="skip", on_damage="raise")
    with pytest.raises(InputError, match=r"1\.jpg' has damaged JPEG data"):
        extract_distributed(features, images, scheduler=client)

    features = network(small_weights, tmp_path / "other").set_params(on_damage="skip")
    extract_distributed(features, images, scheduler=client)
    assert [index for index, _ in features.skipped_] == [1, 3]

    features.set_params(on_damage="warn", store=tmp_path / "third")
    for n_new in (3, 0):
        assert extract_distributed(features, images, scheduler=client) == n_new
        assert [index for index, _ in features.damaged_] == [1, 3]
        assert features.skipped_ == []
    section, key = features.store_section(), image_key(images[1])
    assert key not in section
    assert damaged_key(key) in section
