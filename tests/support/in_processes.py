"""Scenarios of the native backend with processes, signals and interpreters, one function each.

test_processes.py runs each scenario in a new Python process, checks its output, and ends it if it hangs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import multiprocessing
import os
import signal
import sys
import threading
import time

import joblib
import numpy as np
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import medvlad as mv
from medvlad.backends import native
from medvlad.extraction.engines.winograd import ConvNet, Convolution, Pooling

#: Time limit of a forked process in seconds. It needs a tenth of a second.
PATIENCE = 20
FORKS = 25


def problem():
    """Return descriptors of 30 images, centres, a network and images for it."""
    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(-0.3, 1, (30, 40, 48)), 0).astype(np.float32)
    layers = [
        Convolution(rng.normal(size=(3, 3, c, d)).astype(np.float32), np.zeros(d, np.float32))
        for c, d in ((3, 32), (32, 300))
    ]
    return x, x[0, :33].copy(), ConvNet([*layers, Pooling()]), rng.random((2, 12, 12, 3)).astype(np.float32)


PROBLEM = problem()


def bits(n_threads: int = 2) -> str:
    """Return a digest of the results of all functions that use threads."""
    x, centers, net, images = PROBLEM
    results = [
        mv.assign(x.reshape(-1, 48), centers, n_threads=n_threads),
        mv.vlad_encode(x, centers, power=0.5, intra_norm=True, n_threads=n_threads),
        mv.KMeansCodebook(7, random_state=0, n_threads=n_threads).fit(x[:6].reshape(-1, 48)).cluster_centers_,
        net.run(images, n_threads=n_threads),
    ]
    return hashlib.sha256(b"".join(result.tobytes() for result in results)).hexdigest()


def end_of(child: int) -> str:
    """Return the exit status of a forked process. End it if it hangs."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return str(os.waitstatus_to_exitcode(status))
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"


def fork() -> None:
    """A child of a process that has used threads computes the same bits and ends normally."""
    before = bits()
    child = os.fork()
    if child == 0:
        sys.exit(0 if bits() == before else 1)
    print(end_of(child), bits() == before)


def fork_among_threads() -> None:
    """The same, while other threads of the parent are running in the backend."""
    before = bits()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            bits()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    ends = []
    for _ in range(FORKS):
        child = os.fork()
        if child == 0:
            os._exit(0 if bits() == before else 1)
        ends.append(end_of(child))
        if ends[-1] != "0":
            break
    stop.set()
    for thread in threads:
        thread.join()
    print(len(ends), *sorted(set(ends)))


def pools(methods: list[str]) -> None:
    """Pools of multiprocessing give the same bits after the parent has used threads."""
    before = bits()
    for method in methods:
        with multiprocessing.get_context(method).Pool(2) as processes:
            print(method, set(processes.map(bits, [1, 2, 3])) == {before})


def parallel() -> None:
    """Processes and threads of joblib, and grid searches in two processes and in one, give the same bits."""
    before = bits()
    for backend in ("threading", "loky"):
        found = joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(bits)(n) for n in (1, 2, 3))
        print(backend, set(found) == {before})
    x, labels = PROBLEM[0], np.arange(30) % 3
    pipeline = make_pipeline(mv.VLAD(4, random_state=0, n_threads=2), mv.WideLinearSVC())
    choices = {"vlad__n_clusters": [3, 5], "widelinearsvc__C": [0.1, 1.0]}
    scores = []
    for n_jobs in (1, 2):
        search = GridSearchCV(pipeline, choices, cv=3, n_jobs=n_jobs, error_score="raise").fit(x, labels)
        scores.append([search.cv_results_[f"split{i}_test_score"].tolist() for i in range(3)])
        scores.append(search.decision_function(x).tolist())
    print("search", scores[:2] == scores[2:])


def interrupt() -> None:
    """Ctrl-C during k-means: print the seconds until Python receives it. All works afterwards."""
    before = bits()
    x = np.random.default_rng(0).random((60_000, 32), np.float32)
    pressed = []

    def press() -> None:
        time.sleep(0.5)
        pressed.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    try:
        mv.KMeansCodebook(256, max_iter=100_000, tol=0, random_state=0, n_threads=2).fit(x)
        print("came to its end")
    except KeyboardInterrupt:
        print(f"{time.perf_counter() - pressed[0]:.3f}", bits() == before)


def end_among_daemons(seconds: float) -> None:
    """The interpreter ends while daemon threads are in native calls."""
    x, centers = np.random.default_rng(0).random((200_000, 32), np.float32), PROBLEM[1][:, :32].copy()

    def work() -> None:
        while True:
            native.assign(x, centers, n_threads=2)
            bits()

    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(seconds)
    print("ends")


def end_among_threads() -> None:
    """The interpreter waits for threads in native calls at the end of the program."""
    before = bits()
    threading.Thread(target=lambda: (time.sleep(0.2), print(bits() == before))).start()


def interpreter() -> None:
    """A subinterpreter loads the package, and the module alone, or reports an error."""
    before = bits()
    name = f"medvlad.backends._native_{native.level()}"
    path = importlib.util.find_spec(name).origin
    print(said_elsewhere("import medvlad as mv; mv.assign([[1.0]], [[0.0]])"))
    if sys.version_info >= (3, 12):
        # By its path, because NumPy, which the package imports first, does not support subinterpreters.
        load = f"import importlib.util as u; spec = u.spec_from_file_location({name!r}, {path!r})"
        print(said_elsewhere(f"{load}; u.module_from_spec(spec).supported_levels()"))
    print(bits() == before)


def said_elsewhere(code: str) -> str:
    """Run code in a new subinterpreter. Return "works" or the error."""
    try:
        import _interpreters as interpreters  # Python 3.13
    except ImportError:
        import _xxsubinterpreters as interpreters
    other = interpreters.create()
    try:
        failed = interpreters.run_string(other, code)
    except Exception as error:  # Python before 3.13 raises the error instead of returning it
        return one_line(str(error))
    finally:
        interpreters.destroy(other)
    return "works" if failed is None else one_line(failed.formatted)


def one_line(message: str) -> str:
    """Return the first and the last line of a message, because NumPy's is a page long."""
    every = message.strip().splitlines()
    return " ... ".join(dict.fromkeys([every[0], every[-1]]))
