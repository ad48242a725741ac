"""The passes of the linear SVM on a cluster: the bits of one process, and no file left behind."""

import gc
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.in_this_process import run_command
from support.small_chunks import set_small_chunks
from support.svm_files import environment, mapped
from support.svm_problems import draw

from medvlad import VLAD, WideLinearSVC
from medvlad._util.passes import ClusterOfWorkers, run_here
from medvlad.distributed import cluster_runner
from medvlad.distributed.passes import ClusterRunner, workers_of
from medvlad.evaluation.encoded import encoded, runner_for
from medvlad.store.store import DescriptorStore
from medvlad.store.stored_descriptors import StoredDescriptors
from medvlad.svm import pass_path
from medvlad.svm.pass_solver import memory_of_passes

dask = pytest.importorskip("dask", reason="needs the extra distributed")
distributed = pytest.importorskip("distributed", reason="needs the extra distributed")

PRELOADED = Path(__file__).parents[1] / "support" / "small_chunks.py"


@pytest.fixture
def small_chunks(monkeypatch):
    set_small_chunks(monkeypatch.setattr)


def problem(folder):
    X, y = draw((300, 40), 3)
    return mapped(X.astype(np.float32), folder / "x.npy"), y


def test_the_bits_are_those_of_this_process(client, small_chunks, tmp_path, caplog):
    x, y = problem(tmp_path)
    expected = WideLinearSVC(solver="passes").fit(x, y)
    paths = WideLinearSVC(solver="passes").fit_path(x, y, [0.1, 1.0])
    with cluster_runner(client) as runner, caplog.at_level(logging.INFO):
        found = WideLinearSVC(solver="passes").fit(x, y, runner=runner)
        assert "passes over the rows by the workers, because of solver='passes'" in caplog.text
        assert "linear SVM, pass 2: 300 images in " in caplog.text
        for one, other in zip(
            WideLinearSVC(solver="passes").fit_path(x, y, [0.1, 1.0], runner=runner), paths, strict=True
        ):
            assert one.coef_.tobytes() == other.coef_.tobytes()
    assert found.coef_.tobytes() == expected.coef_.tobytes()
    assert (found.n_passes_, found.dual_gap_) == (expected.n_passes_, expected.dual_gap_)


def test_the_client_shows_one_bar(client, small_chunks, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    x, y = problem(tmp_path)
    with cluster_runner(client) as runner:
        found = WideLinearSVC(solver="passes").fit(x, y, runner=runner)
    last = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "300/300" in line]
    assert len({line.split(":")[0] for line in last}) == found.n_passes_
    assert all("image" in line for line in last)


class WithMoreWorkers(ClusterRunner):
    """A runner whose cluster has any number of results under way."""

    def __init__(self, most_waiting):
        self.folder, self._most = None, most_waiting

    most_waiting = property(lambda self: self._most)


def test_the_limit_counts_the_results_that_wait(client):
    with cluster_runner(client) as runner:
        assert isinstance(runner, ClusterOfWorkers)
        assert runner.most_waiting == 6
    assert not isinstance(run_here, ClusterOfWorkers)
    less, more = (memory_of_passes(300, 40, 3, 1, WithMoreWorkers(n)) for n in (1, 1000))
    assert more - less == 999 * 8 * 41 * (10 + 2 * 3)
    assert less < memory_of_passes(300, 40, 3, 1)  # the chunks are read elsewhere


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    section = DescriptorStore(tmp_path / "store").section({"of": "tests"})
    with section.writer() as writer:
        for i in range(40):
            writer.add(f"key {i}", rng.normal(i % 2, 1, (9, 4)).astype(np.float32))
    return StoredDescriptors(section, [f"key {i}" for i in range(40)])


def vector_files(folder):
    return list(folder.glob("medvlad-*"))


def test_vectors_lie_in_the_store_while_workers_read_them(client, images, tmp_path, caplog):
    store, y = tmp_path / "store", np.arange(40) % 2
    vlad, head = VLAD(3, random_state=0).fit(images), WideLinearSVC(memory=1)
    with workers_of(client.scheduler.address, store) as workers:
        on_cluster = images.on(workers.runner)
        vectors = encoded(vlad, on_cluster, head)
        (file,) = vector_files(store)
        assert Path(vectors.filename) == (file / "vectors.npy").resolve()
        assert runner_for(vectors, on_cluster) is workers.runner
        assert runner_for(np.asarray(vectors), on_cluster) is None  # in memory, for all that it knows
        assert runner_for(vectors, images) is None
        with caplog.at_level(logging.INFO):
            workers.runner.blind_to = lambda file: "tcp://far"
            assert runner_for(vectors, on_cluster) is None
        assert "because the worker tcp://far does not see" in caplog.text
        WideLinearSVC().fit(vectors, y)
        assert DescriptorStore(store).sections()[0].verify() == []
        del vectors
        gc.collect()
        assert vector_files(store) == []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(tmp_path))
            may, there = os.access, store.absolute()
            patch.setattr(os, "access", lambda path, mode: path != there and may(path, mode))
            vectors = encoded(vlad, on_cluster, head)
            assert len(vector_files(tmp_path)) == 1
            del vectors


