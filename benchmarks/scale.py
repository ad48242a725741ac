"""Measure memory against the number of images: write a synthetic store, open it, and encode it into files.

    python benchmarks/scale.py --images 10000,100000 --folder FOLDER

Each number of images gets two new processes: one writes, the other opens, fits and encodes. The result is
their peak resident memory. It includes the shard being read, which is memory-mapped, but not the encoded
images, which are written to a file. The exit status is 1 if memory grew by more than the lists of images (72
bytes each, and as much again for sorting) and the noise of allocation.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

BYTES_AN_IMAGE = 160
NOISE = 24 << 20
NON_ZERO = 0.12


class Keys(Sequence):
    """Keys of the images, made on access, because a list would take 120 bytes for each."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i >= self.n:
            raise IndexError(i)
        return f"{i:064x}"


def peak():
    """Return the peak resident bytes of this process. ru_maxrss would include the peak of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def write(store, n_images, rows, features):
    import numpy as np

    from medvlad.store.store import DescriptorStore

    rng = np.random.default_rng(0)
    section = DescriptorStore(store).section({"made by": "benchmarks/scale.py"})
    with section.writer() as writer:
        for key in Keys(n_images):
            values = np.zeros(rows * features, np.float32)
            places = rng.integers(0, values.size, round(NON_ZERO * values.size))
            values[places] = rng.random(len(places), np.float32)
            writer.add(key, values.reshape(rows, features))
    return {"store_bytes": section.n_bytes()}


def encode(store, n_images, clusters, max_samples):
    from medvlad.encoders.pooling import GlobalPool
    from medvlad.encoders.vlad import VLAD
    from medvlad.store.store import DescriptorStore
    from medvlad.store.stored_descriptors import StoredDescriptors

    figures = {"peak_import": peak()}

    def timed(name, function, *arguments):
        begin = time.perf_counter()
        result = function(*arguments)
        figures[f"seconds_{name}"] = round(time.perf_counter() - begin, 2)
        figures[f"peak_{name}"] = peak()
        return result

    (section,) = timed("open", DescriptorStore(store).sections)
    stored = timed("list", StoredDescriptors, section, Keys(n_images))
    vlad = VLAD(clusters, random_state=0, max_samples=max_samples, max_iter=10)
    timed("fit", vlad.fit, stored)
    timed("vlad", vlad.transform_to_file, stored, store / "vlad.npy")
    timed("avg", GlobalPool().fit(stored).transform_to_file, stored, store / "avg.npy")
    return figures


def run(folder, n_images, arguments):
    """Return the measurements for one number of images."""
    figures = {"images": n_images}
    with tempfile.TemporaryDirectory(dir=folder) as store:
        for part in ("write", "encode"):
            command = [sys.executable, __file__, "--part", part, "--images", str(n_images), "--folder", store]
            for name in ("rows", "features", "clusters", "max_samples"):
                command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
            begin = time.perf_counter()
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            figures |= json.loads(done.stdout)
            figures[f"seconds_{part}"] = round(time.perf_counter() - begin, 2)
    return figures


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", default="10000,40000", help="numbers of images, smallest first")
    parser.add_argument("--rows", type=int, default=49, help="number of descriptors of an image")
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--clusters", type=int, default=8)
    parser.add_argument("--max-samples", type=int, default=40_000)
    parser.add_argument("--folder", type=Path, help="folder on a large disk (default: temporary)")
    parser.add_argument("--part", choices=("write", "encode"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    numbers = [int(number) for number in arguments.images.split(",")]
    if arguments.part == "write":
        figures = write(arguments.folder, numbers[0], arguments.rows, arguments.features)
        print(json.dumps(figures | {"peak_write": peak()}))  # noqa: T201
        return 0
    if arguments.part == "encode":
        print(json.dumps(encode(arguments.folder, numbers[0], arguments.clusters, arguments.max_samples)))  # noqa: T201
        return 0
    results = []
    for n_images in numbers:
        results.append(run(arguments.folder, n_images, arguments))
        print(json.dumps(results[-1]), flush=True)  # noqa: T201
    first, last = results[0], results[-1]
    allowed = NOISE + BYTES_AN_IMAGE * (last["images"] - first["images"])
    grown = {name: last[name] - first[name] for name in first if name.startswith("peak")}
    print(json.dumps({"grown": grown, "allowed": allowed}))  # noqa: T201
    return int(max(grown.values()) > allowed)


if __name__ == "__main__":
    sys.exit(main())
