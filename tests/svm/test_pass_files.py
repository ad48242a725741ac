"""The linear SVM by passes over a file: what is read, the memory that it takes, and checkpoints."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from support.svm_files import mapped, start_python
from support.svm_problems import draw

from medvlad import WideLinearSVC
from medvlad._util.os_files import try_lock
from medvlad._util.passes import run_here
from medvlad._util.processors import usable_processors
from medvlad._util.validate import InputError
from medvlad.svm.pass_solver import memory_of_passes
from medvlad.svm.row_source import ArrayRows, FileRows, rows_of

FIT = """
import json, sys
import numpy as np
from medvlad import WideLinearSVC

def kib(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field))

x, y = np.load(sys.argv[1], mmap_mode="r"), np.load(sys.argv[2])
WideLinearSVC(solver="passes").fit(np.eye(3, 5, dtype=np.float32), [0, 1, 2])
before = kib("VmHWM:")
model = WideLinearSVC(solver="passes", checkpoint=sys.argv[3] or None, tol=float(sys.argv[4])).fit(x, y)
np.save(sys.argv[5], model.coef_)
peak = 1024 * (kib("VmHWM:") - before)
print(json.dumps({"peak": peak, "passes": model.n_passes_, "gap": model.dual_gap_}))
"""


class Killed(Exception):
    pass


def killed_after(n_passes):
    """Return a runner that stops in the middle of a pass."""
    left = [n_passes]

    def run(shared, jobs):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return run_here(shared, jobs)

    return run


def read(rows, start, stop):
    with rows.reader() as reader:
        return reader(start, stop).copy()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_a_map_come_from_its_file(tmp_path, dtype):
    x = np.random.default_rng(0).normal(size=(5000, 7)).astype(dtype)
    whole = mapped(x, tmp_path / "x.npy")
    for part, expected in ((whole, x), (whole[4001:4900], x[4001:4900]), (np.asarray(whole)[9:], x[9:])):
        rows = rows_of(part)
        assert isinstance(rows, FileRows)
        np.testing.assert_array_equal(read(rows, 2, 800), expected[2:800])


def test_other_arrays_are_read_in_memory(tmp_path):
    x = np.random.default_rng(0).normal(size=(500, 7)).astype(np.float32)
    whole = mapped(x, tmp_path / "x.npy")
    changed = np.load(tmp_path / "x.npy", mmap_mode="c")
    changed[3] = 9.0
    for part in (x, whole[:, :3], whole[::2], changed):
        assert isinstance(rows_of(part), ArrayRows)
    np.save(tmp_path / "new.npy", -x)
    (tmp_path / "new.npy").replace(tmp_path / "x.npy")
    rows = rows_of(whole)  # the map shows the old file
    np.testing.assert_array_equal(read(rows, 0, 500), x)


def test_a_map_gives_the_solution_of_the_array(tmp_path):
    X, y = draw((300, 40), 3)
    X = X.astype(np.float32)
    for part in (slice(None), slice(20, 280)):
        found = WideLinearSVC(solver="passes").fit(mapped(X, tmp_path / "x.npy")[part], y[part])
        assert np.array_equal(found.coef_, WideLinearSVC(solver="passes").fit(X[part], y[part]).coef_)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_named(tmp_path, bad):
    X, y = draw((300, 40), 3)
    X[217, 5] = bad
    with pytest.raises(InputError, match="row 217 of X holds NaN or infinity"):
        WideLinearSVC(solver="passes").fit(mapped(X.astype(np.float32), tmp_path / "x.npy"), y)


def test_a_file_that_is_cut_meanwhile_is_an_error(tmp_path):
    X, y = draw((300, 40), 2)
    x = mapped(X, tmp_path / "x.npy")

    def cut_file(shared, jobs):
        os.truncate(tmp_path / "x.npy", 50_000)
        return run_here(shared, jobs)

    with pytest.raises(InputError, match="ends before row"):
        WideLinearSVC(solver="passes").fit(x, y, runner=cut_file)


@pytest.mark.parametrize("after", [1, 2, 5])
def test_a_resumed_run_gives_the_same_bits(tmp_path, after):
    X, y = draw((300, 50), 3)
    state = tmp_path / "state"
    whole = WideLinearSVC(solver="passes").fit(X, y)
    halted = WideLinearSVC(solver="passes", checkpoint=state)
    with pytest.raises(Killed):
        halted.fit(X, y, runner=killed_after(after))
    assert state.is_file()
    resumed = halted.fit(X, y, runner=killed_after(whole.n_passes_ - after))  # no pass more
    assert np.array_equal(resumed.coef_, whole.coef_)
    assert resumed.n_passes_ == whole.n_passes_
    assert list(tmp_path.iterdir()) == []


def test_a_path_is_resumed_at_the_C_where_it_stopped(tmp_path):
    X, y = draw((200, 40), 2)
    svm = WideLinearSVC(solver="passes", checkpoint=tmp_path / "state")
    plain = WideLinearSVC(solver="passes").fit_path(X, y, [0.1, 1.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medvlad.svm.pass_path.run_here", killed_after(plain[0].n_passes_ + 2))
        with pytest.raises(Killed):
            svm.fit_path(X, y, [0.1, 1.0])
    assert sorted(one.name for one in tmp_path.iterdir()) == ["state.0", "state.1"]
    with pytest.MonkeyPatch.context() as patch:
        # Two passes of the second C are done, and one measures the first C again.
        patch.setattr("medvlad.svm.pass_path.run_here", killed_after(plain[1].n_passes_ - 2 + 1))
        path = svm.fit_path(X, y, [0.1, 1.0])
    for one, other in zip(path, plain, strict=True):
        assert np.array_equal(one.coef_, other.coef_)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_problem_is_refused(tmp_path):
    X, y = draw((200, 40), 2)
    svm = WideLinearSVC(solver="passes", checkpoint=tmp_path / "state")
    with pytest.raises(Killed):
        svm.fit(X, y, runner=killed_after(2))
    for x, labels, params in ((X + 1, y, {}), (X, 1 - y, {}), (X, y, {"C": 2.0}), (X, y, {"tol": 1e-3})):
        with pytest.raises(InputError, match="belongs to other rows, labels or settings: remove it"):
            WideLinearSVC(**{"solver": "passes", "checkpoint": tmp_path / "state", **params}).fit(x, labels)
    assert svm.fit(X, y).dual_gap_ <= 1e-4


def test_classes_that_are_done_are_measured_again_on_the_rows_of_now(tmp_path, monkeypatch):
    """The digest reads 64 rows. If others have changed, weights that were done are wrong."""
    X, y = draw((300, 40), 3)
    svm = WideLinearSVC(solver="passes", checkpoint=tmp_path / "state")
    with monkeypatch.context() as patch:
        patch.setattr("medvlad.svm.pass_state.Checkpoint.remove", lambda _: None)
        whole = svm.fit(X, y)
    changed = np.random.default_rng(1).normal(size=X.shape)
    read_by_digest = np.linspace(0, 299, 64).astype(int)
    changed[read_by_digest] = X[read_by_digest]
    with pytest.raises(InputError, match="belongs to other rows"):
        svm.fit(changed, y)
    resumed = svm.fit(X, y, runner=killed_after(1))
    assert np.array_equal(resumed.coef_, whole.coef_)
    assert (resumed.dual_gap_, resumed.n_passes_) == (whole.dual_gap_, whole.n_passes_)


def test_a_damaged_checkpoint_is_an_error(tmp_path):
    X, y = draw((200, 40), 2)
    svm = WideLinearSVC(solver="passes", checkpoint=tmp_path / "state")
    with pytest.raises(Killed):
        svm.fit(X, y, runner=killed_after(2))
    content = bytearray((tmp_path / "state").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(InputError, match=r"state is damaged \(.*\): remove it, or give another path"):
        svm.fit(X, y)


def test_another_file_is_not_replaced(tmp_path):
    X, y = draw((50, 10), 2)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is no checkpoint"):
        WideLinearSVC(solver="passes", checkpoint=tmp_path / "thesis.txt").fit(X, y)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def big(tmp_path, n, p, block=2000):
    """Write rows block by block, and return the paths of rows and labels."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n)
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (n, p))
    centres = rng.normal(size=(3, p)).astype(np.float32)
    for start in range(0, n, block):
        own = y[start : start + block]
        noise = rng.standard_normal((len(own), p), dtype=np.float32)
        x[start : start + block] = (0.1 * centres[own] + noise) / np.float32(np.sqrt(p))
    np.save(tmp_path / "y.npy", y)
    return tmp_path / "x.npy", tmp_path / "y.npy"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    x, y = big(tmp_path, 50_000, 1000)
    child = start_python(FIT, x, y, "", 0.5, tmp_path / "coef.npy")
    found = json.loads(child.communicate()[0])
    assert x.stat().st_size == pytest.approx(200e6, rel=0.01)
    assert found["gap"] <= 0.5
    assert found["peak"] < 120 << 20
    assert found["peak"] < memory_of_passes(50_000, 1000, 3, usable_processors().number)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL")