def test_a_worker_that_does_not_see_a_file_is_named(client, tmp_path):
    with cluster_runner(client) as runner:
        assert runner.blind_to(tmp_path / "gone.npy") in client.scheduler_info()["workers"]
        (tmp_path / "there.npy").touch()
        assert runner.blind_to(tmp_path / "there.npy") is None


@pytest.fixture
def bags(tmp_path, monkeypatch):
    """Feature files of two classes. Any square matrix is too large, so the SVM goes by passes."""
    rng = np.random.default_rng(0)
    for i in range(16):
        path = tmp_path / "bags" / "ab"[i % 2] / f"p{i}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rng.normal(i % 2, 1, (6 + i, 5)).astype(np.float32))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(pass_path, "memory_of_gram", lambda *_: 1 << 40)
    monkeypatch.setattr(pass_path, "memory_of_passes", lambda *_: 0)
    return tmp_path / "bags"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_commands_fit_the_svm_on_the_workers(client, bags, tmp_path, caplog, command):
    caplog.set_level(logging.INFO)
    address, out = client.scheduler.address, "--out" if command == "evaluate" else "-o"
    written = []
    for where, extra in (("here", ()), ("there", ("--scheduler", address))):
        arguments = [
            command,
            bags,
            "--encode",
            "vlad3",
            "--codebook-samples",
            "all",
            "--memory",
            "10",
            *extra,
        ]
        arguments += ["--calibration", "platt", *(["--folds", "2"] if command == "evaluate" else [])]
        status, _, error = run_command(*arguments, out, tmp_path / where)
        assert status == 0, error
        by_workers = "passes over the rows by the workers, because a square matrix needs" in caplog.text
        assert by_workers == (where == "there")
        gc.collect()  # a file of vectors goes with its last array
        assert list((tmp_path / "tmp").iterdir()) == []
        path = tmp_path / where
        written.append((path / "predictions.csv" if command == "evaluate" else path).read_bytes())
    assert written[0] == written[1]


@pytest.mark.slow
def test_a_killed_worker_costs_its_job_only(tmp_path, monkeypatch):
    set_small_chunks(monkeypatch.setattr)
    x, y = problem(tmp_path)
    expected = WideLinearSVC(solver="passes").fit(x, y)
    killed = []
    preload = dask.config.set({"distributed.worker.preload": [str(PRELOADED)]})
    with preload, cluster_runner(n_workers=3) as runner:
        client = runner._cluster.client

        def deadly(shared, jobs):
            assert len(jobs) > 3
            for n, result in enumerate(runner(shared, jobs)):
                yield result
                if n == 1 and len(passes) == 2:
                    killed.append(next(iter(client.run(os.getpid).values())))
                    os.kill(killed[0], signal.SIGKILL)
            passes.append(len(jobs))

        passes = []
        found = WideLinearSVC(solver="passes").fit(x, y, runner=deadly)
    assert len(killed) == 1
    assert found.coef_.tobytes() == expected.coef_.tobytes()
    assert len(passes) == found.n_passes_ == expected.n_passes_


HALTED = """
import sys, tempfile, time
import medvlad.__main__
from medvlad.svm import pass_path, pass_solver

pass_path.memory_of_gram = lambda *_: 1 << 40
pass_path.memory_of_passes = lambda *_: 0

def wait(self, *_):
    print("begun", flush=True)
    time.sleep(60)

pass_solver.PassSolver._take_pass = wait
medvlad.__main__.main()
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_no_file_is_left_after_ctrl_c(bags, tmp_path):
    with (
        distributed.LocalCluster(
            n_workers=1,
            processes=False,
            protocol="tcp://",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
        ) as cluster,
    ):
        arguments = ["train", bags, "--encode", "vlad3", "--codebook-samples", "all", "--memory", "10"]
        arguments += ["--calibration", "none", "--scheduler", cluster.scheduler_address, "-o", tmp_path / "m"]
        process = subprocess.Popen(
            [sys.executable, "-c", HALTED, *map(str, arguments)],
            env=environment() | {"TMPDIR": str(tmp_path / "tmp")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        limit = threading.Timer(120, process.kill)
        limit.start()
        while "begun" not in process.stdout.readline():
            assert process.poll() is None, process.stderr.read()
        limit.cancel()
        assert len(list((tmp_path / "tmp").glob("medvlad-*"))) == 1
        process.send_signal(signal.SIGINT)
        error = process.communicate()[1]
        assert process.returncode == 128 + signal.SIGINT, error
        deadline = time.monotonic() + 5
        while list((tmp_path / "tmp").glob("medvlad-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list((tmp_path / "tmp").glob("medvlad-*")) == []
