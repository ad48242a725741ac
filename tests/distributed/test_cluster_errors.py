"""Wrong arguments and missing clusters are errors that say what to do."""

import logging
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sklearn.base import clone
from support.dask_runs import network, write_pictures

from medvlad import InputError
from medvlad._util.validate import MissingExtraError
from medvlad.distributed import cluster, extract_distributed, tasks

pytest.importorskip("keras", reason="needs the extra tensorflow")
distributed = pytest.importorskip("distributed", reason="needs the extra distributed")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def features(small_weights, tmp_path):
    return network(small_weights, tmp_path / "store")


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:9", "nonsense://x:1", "127.0.0.1", "tcp://no.such.host.invalid:1"]
)
def test_an_address_without_a_scheduler_is_an_error_within_seconds(features, pictures, monkeypatch, address):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1)
    start = time.monotonic()
    with pytest.raises(InputError, match=f"there is no Dask scheduler at '{address}'") as error:
        extract_distributed(features, pictures, scheduler=address)
    assert "\n" not in str(error.value)
    assert time.monotonic() - start < 20


@pytest.fixture
def empty_cluster():
    """Start a scheduler without workers."""
    with distributed.LocalCluster(
        n_workers=0, processes=False, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL
    ) as cluster:
        yield cluster


def test_a_scheduler_without_workers_is_an_error(features, pictures, monkeypatch, empty_cluster):
    monkeypatch.setattr(tasks, "_NO_WORKER_SECONDS", 1)
    with pytest.raises(InputError, match="has had no worker for 1 s: start workers"):
        extract_distributed(features, pictures, scheduler=empty_cluster.scheduler_address)


def test_a_scheduler_that_dies_is_an_error_that_says_how_to_continue(features, pictures, tmp_path):
    file = tmp_path / "scheduler.json"
    options = ["--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", "scheduler", *options], stderr=subprocess.DEVNULL
    )
    features.fit()
    try:
        with (
            distributed.Client(scheduler_file=str(file), timeout=30, set_as_default=False) as client,
            ThreadPoolExecutor(1) as pool,
        ):
            pool.submit(lambda: (time.sleep(1), process.kill()))
            with pytest.raises(InputError, match=r"is gone or has cancelled the run: .*to continue"):
                extract_distributed(features, pictures, scheduler=client)
    finally:
        process.kill()
        process.wait()


def test_a_run_needs_a_store(features, pictures):
    with pytest.raises(InputError, match="needs a store"):
        extract_distributed(clone(features).set_params(store=None), pictures)


def test_scheduler_and_n_workers_exclude_each_other(features, pictures):
    with pytest.raises(InputError, match="give only one of them"):
        extract_distributed(features, pictures, scheduler="tcp://127.0.0.1:1", n_workers=2)


@pytest.mark.parametrize("name", ["n_workers", "chunk"])
def test_counts_are_at_least_one(features, pictures, name):
    with pytest.raises(InputError, match=f"{name} must be an integer of at least 1, got 0"):
        extract_distributed(features, pictures, **{name: 0})


def test_without_dask_the_extra_is_named(features, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'medvlad\[distributed\]'"):
        extract_distributed(features, pictures)


@pytest.mark.parametrize(
    ("n", "size", "sizes"), [(0, 8, []), (5, 8, [5]), (16, 8, [8, 8]), (20, 8, [8, 12]), (33, 16, [16, 17])]
)
def test_chunks_are_whole_batches(n, size, sizes):
    """A remainder joins the last chunk, because a smaller batch could round differently."""
    chunks = tasks.cut(list(range(n)), size, 8)
    assert [len(c) for c in chunks] == sizes
    assert [i for c in chunks for i in c] == list(range(n))