def test_a_killed_process_goes_on_with_the_same_bits(tmp_path):
    x, y = big(tmp_path, 20_000, 1000)
    arguments = (x, y, tmp_path / "state", 1e-4)
    child = start_python(FIT, x, y, "", 1e-4, tmp_path / "whole.npy")
    whole = json.loads(child.communicate()[0])
    kills, last = 0, None
    while kills < 4:  # each time after a new state
        child = start_python(FIT, *arguments, tmp_path / "resumed.npy")
        while child.poll() is None:
            now = (tmp_path / "state").stat().st_mtime_ns if (tmp_path / "state").exists() else None
            if now is not None and now != last:
                time.sleep(0.02)
                child.send_signal(signal.SIGKILL)
                last, kills = now, kills + 1
                break
            time.sleep(0.005)
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
    child = start_python(FIT, *arguments, tmp_path / "resumed.npy")
    resumed = json.loads(child.communicate()[0])
    assert resumed["passes"] == whole["passes"] > 5
    assert np.array_equal(np.load(tmp_path / "whole.npy"), np.load(tmp_path / "resumed.npy"))
    assert not (tmp_path / "state").exists()


def test_a_new_run_removes_what_a_killed_one_left(tmp_path, rng):
    """Not the file of a process that lives, and not that of another checkpoint."""
    x = mapped(rng.normal(size=(30, 4)).astype(np.float32), tmp_path / "x.npy")
    names = [".state." + "0" * 32 + ".part", ".state2." + "0" * 32 + ".part", ".state." + "1" * 32 + ".part"]
    left, other, alive = (tmp_path / name for name in names)
    for file in (left, other, alive):
        file.write_bytes(b"half")
    with alive.open("r+b") as file:
        try_lock(file)
        WideLinearSVC(solver="passes", checkpoint=tmp_path / "state").fit(x, np.arange(30) % 2)
    assert not left.exists()
    assert other.exists()
    assert alive.exists()
