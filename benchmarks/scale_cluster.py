"""Measure k-means and encoding on four Dask workers: memory of each process, speed, and equal bits.

    python benchmarks/scale_cluster.py --images 50000,200000 --folder FOLDER

Each number of images gets a synthetic store, and a scheduler and workers in processes of their own. k-means
reads all descriptors in each pass. One worker is killed with SIGKILL in the second pass. Then all images are
encoded. The same is done in this process, and the bits are compared. The exit status is 1 if they differ, or
if the scheduler's memory grew from the first pass of k-means to the last one by more than the noise. The
vectors of the encoding pass through the scheduler, a few jobs at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from scale import Keys, peak, write

NOISE = 4 << 20


def resident(which):
    """Return VmRSS or VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{which}:"))


@contextlib.contextmanager
def processes(n_workers, folder):
    """Start a scheduler and workers. Yield the address of the scheduler."""
    file = folder / "scheduler.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    dask = [sys.executable, "-m", "dask"]
    options = {"cwd": folder, "env": environment, "stderr": subprocess.DEVNULL}
    where = ["--scheduler-file", str(file), "--no-dashboard"]
    worker = [*dask, "worker", *where, "--nthreads", "1", "--memory-limit", "0"]
    running = [
        subprocess.Popen([*dask, "scheduler", "--port", "0", "--host", "127.0.0.1", *where], **options)
    ]
    running += [
        subprocess.Popen([*worker, "--local-directory", str(folder / f"worker{i}")], **options)
        for i in range(n_workers)
    ]
    try:
        from distributed import Client

        with Client(scheduler_file=str(file), timeout=120, set_as_default=False) as client:
            client.wait_for_workers(n_workers, timeout=120)
            yield client
    finally:
        for process in reversed(running):
            process.terminate()
        for process in reversed(running):
            process.wait(60)


def work(source, arguments, after_pass):
    """Fit and encode. Return the centres, the inertia path, a checksum of the vectors and the seconds."""
    import zlib

    from medvlad.encoders.vlad import VLAD

    begin = time.perf_counter()
    vlad = VLAD(
        arguments.clusters,
        max_samples=None,
        max_iter=arguments.passes,
        random_state=0,
        n_threads=1,
    ).fit(source)
    fitted = time.perf_counter()
    checksum = 0
    for _, vectors in vlad.transform_blocks(source):
        checksum = zlib.crc32(vectors, checksum)
    done = time.perf_counter()
    after_pass("encoding")
    found = (vlad.cluster_centers_.tobytes(), vlad.codebook_.inertia_path_.tobytes(), checksum)
    n_passes = len(vlad.codebook_.inertia_path_)
    return found, {"seconds_fit": round(fitted - begin, 1), "seconds_encode": round(done - fitted, 1)} | {
        "passes": n_passes,
        "images_per_second_fit": round(len(source) * n_passes / (fitted - begin)),
        "images_per_second_encode": round(len(source) / (done - fitted)),
    }


def measure(n_images, arguments):
    """Return the figures of one number of images."""
    from medvlad._util.passes import run_here
    from medvlad.distributed.cluster import Cluster
    from medvlad.distributed.passes import ClusterRunner
    from medvlad.store.store import DescriptorStore
    from medvlad.store.stored_descriptors import StoredDescriptors

    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        write(folder / "store", n_images, arguments.rows, arguments.features)
        (section,) = DescriptorStore(folder / "store").sections()
        stored = StoredDescriptors(section, Keys(n_images))
        figures = {"images": n_images, "bytes_dense": stored.nbytes}
        with processes(arguments.workers, folder) as client:
            runner, path, killed = ClusterRunner(Cluster(client, "the cluster", False, 1)), [], []

            def look(stage):
                path.append(client.run_on_scheduler(resident, "VmRSS"))

            def deadly(shared, jobs):
                """Run a pass. Kill a worker in the middle of the second one."""
                for n, result in enumerate(runner(shared, jobs)):
                    yield result
                    if len(path) == 2 and n == len(jobs) // 3 and not killed:
                        killed.append(next(iter(client.run(os.getpid).values())))
                        os.kill(killed[0], signal.SIGKILL)
                look("pass")

            look("idle")
            found, seconds = work(stored.on(deadly), arguments, look)
            figures |= seconds | {
                "jobs_a_pass": len(list(stored.cut(32 << 20, 8192))),
                "killed_workers": len(killed),
                "scheduler_idle": path[0],
                "scheduler_after_each_pass": path[1 : 1 + seconds["passes"]],
                "scheduler_after_encoding": path[-1],
                "scheduler_peak": client.run_on_scheduler(resident, "VmHWM"),
                "worker_peak": max(client.run(resident, "VmHWM").values()),
                "client_peak": peak(),
            }
        expected, here = work(stored.on(run_here), arguments, lambda stage: None)
        return figures | {"here": here, "equal_bits": found == expected}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", default="50000,200000", help="numbers of images, smallest first")
    parser.add_argument("--rows", type=int, default=4, help="number of descriptors of an image")
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--clusters", type=int, default=16)
    parser.add_argument("--passes", type=int, default=4, help="maximum number of Lloyd steps")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="folder on a large disk (default: temporary)")
    arguments = parser.parse_args()
    results = []
    for number in arguments.images.split(","):
        results.append(measure(int(number), arguments))
        print(json.dumps(results[-1]), flush=True)  # noqa: T201
    grown = max(path[-1] - path[0] for path in (one["scheduler_after_each_pass"] for one in results))
    print(json.dumps({"scheduler_grown": grown, "allowed": NOISE}))  # noqa: T201
    are_right = all(one["equal_bits"] and one["killed_workers"] == 1 for one in results)
    return int(grown > NOISE or not are_right)


if __name__ == "__main__":
    sys.exit(main())
