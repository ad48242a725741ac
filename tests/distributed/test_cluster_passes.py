"""Passes on a cluster: any jobs, k-means and whole commands. The bits are those of one process."""

import json
import os
import pickle
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.in_this_process import run_command
from support.striped_images import write_striped_images

from medvlad import VLAD, Descriptors, InputError, KMeansCodebook, StoredDescriptors
from medvlad.distributed import cluster_runner, fit_distributed, tasks, worker
from medvlad.distributed.cluster import Cluster
from medvlad.distributed.passes import ClusterRunner
from medvlad.encoders import kmeans_passes
from medvlad.store.store import DescriptorStore

distributed = pytest.importorskip("distributed", reason="needs the extra distributed")

pytestmark = pytest.mark.filterwarnings("ignore:k-means has not come to rest")


@dataclass(frozen=True)
class Scaled:
    """A toy job: a number times what is shared, slower at the beginning."""

    number: int
    n_threads: int | None = None
    stage: str = "toys"

    def run(self, shared):
        time.sleep(0.1 if self.number == 0 else 0)
        if self.number == 99:
            raise InputError("99 is too many: use fewer")
        return self.number * shared, self.n_threads


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Sixty images in a store, and a cut into some ten jobs a pass."""
    monkeypatch.setattr(kmeans_passes, "_SLICE_IMAGES", 6)
    monkeypatch.setattr("medvlad.store.shard.SHARD_IMAGES", 16)
    rng = np.random.default_rng(0)
    section = DescriptorStore(tmp_path / "store").section({"of": "tests"})
    with section.writer() as writer:
        for i in range(60):
            writer.add(f"key {i}", rng.normal(i % 3, 1, (5 + i % 7, 8)).astype(np.float32))
    return StoredDescriptors(section, [f"key {i}" for i in range(60)])


def same_fit(found, expected):
    assert found.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
    assert found.inertia_path_.tobytes() == expected.inertia_path_.tobytes()


class TestRunner:
    def test_results_come_in_the_order_of_the_jobs(self, client):
        with cluster_runner(client) as runner:
            found = list(runner(10, [Scaled(i) for i in range(15)]))
            assert found == [(10 * i, None) for i in range(15)]
            assert list(runner(10, [])) == []

    def test_few_jobs_are_under_way_and_none_is_left_if_the_caller_stops(self, client):
        made = []

        class Jobs(list):
            n_images = 50

            def __getitem__(self, i):
                made.append(i)
                return super().__getitem__(i)

        with cluster_runner(client) as runner:
            results = runner(1, Jobs(Scaled(i) for i in range(50)))
            for n, _ in enumerate(results, 1):
                assert len(made) - 1 <= n + 2 * 3  # and one look at the first for its stage
                if n == 12:
                    break
            results.close()
            deadline = time.monotonic() + 20
            while client.run_on_scheduler(_n_tasks) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert client.run_on_scheduler(_n_tasks) == 0

    def test_an_input_error_names_the_worker(self, client):
        with cluster_runner(client) as runner, pytest.raises(InputError, match=r"worker .*: 99 is too many"):
            list(runner(1, [Scaled(0), Scaled(99), Scaled(3)]))

    def test_own_workers_use_their_share_of_the_processors(self, client):
        runner = ClusterRunner(Cluster(client, "the cluster on this machine", True, 3))
        assert list(runner(1, [Scaled(1), Scaled(1, n_threads=7)])) == [(1, 3), (1, 7)]

    @pytest.mark.parametrize(("module", "expected"), [(worker, InputError), (json, AttributeError)])
    def test_a_worker_whose_medvlad_has_no_such_job_is_named(self, client, module, expected):
        with pytest.raises(AttributeError) as unpickled:
            pickle.loads(f"c{module.__name__}\nNoSuchJob\n.".encode())
        failed = SimpleNamespace(result=lambda: raising(unpickled.value))
        cluster = Cluster(client, "the cluster", False, 1)
        with pytest.raises(expected, match=r"an old version .*install medvlad 9|module 'json'"):
            tasks._result(distributed, cluster, failed, {"medvlad": "9"})

    def test_another_version_is_refused(self, client, monkeypatch):
        monkeypatch.setattr("medvlad.distributed.passes.versions", lambda: {"medvlad": "0.0"})
        with (
            cluster_runner(client) as runner,
            pytest.raises(InputError, match=r"has medvlad .*, but this machine has 0\.0"),
        ):
            list(runner(1, [Scaled(1)]))


def raising(error):
    raise error


def _n_tasks(dask_scheduler):
    return len(dask_scheduler.tasks)


class TestCodebook:
    def test_a_fit_on_the_cluster_is_the_fit_in_this_process(self, client, stored):
        settings = {"n_clusters": 5, "max_samples": None, "random_state": 1, "max_iter": 4}
        expected = KMeansCodebook(**settings).fit(stored)
        same_fit(fit_distributed(KMeansCodebook(**settings), stored, scheduler=client), expected)
        with cluster_runner(client) as runner:
            vlad = VLAD(**settings).fit(stored.on(runner))
            same_fit(vlad.codebook_, expected)
            assert vlad.transform(stored.on(runner)).tobytes() == vlad.transform(stored).tobytes()

    def test_a_worker_that_does_not_see_the_store_says_so(self, client, stored, tmp_path, monkeypatch):
        def elsewhere(self, indices):
            part = real(self, indices)
            part._section.path = Path("/not/here/section")
            part._section._shards = [Path("/not/here/section/a.shard") for _ in part._section._shards]
            return part

        real = StoredDescriptors.excerpt
        monkeypatch.setattr(StoredDescriptors, "excerpt", elsewhere)
        with pytest.raises(InputError, match=r"worker .*: there is no folder /not/here here: give every"):
            fit_distributed(KMeansCodebook(2, max_samples=None), stored, scheduler=client)

    def test_what_one_machine_does_is_refused(self, client, stored):
        with pytest.raises(InputError, match=r"max_samples=500000 draws a subsample"):
            fit_distributed(KMeansCodebook(2), stored, scheduler=client)
        with pytest.raises(InputError, match=r"got Descriptors: use estimator\.fit"):
            fit_distributed(KMeansCodebook(2), Descriptors.from_array(np.ones((3, 2, 2))), scheduler=client)


@pytest.fixture
def bags(tmp_path, monkeypatch):
    """Folders of feature files, eight of each of two classes. The commands get relative paths."""
    rng = np.random.default_rng(0)
    for i in range(16):
        path = tmp_path / "bags" / "ab"[i % 2] / f"p{i}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rng.normal(i % 2, 1, (6 + i, 5)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    return "bags"


def results_of(out):
    found = json.loads((out / "results.json").read_text())
    for one in found["results"]:
        del one["seconds"]
    return found["results"], found["comparisons"], found["settings"]


def test_evaluate_does_its_work_on_the_scheduler(client, bags, tmp_path):
    address = client.scheduler.address
    command = ["evaluate", bags, "--folds", "2", "--encode", "avg,vlad3", "--l2-descriptors"]
    command += ["--codebook-samples", "all"]
    status, _, error = run_command(*command, "--out", tmp_path / "here")
    assert status == 0, error
    status, _, error = run_command(*command, "--out", tmp_path / "there", "--scheduler", address)
    assert status == 0, error
    assert f"medvlad: the scheduler {address} has 2 workers; dashboard: http://" in error
    assert results_of(tmp_path / "there") == results_of(tmp_path / "here")
    assert results_of(tmp_path / "here")[2]["recipe"]["codebook_samples"] is None
    predictions = [(tmp_path / run / "predictions.csv").read_bytes() for run in ("here", "there")]
    assert predictions[0] == predictions[1]


def test_train_does_its_work_on_the_scheduler(client, bags, tmp_path):
    command = ["train", bags, "--encode", "vlad3", "--codebook-samples", "all", "--calibration", "none"]
    assert run_command(*command, "-o", tmp_path / "here.model")[0] == 0
    extra = ("--scheduler", client.scheduler.address)
    status, _, error = run_command(*command, "-o", tmp_path / "there.model", *extra)
    assert status == 0, error
    assert (tmp_path / "here.model").read_bytes() == (tmp_path / "there.model").read_bytes()


def test_the_scheduler_needs_a_store(rng, tmp_path):
    write_striped_images(tmp_path / "images", rng)
    status, _, error = run_command("evaluate", tmp_path / "images", "--scheduler", "tcp://127.0.0.1:1")
    assert status == 2
    assert "needs a store, which the workers fill and read: give --store FOLDER" in error


@pytest.mark.slow
def test_a_worker_that_is_killed_in_a_pass_costs_its_jobs_only(stored):
    """Four processes. One is killed in the second pass of k-means, one while images are encoded."""
    settings = {"n_clusters": 5, "max_samples": None, "random_state": 1, "max_iter": 4}
    expected = VLAD(**settings).fit(stored)
    with cluster_runner(n_workers=4) as runner:
        client, killed = runner._cluster.client, []

        def deadly(shared, jobs):
            for n, result in enumerate(runner(shared, jobs)):
                yield result
                is_due = len(killed) == {"k-means": 0, "encoding": 1}[jobs[0].stage]
                if n == 0 and is_due and passes:
                    pid = next(iter(client.run(os.getpid).values()))
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            passes.append(len(jobs))

        passes = []
        found = VLAD(**settings).fit(stored.on(deadly))
        same_fit(found.codebook_, expected.codebook_)
        assert len(killed) == 1
        vectors = found.transform(stored.on(deadly))
        assert vectors.tobytes() == expected.transform(stored).tobytes()
        assert len(set(killed)) == 2
        assert passes[0] == 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A patient")
def test_images_are_evaluated_on_the_scheduler(client, small_weights, rng, tmp_path):
    """Extraction, encoding and codebook. The results are those of one process."""
    pytest.importorskip("keras", reason="needs the extra tensorflow")
    write_striped_images(tmp_path / "images", rng)
    command = ["evaluate", tmp_path / "images", "--model", "MobileNetV2", "--layer", "out_relu", "--weights"]
    command += [small_weights, "--encode", "avg,vlad2", "--codebook-samples", "all", "--folds", "2"]
    command += ["--batch-size", "2"]
    for where, extra in (("there", ["--scheduler", client.scheduler.address]), ("here", [])):
        extra += ["--store", tmp_path / f"store {where}", "--out", tmp_path / where]
        status, _, error = run_command(*command, *extra)
        assert status == 0, error
    assert results_of(tmp_path / "there") == results_of(tmp_path / "here")


def test_a_deferred_job_can_move_to_another_worker():
    from medvlad.distributed.calls import Deferred, packed

    job = pickle.loads(pickle.dumps(Deferred({"medvlad": "1"}, packed(Scaled(2)), None)))
    assert pickle.loads(pickle.dumps(job)) == job
