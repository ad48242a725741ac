"""Python threads that share arrays and estimators: each gets the same bits as a single thread.

With the GIL they overlap wherever compiled code has released it; on a free-threaded Python they overlap
everywhere, and no module of this package may bring the GIL back.
"""

import os
import subprocess
import sys
import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.convnets import chain, pictures
from support.levels import skip_unless_here

import medvlad as mv
from medvlad.backends import native
from medvlad.extraction.engines.winograd import ConvNet

CALLERS = 6
ROUNDS = 2
REPEATS = 5

#: Code for the first use by several threads at once: imports, choice of a level, timing of bf16.
FIRST_USE = """
import threading
import numpy as np

x = np.random.default_rng(0).random((6, 40, 32), np.float32)
start, results = threading.Barrier(6), []

def first_use():
    start.wait()
    import medvlad as mv
    labels = mv.assign(x[0], x[1], n_threads=2)
    results.append(labels.tobytes() + mv.VLAD(4, random_state=0).fit_transform(x).tobytes())

threads = [threading.Thread(target=first_use) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(results), len(set(results)))
"""

#: Code that imports every compiled module in turn. An import that enables the GIL also warns.
COMPILED = """
import importlib, sys
from medvlad.backends import native

for name in ("_blas", *(f"_native_{level}" for level in native.available_levels())):
    importlib.import_module(f"medvlad.backends.{name}")
    assert not sys._is_gil_enabled(), name
print("off")
"""


def python(code, tmp_path):
    """Run code in a new interpreter with warnings as errors, and without settings of the GIL."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.fixture
def eager_switches():
    """Switch between Python threads as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def calls(rng):
    """Return functions of the caller's number. Each has its own data, so that mixed memory is found."""
    x = np.maximum(rng.normal(-0.5, 1, (CALLERS, 30, 25, 48)), 0).astype(np.float32)
    centers = x[:, 0].reshape(-1, 48)[:33].copy()
    soft = mv.VLAD(5, assignment="soft", random_state=0).fit(x[0])
    net, images = ConvNet(chain(rng, 3, 32, 0, 300, 20)), pictures(rng, CALLERS, 32, 32, 3)
    how = {"power": 0.5, "intra_norm": True}
    return [
        lambda i: mv.assign(x[i].reshape(-1, 48), centers, n_threads=2),
        lambda i: mv.vlad_encode(x[i], centers, n_threads=1, **how),
        lambda i: mv.vlad_encode(x[i], centers, n_threads=2, **how),
        lambda i: mv.VLAD(6, random_state=i, n_threads=2, **how).fit(x[0]).transform(x[i]),
        lambda i: soft.transform(x[i]),
        lambda i: net.run(images[i : i + 1], n_threads=1),
        lambda i: net.run(images[i : i + 1], n_threads=2),
    ]


@pytest.mark.parametrize("level", native.LEVELS)
def test_each_thread_gets_the_bits_of_a_single_thread(level, rng, monkeypatch, eager_switches):
    skip_unless_here(level)
    monkeypatch.setenv("MEDVLAD_SIMD", level)
    work = calls(rng)
    alone = [[call(caller).tobytes() for caller in range(CALLERS)] for call in work]
    together = threading.Barrier(CALLERS, timeout=120)

    def run(caller):
        wrong = []
        for step in range(ROUNDS * len(work)):
            # All threads do the same in one round, and different things in the next.
            shift = caller if step // len(work) % 2 else 0
            turn = (step + shift) % len(work)
            together.wait()
            results = {work[turn](caller).tobytes() for _ in range(REPEATS)}
            if results != {alone[turn][caller]}:
                wrong.append(turn)
        return wrong

    with ThreadPoolExecutor(CALLERS) as pool:
        assert list(pool.map(run, range(CALLERS))) == [[]] * CALLERS


def test_several_threads_may_use_the_package_first(tmp_path):
    assert python(FIRST_USE, tmp_path) == "6 1"


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL")
def test_the_gil_stays_off(tmp_path):
    assert python(COMPILED, tmp_path) == "off"
