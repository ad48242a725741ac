"""The scheduler's memory does not grow with the number of passes over a list of images."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from medvlad.distributed.cluster import Cluster
from medvlad.distributed.passes import ClusterRunner
from medvlad.encoders import kmeans_passes
from medvlad.encoders.kmeans_passes import LloydJobs
from medvlad.store.store import DescriptorStore
from medvlad.store.stored_descriptors import StoredDescriptors

distributed = pytest.importorskip("distributed", reason="needs the extra distributed")

N_IMAGES, N_PASSES = 24_000, 16
#: A job that lists its images takes 72 bytes an image, so 24,000 images would add 1.7 MB with each pass.
MOST_GROWTH = 6 << 20


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers from the command line: a client and the scheduler's process."""
    where = ["--scheduler-file", str(tmp_path / "scheduler.json"), "--no-dashboard"]
    dask = [sys.executable, "-m", "dask"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    options = {"cwd": tmp_path, "env": environment, "stderr": subprocess.DEVNULL}
    worker = [*dask, "worker", *where, "--nthreads", "1", "--memory-limit", "0", "--no-nanny"]
    commands = [[*dask, "scheduler", "--port", "0", "--host", "127.0.0.1", *where], worker, worker]
    running = []
    with ExitStack() as stack:
        for command in commands:
            running.append(subprocess.Popen(command, **options))
            stack.callback(running[-1].wait, 60)
            stack.callback(running[-1].terminate)
        client = distributed.Client(scheduler_file=where[1], timeout=120, set_as_default=False)
        stack.enter_context(client)
        client.wait_for_workers(2, timeout=120)
        yield client, running[0].pid


def resident(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_of_the_scheduler_is_flat(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(kmeans_passes, "_SLICE_IMAGES", 2000)
    section = DescriptorStore(tmp_path / "store").section({"of": "tests"})
    rows = np.random.default_rng(0).normal(size=(N_IMAGES, 1, 4)).astype(np.float32)
    with section.writer() as writer:
        for i, values in enumerate(rows):
            writer.add(f"key {i}", values)
    stored = StoredDescriptors(section, [f"key {i}" for i in range(N_IMAGES)])
    client, pid = cluster
    runner, jobs = ClusterRunner(Cluster(client, "the cluster", False, 1)), LloydJobs(stored, "reference", 1)
    centers, path = rows[:2, 0], []
    for _ in range(N_PASSES):
        assert sum(one.counts.sum() for one in runner(centers, jobs)) == N_IMAGES
        path.append(resident(pid))
    quarter = N_PASSES // 4
    growth = np.mean(path[-quarter:]) - np.mean(path[:quarter])
    assert growth < MOST_GROWTH, path
