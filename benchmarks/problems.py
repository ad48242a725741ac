"""The problems that are timed: synthetic or real descriptors, images and centres.

Real descriptors are extracted once and cached in the folder MEDVLAD_BENCH_CACHE (default: the user's cache
folder). The images are those of the tests: MEDVLAD_DATA, or ../shared/data beside the checkout.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

DIMENSION = 512
#: Number of descriptors of an image (scales 0, 1 and 2) -> number of images, for about 12,000 rows each.
N_IMAGES = {49: 245, 289: 41, 729: 17}
SIZES = tuple(N_IMAGES)
#: Number of rows of the larger problems. They do not fit into a cache of usual size.
LARGE_ROWS = 60_000
N_CENTERS = (64, 256)
IMAGES_CHECKED = 8

DATA = Path(os.environ.get("MEDVLAD_DATA", Path(__file__).parents[2] / "shared" / "data"))
_FOLDERS = {"chest": "chest_xray_224/test", "rooms": "rooms_dev"}


class Case(NamedTuple):
    """Name and size of a problem."""

    data: str
    n: int
    k: int

    def __str__(self):
        return f"{self.data}-{self.n}-{self.k}"


#: The chest X-rays have 224 x 224 pixels. Larger scales would only interpolate them.
CASES = [
    Case(data, n, k)
    for data in ("synthetic", "chest", "rooms")
    for n in SIZES
    for k in N_CENTERS
    if data != "chest" or n == 49
]


#: Dense and clustered rows, with scales 1 and 2. Most rows have many numbers that are not zero.
CASES += [Case(data, n, 256) for data in ("dense", "clustered") for n in (289, 729)]
#: Assignment alone does not depend on the images.
ASSIGN_CASES = [Case(data, 1, k) for data in ("sparse", "dense", "clustered") for k in N_CENTERS]
ASSIGN_CASES += [Case("rooms", 729, 256)]


class Unavailable(Exception):
    """A problem cannot be made here. The message gives the reason."""


def make(case, n_images=None):
    """Return descriptors (N, D), offsets (B + 1,) and centres (K, D) of a case."""
    if n_images is None:
        n_images = LARGE_ROWS // case.n if case.data in MADE_LARGE else N_IMAGES[case.n]
    if case.data in MADE:
        n_rows = n_images * case.n
        x = MADE[case.data](n_rows)
        # Enough rows for all centres, even if a test asks for few images.
        of = x if n_rows >= case.k else MADE[case.data](case.k)
        centers = of[np.random.default_rng(1).choice(len(of), case.k, replace=False)].copy()
    else:
        x = real_descriptors(case.data, case.n, n_images)
        n_images = len(x) // case.n
        centers = fitted_centers(x, case)
    return x, np.arange(n_images + 1, dtype=np.int64) * case.n, centers


def synthetic_descriptors(n_rows):
    """Return rows like those of block5_pool: 512 numbers, not negative, about a quarter of them not zero."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n_rows, DIMENSION), np.float32)
    x -= np.float32(0.64)
    return np.maximum(x, 0, out=x)


def clustered_descriptors(n_rows, n_prototypes=1000):
    """Return rows scattered around prototypes, both rectified. k-means finds clusters in such data."""
    rng = np.random.default_rng(0)
    prototypes = np.maximum(rng.normal(-0.64, 1, (n_prototypes, DIMENSION)), 0).astype(np.float32)
    x = prototypes[rng.integers(n_prototypes, size=n_rows)]
    for start in range(0, n_rows, 8192):
        block = x[start : start + 8192]
        block += 0.5 * rng.standard_normal(block.shape, np.float32)
        np.maximum(block, 0, out=block)
    return x


def dense_descriptors(n_rows):
    """Return rows of Gaussian numbers. None is zero, and no two centres are much nearer than others."""
    return np.random.default_rng(0).standard_normal((n_rows, DIMENSION), np.float32)


#: Kinds of rows that are computed, and those of which LARGE_ROWS are used.
MADE = {
    "synthetic": synthetic_descriptors,
    "sparse": synthetic_descriptors,
    "dense": dense_descriptors,
    "clustered": clustered_descriptors,
}
MADE_LARGE = ("sparse", "dense", "clustered")


def cache_folder():
    """Return the folder of the cache. It is created if necessary."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medvlad-benchmarks"
    folder = Path(os.environ.get("MEDVLAD_BENCH_CACHE") or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def real_descriptors(data, n, n_images):
    """Return block5_pool descriptors of VGG16 with ImageNet weights, for at most `n_images` random images."""
    folder, weights = DATA / _FOLDERS[data], DATA.parent / "weights" / "vgg16_imagenet_notop.weights.h5"
    for path in (folder, weights):
        if not path.exists():
            raise Unavailable(f"{path.name} is not in MEDVLAD_DATA or beside it")
    if find_spec("keras") is None:
        raise Unavailable("Keras is not installed (extra tensorflow)")
    images = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if len(images) < n_images // 2:
        raise Unavailable(f"{folder.name} holds {len(images)} images, too few for a problem of {n_images}")
    images = [images[i] for i in np.random.default_rng(0).permutation(len(images))[:n_images]]
    names = "\n".join(str(p.relative_to(folder)) for p in images)
    key = hashlib.sha256(names.encode()).hexdigest()[:12]
    kept = cache_folder() / f"vgg16-{data}-{n}-{key}.npy"
    if not kept.exists():
        # In another process, so that TensorFlow's threads do not disturb the measurements.
        script = Path(__file__).with_name("extract.py")
        command = [sys.executable, script, "--weights", weights, "--scale", SIZES.index(n), "--out", kept]
        subprocess.run([*map(str, command), *map(str, images)], check=True)
    return np.load(kept)


def fitted_centers(x, case):
    """Return centres of a few steps of k-means on the descriptors. They are cached with the descriptors."""
    digest = hashlib.sha256(np.ascontiguousarray(x[:: max(len(x) // 64, 1)]).tobytes()).hexdigest()[:12]
    kept = cache_folder() / f"centers-{case.data}-{case.n}-{case.k}-{len(x)}-{digest}.npy"
    if not kept.exists():
        from medvlad import KMeansCodebook

        np.save(kept, KMeansCodebook(case.k, max_iter=5, random_state=0).fit(x).cluster_centers_)
    return np.load(kept)
