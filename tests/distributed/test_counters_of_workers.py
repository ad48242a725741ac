"""What workers count is added on the client, once for each result."""

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.faults import light_network, write_images
from support.in_this_process import run_command

from medvlad._util.counters import OUTCOMES, add_counts, count, counting, stage
from medvlad.distributed import cluster_runner

distributed = pytest.importorskip("distributed", reason="needs the extra distributed")


@dataclass(frozen=True)
class Counting:
    """A toy job that counts. With a file `dies`, it removes the file and kills its worker."""

    number: int
    dies: Path | None = None
    stage: str = "toys"

    def run(self, shared):
        with stage("toys"):
            count("bytes_read", 10 * self.number)
            count("retries")
            time.sleep(0.01)
        if self.dies is not None:
            with suppress(FileNotFoundError):  # a job of the other worker has removed it
                self.dies.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return self.number


def test_each_result_is_counted_once(client):
    jobs = [Counting(i) for i in range(9)]
    with cluster_runner(client) as runner:
        with counting() as counters:
            assert list(runner(None, jobs)) == list(range(9))
        assert list(runner(None, jobs)) == list(range(9))  # nobody counts
    found = counters.as_dict()
    assert (found["bytes_read"], found["retries"]) == (360, 9)
    assert 0.09 <= found["seconds"]["toys"] < 30


@pytest.mark.slow
def test_a_worker_that_dies_is_not_counted(tmp_path):
    (tmp_path / "mark").touch()
    jobs = [Counting(i, tmp_path / "mark") for i in range(9)]
    with cluster_runner(n_workers=2) as runner, counting() as counters:
        assert list(runner(None, jobs)) == list(range(9))
    assert not (tmp_path / "mark").exists()
    assert (counters.as_dict()["bytes_read"], counters.as_dict()["retries"]) == (360, 9)


def test_counts_of_another_process_may_be_left_out():
    with counting() as other:
        count("failures", 2)
        count("bytes_read", 5)
    add_counts(other.as_dict())  # nobody counts
    with counting() as counters, counting(leave_out=["failures"]) as inner:
        add_counts(other.as_dict(), leave_out=["bytes_read"])
        count("failures")
        count("retries")
    assert (inner.as_dict()["failures"], inner.as_dict()["bytes_read"]) == (3, 0)
    assert (counters.as_dict()["failures"], counters.as_dict()["retries"]) == (0, 1)


@pytest.mark.filterwarnings("ignore:A patient")
def test_an_evaluation_counts_the_same_images_on_a_cluster(client, tmp_path, monkeypatch):
    pytest.importorskip("keras", reason="needs the extra tensorflow")
    light_network(monkeypatch.setattr)
    images = write_images(tmp_path / "images")
    (images / "dark" / "bad.png").write_bytes(b"no image")
    found = {}
    for where, extra in (("here", []), ("there", ["--scheduler", client.scheduler.address])):
        arguments = [
            "evaluate",
            images,
            "--model",
            "light",
            "--layer",
            "x",
            "--encode",
            "avg",
            "--folds",
            "2",
        ]
        arguments += ["--on-error", "skip", "--store", tmp_path / f"store of {where}", *extra]
        status, _, error = run_command(*arguments, "--out", tmp_path / where)
        assert status == 1, error
        found[where] = json.loads((tmp_path / where / "results.json").read_text())["counters"]
    here, there = found["here"], found["there"]
    assert here["images_extracted"] == 12
    assert here["failures"] == 1
    assert {name: here[name] for name in OUTCOMES} == {name: there[name] for name in OUTCOMES}
    assert here["bytes_stored"] == there["bytes_stored"] > 0
    # The client and the workers hash each file, and a worker decodes it.
    assert there["bytes_read"] >= 3 * sum(path.stat().st_size for path in images.rglob("[0-9]*.png"))
    assert {"read", "network", "store"} <= there["seconds"].keys()
